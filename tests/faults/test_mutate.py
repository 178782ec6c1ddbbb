"""The tool that asks whether tests notice a change: what it changes, and that it can tell."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tools import mutate

GO = """{{- /* a comment with 1 number */}}
{{- if .Values.on }}
# a comment with 2 numbers
replicas: {{ int64 3 }}
kind: "Service"
{{- end }}
"""
PYTHON = '''
def smaller(a, b):
    """Not changed: 1."""
    if a and a < b:
        raise ValueError("not a sentence")
    return a + 1
'''


def test_changes_of_a_template() -> None:
    changed = {GO[:start] + text + GO[end:] for start, end, text in mutate.template_changes(GO)}
    assert changed == {
        GO.replace("if .Values.on", "if not (.Values.on)"),
        GO.replace("replicas: {{ int64 3 }}\n", ""),
        GO.replace("int64 3", "int64 4"),
        GO.replace('kind: "Service"\n', ""),
        GO.replace('"Service"', '"Servicex"'),
    }


def test_changes_of_python() -> None:
    changed = {PYTHON[:start] + text + PYTHON[end:] for start, end, text in mutate.python_changes(PYTHON)}
    assert changed == {
        PYTHON.replace("a and a < b", "(a or a < b)"),
        PYTHON.replace("a and a < b", "(not (a and a < b))"),
        PYTHON.replace("a < b", "(a <= b)"),
        PYTHON.replace('raise ValueError("not a sentence")', "pass"),
        PYTHON.replace("a + 1", "(a - 1)"),
        PYTHON.replace("a + 1", "a + 2"),
        PYTHON.replace("return a + 1", "return None"),
    }


def test_the_product_has_places_to_change_and_each_is_still_a_program() -> None:
    mutants = mutate.mutants(mutate.ROOT, [])
    assert {Path(mutant.path).suffix for mutant in mutants} >= {".py", ".tpl", ".yaml", ".j2"}
    assert mutants == mutate.mutants(mutate.ROOT, [])
    sources = {path: (mutate.ROOT / path).read_text() for path in {mutant.path for mutant in mutants}}
    ends = {path: _ends(source) for path, source in sources.items() if path.endswith(".py")}
    for mutant in mutants:
        source = sources[mutant.path]
        assert mutant.apply(source) != source
        if mutant.path.endswith(".py"):
            # The statement of the module that it is in: the others are as they were.
            first = max(end for end in ends[mutant.path] if end <= mutant.start)
            last = min(end for end in ends[mutant.path] if end >= mutant.end)
            ast.parse(source[first : mutant.start] + mutant.text + source[mutant.end : last])


def _ends(source: str) -> list[int]:
    """Where the statements of a module end."""
    lines = [0, *(match.end() for match in re.finditer(r"\n|\Z", source))]
    return [0, *(lines[statement.end_lineno or 0] for statement in ast.parse(source).body)]


def test_tests_that_fail_are_told_from_tests_that_pass(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert 1 + 1 == 2\n")
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert 1 + 1 == 3\n")
    assert mutate.passes(tmp_path, ("test_one.py",))
    assert not mutate.passes(tmp_path, ("test_other.py",))
