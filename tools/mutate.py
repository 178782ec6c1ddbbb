"""Ask the tests whether they notice: change one place of the product at a time and see if a test fails.

    python -m tools.mutate [--seconds 240] [--seed 1] [--jobs 2] [FILE...]

Changed are the templates of the charts and of the values (conditions turned round, lines dropped, numbers
and words changed) and the Python of plan/ and render/ (comparisons, arithmetic, conditions, constants,
statements left out). A mutant is tried in a copy of the tracked files, with the tests that are for its file,
until time is up. The sample is the same for the same seed. It ends with 0 whatever it finds: a survivor is a
question (is a test missing, is the line needless, or does it make no difference?) and not an error.

A tool of ours because most of the product's decisions are in templates, which mutmut and cosmic-ray do not
know; and for the Python, mutmut forks processes that have loaded Go, and neither draws a sample or minds a
clock.
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tools.package import copy_tracked

ROOT = Path(__file__).resolve().parents[1]
# Files that are changed, and the tests that should notice; those that notice most, soonest, come first.
SOURCES = (
    ("charts/*/templates/*", ("tests/golden", "tests/charts")),
    ("generator/manyhost/render/templates/*.j2", ("tests/golden", "tests/unit/render", "tests/property")),
    (
        "generator/manyhost/render/*.py",
        (
            "tests/docs/test_generated.py",
            "tests/golden",
            "tests/unit/render",
            "tests/property",
            "tests/unit/cli/test_bad_input.py",
        ),
    ),
    (
        "generator/manyhost/plan/*.py",
        ("tests/unit/plan", "tests/golden", "tests/unit/render", "tests/property"),
    ),
)
TEST_SECONDS = 120  # a mutant that makes the tests take longer is noticed too


class Mutant(NamedTuple):
    """One change: the text between two positions of a file is replaced."""

    path: str
    start: int
    end: int
    text: str
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """Return the changed source."""
        return source[: self.start] + self.text + source[self.end :]

    def describe(self, source: str) -> str:
        """Return where it is, and the lines before and after."""
        number = source.count("\n", 0, self.start) + 1
        first = source.rfind("\n", 0, self.start) + 1
        last = source.find("\n", self.end)
        old = source[first : last if last >= 0 else len(source)]
        new = source[first : self.start] + self.text + source[self.end : first + len(old)]
        return "\n".join(
            [
                f"{self.path}:{number}",
                *(f"  - {x}" for x in old.splitlines()),
                *(f"  + {x}" for x in new.splitlines()),
            ]
        )


Change = tuple[int, int, str]


# --------------------------------------------------------------------------------- templates
_ACTION = re.compile(r"\{\{-?(.*?)-?\}\}|\{%-?(.*?)-?%\}", re.S)
_CONDITION = re.compile(r"^\s*(?:else if|elif|if)\s+(.*?)\s*$", re.S)
_BLOCK = re.compile(
    r"^\s*(if|else|elif|end|endif|for|endfor|range|with|define|block|/\*|set|macro|endmacro)\b|^\s*/\*"
)
_WORD = re.compile(
    r'(?<!include )(?<!define )"(?P<text>[^"\n]+)"|\b(?P<number>\d+)\b|\b(?P<bool>true|false)\b'
)
_COMMENT = re.compile(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}|\{#.*?#\}|(?m-s:^[ \t]*#.*$)", re.S)


def template_changes(source: str) -> Iterator[Change]:
    """Yield changes of a Go or Jinja template: conditions, whole lines, numbers, words."""
    comments = [match.span() for match in _COMMENT.finditer(source)]

    def is_comment(position: int) -> bool:
        return any(start <= position < end for start, end in comments)

    for action in _ACTION.finditer(source):
        group = 1 if action.group(1) is not None else 2
        condition = _CONDITION.match(action.group(group))
        if condition and not is_comment(action.start()):
            start = action.start(group) + condition.start(1)
            yield start, start + len(condition.group(1)), f"not ({condition.group(1)})"
    position = 0
    for line in source.splitlines(keepends=True):
        actions = [a.group(1) or a.group(2) or "" for a in _ACTION.finditer(line)]
        balanced = line.count("{{") == line.count("}}") and line.count("{%") == line.count("%}")
        if line.strip() and balanced and not is_comment(position + len(line) - len(line.lstrip())):
            if not any(_BLOCK.match(action) for action in actions):
                yield position, position + len(line), ""
            for word in _WORD.finditer(line):
                start, end = position + word.start(), position + word.end()
                if word["number"]:
                    yield start, end, str(int(word["number"]) + 1)
                elif word["bool"]:
                    yield start, end, "false" if word["bool"] == "true" else "true"
                else:
                    yield start, end, f'"{word["text"]}x"'
        position += len(line)


# ------------------------------------------------------------------------------------ Python
_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}


def python_changes(source: str) -> Iterator[Change]:
    """Yield changes of a module's functions: operators, conditions, constants, statements left out."""
    lines = [0, *itertools.accumulate(len(line.encode()) for line in source.splitlines(keepends=True))]
    raw = source.encode()

    def at(line: int, column: int) -> int:
        return len(raw[: lines[line - 1] + column].decode())

    def span(node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        body = function.body[1:] if ast.get_docstring(function) else function.body
        for node in _nodes(body):
            for text in _replacements(node):
                yield *span(node), text
            if isinstance(node, ast.If):
                yield *span(node.test), f"(not ({ast.unparse(node.test)}))"


def _nodes(body: list[ast.stmt]) -> Iterator[ast.stmt | ast.expr]:
    """Yield statements and expressions, but nothing inside an f-string, a type or a nested function."""
    waiting: list[ast.AST] = [*body]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.JoinedStr | ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.stmt | ast.expr):
            yield node
        waiting += [
            child
            for name, value in ast.iter_fields(node)
            if name != "annotation"
            for child in (value if isinstance(value, list) else [value])
            if isinstance(child, ast.AST)
        ]


