"""Read the flags of `sglang serve` from the package's text: nothing of it is imported.

Each flag is a field of a class in sglang/srt/arg_groups/fields, written `name: A[type, "help" or Arg(...)]`
(sglang/srt/arg_groups/arg_utils.py, add_cli_args_from_dataclass, says what becomes of it); some are
`add_argument` calls in server_args.py. What is written in a form that is not known here ends the extraction.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Where choices that are given by name are written.
_NAMED = (
    "arg_groups/choices.py",
    "utils/common.py",
    "model_executor/cuda_graph_config.py",
    "parser/reasoning_parser.py",
    "function_call/function_call_parser.py",
)
# Choices that server_args.py computes: flag -> the list, or the table whose keys they are.
_COMPUTED = {
    "--sampling-backend": "SAMPLING_BACKEND_CHOICES",
    "--reasoning-parser": "DetectorMap",
    "--tool-call-parser": "ToolCallParserEnum",
    "--kv-canary-real-data": "",  # a switch of its developers
}
_WITH_AUTO = {"--reasoning-parser", "--tool-call-parser"}
_KINDS = {
    "human_readable_int": "si_int",  # k and Ki, not K as in vLLM
    "json_list_type": "json.loads",
    "parse_cuda_graph_config_arg": "json.loads",
}


def rows(sources: Path) -> list[dict[str, Any]]:
    """Return what `table` of extract_engine_flags takes, for an unpacked wheel."""
    root = sources / "sglang/srt"
    names = _names(root)
    found = list[dict[str, Any]]()
    for path in sorted((root / "arg_groups/fields").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found += _fields(node, names)
    return found + list(_calls(root / "server_args.py", names))


def _names(root: Path) -> dict[str, list[Any]]:
    """Return the lists that choices are taken from, by name; of a table its keys."""
    found: dict[str, list[Any]] = {}

    def take(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                take(node.body, f"{node.name}.")
            if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                continue
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            values = _literal(node.value, {name.removeprefix(prefix): v for name, v in found.items()})
            if isinstance(target, ast.Name) and values:
                found[f"{prefix}{target.id}"] = values
                if isinstance(node.value, ast.Dict):
                    found[target.id] = values

    for name in _NAMED:
        take(ast.parse((root / name).read_text()).body, "")
    return found


def _literal(node: ast.expr, names: dict[str, list[Any]]) -> list[Any]:
    """Return the values of a list, a set, a table's keys, a constant, or of sums and names of them."""
    found = list[Any]()
    match node:
        case ast.Constant(value=str(value) | int(value)):
            found = [value]
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            found = [value for item in items for value in _literal(item, names)]
        case ast.Dict(keys=keys):
            found = [value for key in keys if key for value in _literal(key, names)]
        case ast.Name() | ast.Attribute():
            found = list(names.get(ast.unparse(node), []))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            found = [*_literal(left, names), *_literal(right, names)]
    return found


def _fields(node: ast.ClassDef, names: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for item in node.body:
        match item:
            case ast.AnnAssign(
                target=ast.Name(id=name),
                annotation=ast.Subscript(value=ast.Name(id="A"), slice=ast.Tuple(elts=[kind, *more])),
            ):
                words = _words(more[0])
                if "no_cli" not in words:
                    yield _row(name, kind, words, names)


def _words(node: ast.expr) -> dict[str, ast.expr]:
    """Return what Arg(...) is called with; a bare text is the help alone."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Arg":
        return {word.arg: word.value for word in node.keywords if word.arg}
    if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
        return {}
    raise SystemExit(f"not understood: {ast.unparse(node)[:200]}")


def _row(
    name: str, kind: ast.expr, words: dict[str, ast.expr], names: dict[str, list[Any]]
) -> dict[str, Any]:
    flag = str(ast.literal_eval(words["cli_name"])) if "cli_name" in words else f"--{name.replace('_', '-')}"
    options = [flag, *(ast.literal_eval(words["aliases"]) if "aliases" in words else [])]
    row: dict[str, Any] = {
        "options": options, "off": [], "type": "str", "action": "_StoreAction", "nargs": None,
        "choices": None,
    }  # fmt: skip
    if "choices" in words:
        row["choices"] = _literal(words["choices"], names) or _unknown(words["choices"])
    if "nargs" in words:
        row["nargs"] = ast.literal_eval(words["nargs"])
    if "action" in words:
        return row | _action(flag, ast.unparse(words["action"]), words)
    inner = _without_none(kind)
    match inner:
        case ast.Name(id="bool"):
            return row | {"action": "_StoreTrueAction"}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            row["choices"] = row["choices"] or _literal(values, names) or _unknown(values)
            inner = ast.Name(id=type(row["choices"][0]).__name__)
        case ast.Subscript(value=ast.Name(id="List" | "list"), slice=each) if "type_parser" not in words:
            return row | {"type": ast.unparse(each), "nargs": row["nargs"] or "+"}
    parser = ast.unparse(words["type_parser"]) if "type_parser" in words else ast.unparse(inner)
    return row | {"type": _KINDS.get(parser, parser)}


def _action(flag: str, action: str, words: dict[str, ast.expr]) -> dict[str, Any]:
    if action == "argparse.BooleanOptionalAction":
        return {"off": [f"--no-{flag[2:]}"], "action": "BooleanOptionalAction"}
    given = words.get("action_kwargs")
    keys = dict(zip(map(_text, given.keys), given.values, strict=True)) if isinstance(given, ast.Dict) else {}
    return {"nargs": ast.literal_eval(keys["nargs"]) if "nargs" in keys else None}


def _text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _without_none(kind: ast.expr) -> ast.expr:
    """Return X of Optional[X] and of X | None."""
    match kind:
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return inner
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return left
    return kind


def _calls(path: Path, names: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the flags of `add_argument` calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=[ast.Constant(value=str(flag)), *_]):
                words = {word.arg: word.value for word in node.keywords if word.arg}
                action = ast.unparse(words["action"]) if "action" in words else ""
                switch = "store_true" in action or action == "DeprecatedStoreTrueAction"
                choices = None
                if "choices" in words and (name := _COMPUTED[flag]):
                    choices = [*(["auto"] if flag in _WITH_AUTO else []), *names[name]]
                yield {
                    "options": [flag],
                    "off": [],
                    "type": ast.unparse(words["type"]) if "type" in words else "str",
                    "action": "_StoreTrueAction" if switch else "_StoreAction",
                    "nargs": None,
                    "choices": choices,
                }


def _unknown(node: ast.expr) -> list[Any]:
    raise SystemExit(f"choices not understood: {ast.unparse(node)[:200]}")
