"""The only YAML reader for files that people write: strict, with the place of every mistake."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from manyhost.errors import InvalidInput

T = TypeVar("T")
_SIZE_LIMIT_BYTES = 1 << 20  # a recipe is a few KiB; more is a wrong file
_VALUE_LIMIT = 20_000  # a recipe has some fifty; aliases can unfold a small file into millions
_DEPTH_LIMIT = 50


class _StrictLoader(yaml.CSafeLoader):
    """Safe YAML without duplicate keys; PyYAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value!r}", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse(text: str, where: str) -> Any:
    """Parse one YAML document.

    Args:
        text: The document.
        where: How errors name it, usually a path relative to the checkout.

    Raises:
        InvalidInput: When it is not YAML, a mapping has a key twice, or a value is none that JSON has:
            a date, binary data, a name that is no text, NaN, endless nesting.
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader with one more rule
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidInput(f"not valid YAML: {problem}", where=f"{where}{line}") from None
    except (ValueError, RecursionError) as error:  # dates like 2026-99-99, absurd nesting
        raise InvalidInput(f"not valid YAML: {error}", where=where) from None
    check_plain(document, where)
    return document


def check_plain(document: Any, where: str) -> None:
    """Check that a value can be written as JSON and YAML alike, and handed to a process.

    Raises:
        InvalidInput: Naming the first value that cannot.
    """
    left = _VALUE_LIMIT

    def walk(value: Any, key: str, depth: int) -> None:
        nonlocal left
        left -= 1
        problem = ""
        if left < 0 or depth > _DEPTH_LIMIT:
            problem = "too deep or too many values; are there aliases?"
        elif isinstance(value, str):
            if "\0" in value or (not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value)):
                problem = "contains a character that is no text"
        elif isinstance(value, float):
            problem = "" if math.isfinite(value) else "is not a finite number"
        elif not isinstance(value, (dict, list, int, type(None))):
            problem = f"a value of type {type(value).__name__} is no setting; put it in quotes"
        if problem:
            raise InvalidInput(problem, where=f"{where}: {key[:80]}" if key else where)
        if isinstance(value, dict):
            for name, below in value.items():
                if not isinstance(name, str):
                    raise InvalidInput(
                        f"the name {str(name)[:80]} is no text; put it in quotes",
                        where=f"{where}: {key[:80]}".rstrip(": "),
                    )
                walk(name, key, depth)
                walk(below, f"{key}.{name}".lstrip("."), depth + 1)
        elif isinstance(value, list):
            for index, below in enumerate(value):
                walk(below, f"{key}[{index}]", depth + 1)

    walk(document, "", 0)


def parse_stream(text: str, where: str) -> list[dict[str, Any]]:
    """Parse a stream of YAML documents that are mappings; empty documents are left out.

    Duplicate keys are let through: the check of that name reports them with their place.

    Raises:
        InvalidInput: When it is not YAML, a document is not a mapping, or a value is none that JSON has.
    """
    try:
        documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidInput(f"not valid YAML: {problem}", where=f"{where}{line}") from None
    for number, document in enumerate(documents, start=1):
        if document is not None and not isinstance(document, dict):
            raise InvalidInput(f"document {number} is not a Kubernetes object", where=where)
        check_plain(document, where)
    return [document for document in documents if document]


def read_mapping(path: Path, where: str) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping with string keys.

    Raises:
        InvalidInput: When the file is missing, unreadable, not UTF-8, too large or of another shape.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput("file not found", where=where) from None
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=where) from None
    if len(raw) > _SIZE_LIMIT_BYTES:
        raise InvalidInput(f"{len(raw)} bytes is too large for a settings file", where=where)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidInput("not a UTF-8 text file", where=where) from None
    document = parse(text, where)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInput("must be a mapping of names to values", where=where)
    return document


def convert(document: Any, kind: type[T], where: str) -> T:
    """Convert parsed YAML to a typed, closed struct.

    Raises:
        InvalidInput: Naming the key, when a key is unknown or missing or a value has the wrong type.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        key, message = explain(error)
        raise InvalidInput(message, where=f"{where}: {key}" if key else where) from None


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return the dotted key that a validation error is about, and a plain sentence."""
    message, _, path = str(error).partition(" - at `$")
    key = path.rstrip("`").lstrip(".").replace("[...]", "[]")
    message = message.replace("`", "")
    if message.startswith("Object contains unknown field "):
        unknown = message.removeprefix("Object contains unknown field ")
        return f"{key}.{unknown}".lstrip("."), "unknown key"
    if message.startswith("Object missing required field "):
        missing = message.removeprefix("Object missing required field ")
        return f"{key}.{missing}".lstrip("."), "required key is missing"
    return key, _plain(message[0].lower() + message[1:])


def _plain(message: str) -> str:
    """Return a sentence of the converter in words that need no Python."""
    if message.startswith("invalid enum value "):
        return f"{message.removeprefix('invalid enum value ')} is none of its words"
    if " matching regex " in message:
        expected = message.partition(" matching regex ")[2].strip("'")
        return _SHAPES.get(expected, f"is not written as it must be: {expected}")
    message = re.sub(r"^expected (\w+) of length (>=|<=) (\d+)", r"expected \1, length \2 \3", message)
    words = re.sub(r"\b(?:int|str|float|bool|array|object|null)\b", lambda word: _WORDS[word[0]], message)
    words = words.replace("got a number", "got a decimal number")
    return re.sub(r" (>=|<=) ", lambda sign: f" {_SIGNS[sign[1]]} ", words)


_WORDS = {
    "int": "a whole number",
    "str": "text",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_SIGNS = {">=": "of at least", "<=": "of at most"}
_SHAPES = {
    r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$": "is no name: at most 63 of a-z, 0-9, dots and dashes",
    r"^/": "must be an absolute path",
    r"^(/.*)?$": "must be an absolute path",
    r"^(sha256:[0-9a-f]{64})?$": "must be sha256: and 64 hexadecimal digits",
}