def _replacements(node: ast.stmt | ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _OTHER:
            yield _with(node, ops=[_OTHER[type(operator)]()])
        case ast.BoolOp() | ast.BinOp() if type(node.op) in _OTHER:
            if not (isinstance(node.op, ast.Mod) and isinstance(node, ast.BinOp) and _is_text(node.left)):
                yield _with(node, op=_OTHER[type(node.op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield repr(value + 1)
        case ast.Constant(value=str() as value) if (
            value and " " not in value
        ):  # sentences are not the tests' affair
            yield repr(f"{value}x")
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Return(value=value) if value is not None:
            yield "return None"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _with(node: ast.expr, **changed: object) -> str:
    other = copy.copy(node)
    for name, value in changed.items():
        setattr(other, name, value)
    return f"({ast.unparse(other)})"


# ------------------------------------------------------------------------------------ running
def mutants(root: Path, only: list[str]) -> list[Mutant]:
    """Return every change of the product's files, or of some of them."""
    found = []
    for pattern, tests in SOURCES:
        for file in sorted(root.glob(pattern)):
            path = file.relative_to(root).as_posix()
            if file.is_dir() or (only and path not in only):
                continue
            source = file.read_text()
            changes = python_changes(source) if file.suffix == ".py" else template_changes(source)
            found += [
                Mutant(path, start, end, text, tests)
                for start, end, text in sorted(set(changes))
                if source[start:end] != text
            ]
    return found


def passes(root: Path, tests: tuple[str, ...]) -> bool:
    """Return whether the tests pass in a copy of the repository; what hangs does not."""
    environment = os.environ | {
        "PYTHONPATH": str(root / "generator"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CI": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=TEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> int:
    """Try mutants until the time is up and print what survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=240, help="stop after this time (default 240)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (default 1)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these, as paths in the repository")
    options = parser.parse_args()
    every = mutants(ROOT, options.files)
    if not every:
        parser.error("none of these files is one that is changed")
    random.Random(options.seed).shuffle(every)
    killed: Counter[str] = Counter()
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        places = [Path(folder, str(number)) for number in range(options.jobs)]
        for place in places:
            copy_tracked(ROOT, place, int(time.time()))
        for tests in sorted({mutant.tests for mutant in every}):
            if not passes(places[0], tests):
                sys.exit(f"the tests fail without any change: {' '.join(tests)}")
        deadline = time.monotonic() + options.seconds
        queue = iter(every)  # next() on it is one step: threads share it

        def work(place: Path) -> None:
            while time.monotonic() < deadline and (mutant := next(queue, None)):
                file = place / mutant.path
                source = file.read_text()
                file.write_text(mutant.apply(source))
                if passes(place, mutant.tests):
                    survivors.append(mutant)
                else:
                    killed[mutant.path] += 1
                file.write_text(source)

        list(pool.map(work, places))
    lived = Counter(mutant.path for mutant in survivors)
    for mutant in sorted(survivors):
        print(mutant.describe((ROOT / mutant.path).read_text()), end="\n\n")
    print(f"{'noticed':>8} {'survived':>9}")
    for path in sorted({*killed, *lived}):
        print(f"{killed[path]:>8} {lived[path]:>9}  {path}")
    tried = killed.total() + lived.total()
    print(f"{killed.total():>8} {lived.total():>9}  {tried} tried of {len(every)}, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
