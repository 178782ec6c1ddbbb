"""Changing some keys of a YAML file, and nothing else in it: comments and order stay."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
import yaml
import yaml12

from manyhost.catalog import yaml_reader
from manyhost.errors import InvalidInput


def edit(text: str, settings: dict[str, Any], where: str, *, whole: Collection[str] = ()) -> str:
    """Return a YAML text with some keys changed; every other line, comments included, stays.

    Args:
        text: The file as it is; may be empty.
        settings: Nested keys with their new values.
        where: How errors name the file.
        whole: Names of keys whose mapping is replaced as one value.

    Raises:
        InvalidInput: The file is no mapping, or is written in a way that cannot be edited safely.
    """
    before = _mapping(text, where)
    # Rebuilt, so that what the file says twice by an alias is not the same object twice.
    wanted = msgspec.to_builtins(before)
    lines = text.splitlines()
    for keys, value in _leaves(settings, whole):
        if _put(wanted, keys, value):
            _set(lines, keys, value)
    wanted_text = yaml.safe_dump(settings, default_flow_style=True, width=10_000).strip()
    return _checked(lines, before, wanted, where, f"set these keys by hand: {wanted_text}")


def replace(text: str, keys: Sequence[str], new: tuple[str, Any] | None, where: str) -> str:
    """Return a YAML text with one key taken out, or another with its value in its place; all else stays.

    Args:
        text: The file as it is.
        keys: The key and those above it, the outermost first; it must be there.
        new: Name and value of the other key; None for none.
        where: How errors name the file.

    Raises:
        InvalidInput: The file is written in a way that cannot be edited safely.
    """
    before = _mapping(text, where)
    wanted = msgspec.to_builtins(before)
    mapping = wanted
    for key in keys[:-1]:
        mapping = mapping[key]
    entries = [(new if name == keys[-1] else (name, value)) for name, value in mapping.items()]
    mapping.clear()
    mapping.update(entry for entry in entries if entry)
    lines = text.splitlines()
    place = _place(lines, keys)
    if place:
        first, after, indent = place
        lines[first:after] = _rendered([new[0]], new[1], indent) if new else []
        if not mapping and keys[:-1]:
            _set(lines, list(keys[:-1]), {})
    return _checked(lines, before, wanted, where, f"change {'.'.join(keys)} by hand")


def _checked(lines: list[str], before: dict[str, Any], wanted: dict[str, Any], where: str, fix: str) -> str:
    """Return the lines as a text; InvalidInput when they do not say what is wanted."""
    result = "\n".join(lines) + "\n" if lines else ""
    try:
        safe = _mapping(result, where) == wanted or before == wanted
    except InvalidInput:
        safe = False
    if not safe:
        raise InvalidInput(
            "it is not written in plain block style, so changing it could lose something",
            where=where,
            fix=fix,
        )
    return result


def _leaves(
    settings: dict[str, Any], whole: Collection[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Any]]:
    """Yield each value with the keys that lead to it."""
    for key, value in settings.items():
        path = (*above, key)
        if isinstance(value, dict) and value and key not in whole:
            yield from _leaves(value, whole, path)
        else:
            yield list(path), value


def _put(mapping: dict[str, Any], keys: list[str], value: Any) -> bool:
    """Set a nested key; return whether that changed anything."""
    for key in keys[:-1]:
        if not isinstance(mapping.get(key), dict):
            mapping[key] = {}
        mapping = mapping[key]
    changed = bool(mapping.get(keys[-1]) != value)
    mapping[keys[-1]] = value
    return changed


def _mapping(text: str, where: str) -> dict[str, Any]:
    document = yaml_reader.parse(text, where)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInput("must be a mapping of names to values", where=where)
    return document


def _set(lines: list[str], keys: list[str], value: Any) -> None:
    """Set a key of block-style YAML, touching only its own lines."""
    start, end, indent = 0, len(lines), 0
    for depth, key in enumerate(keys):
        place = _block(lines, start, end, indent, key)
        last = depth == len(keys) - 1
        if place is None:
            lines[end:end] = _rendered(keys[depth:], value, indent)
            return
        first, after = place
        if last:
            lines[first:after] = _rendered([key], value, indent)
            return
        start, end = first + 1, after
        inner = [len(line) - len(line.lstrip()) for line in lines[start:end] if _is_content(line)]
        indent = inner[0] if inner else indent + 2


def _place(lines: list[str], keys: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the lines of a nested key, first and one behind the last, and its indentation."""
    start, end, indent = 0, len(lines), 0
    for depth, key in enumerate(keys):
        place = _block(lines, start, end, indent, key)
        if place is None or depth == len(keys) - 1:
            return place and (*place, indent)
        start, end = place[0] + 1, place[1]
        inner = [len(line) - len(line.lstrip()) for line in lines[start:end] if _is_content(line)]
        indent = inner[0] if inner else indent + 2
    return None


def _block(lines: list[str], start: int, end: int, indent: int, key: str) -> tuple[int, int] | None:
    """The lines of a key at an indentation: its own and what is nested below."""
    pattern = re.compile(
        rf"^ {{{indent}}}(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')\s*:(?:\s|$)"
    )
    for number in range(start, end):
        if not pattern.match(lines[number]):
            continue
        after = number + 1
        last = number
        while after < end:
            line = lines[after]
            if _is_content(line):
                depth = len(line) - len(line.lstrip())
                sequence = depth == indent and line.lstrip().startswith("- ")
                if depth <= indent and not sequence:
                    break
                last = after
            after += 1
        return number, last + 1
    return None


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _rendered(keys: list[str], value: Any, indent: int) -> list[str]:
    """A key with its value on one line, below the keys that lead to it."""
    *above, last = (f"{' ' * (indent + 2 * depth)}{_flow(key)}:" for depth, key in enumerate(keys))
    return [*above, f"{last} {_flow(value)}"]


class _Quoted(yaml.SafeDumper):
    """Quotes every text, so that it is on one line and a text for every reader."""


_Quoted.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def _flow(value: Any) -> str:
    """A key or a value on one line, quoted where somebody would read it as something else."""
    for dumper in (yaml.SafeDumper, _Quoted):
        text = yaml.dump([value], Dumper=dumper, default_flow_style=True, sort_keys=False, width=10**9)
        text = text.strip()[1:-1]
        # Helm reads YAML 1.2, in which 1e3 is a number.
        if "\n" not in text and yaml12.parse_yaml(text) == value:
            break
    return text
