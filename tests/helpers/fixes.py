"""Holds what messages advise to docs/reference/output.md: commands in backticks, which work as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import click
from manyhost import cli

# Commands that are advised alone, and the test that runs each as it stands on the fault that it cures.
CURES = {
    "kubectl create namespace ": "tests/e2e/test_doctor.py::test_faults_in_a_namespace",
    "kubectl create secret generic ": "tests/e2e/test_doctor.py::test_faults_in_a_namespace",
    "kubectl patch secret ": "tests/e2e/test_doctor.py::test_faults_in_a_namespace",
    "manyhost discover ": "tests/e2e/test_doctor.py::test_discover",
    "manyhost deploy ": "tests/e2e/test_life.py::test_what_was_changed_in_the_cluster_is_shown_and_put_back",
}
_COMMAND = re.compile(r"`([^`]*)`")
_CAPITALS = re.compile(r"(?<![\w$={:.])[A-Z][A-Z_]{2,}(?![\w:])")
# Flags that take a value, and those that take none, of the kubectl verbs that we advise (kubectl v1.35).
_EVERYWHERE = {"--namespace", "--context"}
_KUBECTL: dict[str, tuple[set[str], set[str]]] = {
    "annotate": (set(), {"--overwrite"}),
    "apply": ({"-f"}, {"--server-side", "--force-conflicts"}),
    "auth can-i": (set(), {"--list"}),
    "cluster-info": (set(), set()),
    "create namespace": (set(), set()),
    "create role": ({"--verb", "--resource"}, set()),
    "create rolebinding": ({"--role", "--user"}, set()),
    "create secret generic": ({"--from-literal"}, set()),
    "delete": (set(), set()),
    "describe": (set(), set()),
    "get": ({"--label-columns", "--output", "-o", "--selector"}, {"--all-namespaces"}),
    "label": (set(), set()),
    "logs": ({"-c"}, {"--previous"}),
    "patch": ({"--type", "-p"}, set()),
    "scale": ({"--replicas"}, set()),
    "set image": (set(), set()),
    "uncordon": (set(), set()),
}
BARE = re.compile(
    rf"\bkubectl ({'|'.join(sorted({verb.split()[0] for verb in _KUBECTL}))}) "
    r"|\bhelm (install|list|rollback|upgrade|uninstall) [\w-]|\bgcloud [a-z]"
    rf"|\bmanyhost ({'|'.join(cli.COMMANDS)})\b"
)
# What is in no namespace, by the word behind the verb, and verbs that are about nothing in one.
_OUTSIDE = re.compile(
    r"(annotate crd|apply|cluster-info|uncordon|create namespace|label namespace|describe namespace"
    r"|(get|describe|delete) (nodes?|networks|gkenetworkparamsets|mutatingwebhook|validatingwebhook)\w*"
    r"|(get|describe) (priorityclasses|runtimeclasses|validatingadmissionpolicies)"
    r"|get \S+ --all-namespaces)\b"
)


def commands(fix: str) -> list[str]:
    """Return the commands of a fix."""
    return _COMMAND.findall(fix)


def cures(fix: str) -> bool:
    """Say whether a fix is a command alone, which a program may run."""
    return bool(re.fullmatch(r"`[^`]+`", fix))


def check(fix: str, *, context: str = "") -> None:
    """Assert that a fix keeps the convention.

    Args:
        fix: The fix.
        context: The context that its commands must name; empty for any.
    """
    assert fix.count("`") % 2 == 0, fix
    words = _COMMAND.sub("", fix)
    assert not BARE.search(words), f"a command without backticks: {fix}"
    for line in commands(fix):
        for part in line.split(" && "):
            parse(part, context=context)
    if cures(fix):
        assert not _CAPITALS.search(fix), f"a word that somebody has to fill in: {fix}"
        assert any(re.match(rf"`\S*{start}", fix) for start in CURES), f"no test has run it: {fix}"


def parse(line: str, *, context: str = "") -> None:
    """Assert that a program would take a command line; it is not run."""
    program, *words = shlex.split(line)
    if program == "kubectl":
        _kubectl(line, words, context)
    elif program == "helm":
        assert words[0] in {"install", "rollback", "uninstall", "list", "upgrade"}, line
        assert "--namespace" in words, line
        assert not context or words[-2:] == ["--kube-context", context], line
    elif program.rpartition("/")[2] == "manyhost":
        _manyhost(line, words, context)
    else:
        assert program in {"gcloud", "hf"}, line


def in_document(document: Any) -> Iterator[str]:
    """Yield every fix in what a program reads."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "fix" and value:
                yield value
            else:
                yield from in_document(value)
    elif isinstance(document, list):
        for value in document:
            yield from in_document(value)


def _kubectl(line: str, words: list[str], context: str) -> None:
    verb = max((v for v in _KUBECTL if " ".join(words).startswith(v)), key=len, default="")
    assert verb, f"not a verb that we know: {line}"
    valued, plain = _KUBECTL[verb]
    given: dict[str, str] = {}
    rest: list[str] = []
    following = iter(words[len(verb.split()) :])
    for word in following:
        name, equals, value = word.partition("=")
        if name in valued | _EVERYWHERE and word.startswith("-"):
            given[name] = value if equals else next(following)
        elif word.startswith("-"):
            assert word in plain, f"{word}: {line}"
        else:
            rest.append(word)
    if verb in {"describe", "delete", "patch"}:  # of a kind, which one: all of a kind are never deleted
        assert len(rest) >= (
            1 if rest[0] in {"nodes", "quota", "limitrange", "validatingadmissionpolicies"} else 2
        ), line
    if not _OUTSIDE.match(" ".join(words)):
        assert "--namespace" in given, f"no namespace: {line}"
    if context:
        assert given.get("--context") == context, f"no context: {line}"


def _manyhost(line: str, words: list[str], context: str) -> None:
    parent = click.Context(cli.main, **cli.main.context_settings)
    if words[-1] == "--help":
        return
    command = cli.main.get_command(parent, words[0])
    assert command, line
    parsed = command.make_context(words[0], words[1:], parent=parent).params
    assert parsed.get("recipe", parsed.get("environment", "x")), line
    if "namespace" in parsed:
        assert parsed["namespace"], f"no namespace: {line}"
    if context and "context" in parsed:
        assert parsed["context"] == context, f"no context: {line}"
