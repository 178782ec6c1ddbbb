"""Every command that the program can advise, found in its source: also those that no other test brings about.

What tests do bring about is held to the same rules there (tests/conftest.py, tests/helpers/output.py).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.cluster import gke
from manyhost.commands import Commands

from tests.helpers import fixes
from tests.helpers.cli import ROOT

PACKAGE = ROOT / "generator/manyhost"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HERE = Commands(context="c", namespace="n", recipe="local", release="r")
LOG_LINES = ("cluster/nccl.py", "manyhost nccl ")  # of the program in the pods
KNOWN = {"gke.NETWORKS": gke.NETWORKS}
BUILDERS = {"kubectl", "helm", "manyhost"}


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """The string constants of a module that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def calls() -> Iterator[tuple[str, str, list[str], str | None]]:
    """Where a command is built, by which method, its constant words ("1" for others), and its namespace."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Attribute, ast.Name)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            first = node.args[0] if node.args else None
            if name not in BUILDERS or not isinstance(first, ast.Constant):
                continue
            # More words may be options of manyhost's own, which know no "1".
            given = (a for a in node.args if name != "manyhost" or not isinstance(a, ast.Starred))
            words = [
                str(word.value) if isinstance(word, ast.Constant) else KNOWN.get(ast.unparse(word), "1")
                for word in given
            ]
            named = next((k.value for k in node.keywords if k.arg == "namespace"), None)
            namespace = named.value if isinstance(named, ast.Constant) else "other" if named else None
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}", name, words, namespace


@pytest.mark.parametrize("named", sorted(set(fixes.CURES.values())))
def test_what_is_said_to_cure_is_run_by_a_test(named: str) -> None:
    path, _, function = named.partition("::")
    body = (ROOT / path).read_text().partition(f"def {function}(")[2].partition("\ndef ")[0]
    assert "shell(" in body


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_command_is_written_by_hand(path: Path) -> None:
    """It would lack what the user has given, and the tests here would not see it."""
    for node in texts(ast.parse(path.read_text())):
        if path == PACKAGE / LOG_LINES[0] and LOG_LINES[1] in node.value:
            continue
        assert not fixes.BARE.search(node.value), f"line {node.lineno}: {node.value}"


def test_every_command_that_is_built_would_be_taken() -> None:
    found = list(calls())
    assert len(found) > 50
    for where, name, words, namespace in found:
        if name == "kubectl":
            line = HERE.kubectl(*words, namespace=namespace)
        elif name == "helm":
            line = HERE.helm(*words)
        elif words[0] in {"render", "explain", "discover", "list", "plan", "runpod", "stage"}:
            continue  # about no release; their words are the caller's
        else:
            line = HERE.manyhost(*words)
        try:
            fixes.parse(line[1:-1], context="c")
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
