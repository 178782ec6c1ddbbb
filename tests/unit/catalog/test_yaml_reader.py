"""The strict reader: what people write is either understood as they meant it or refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhost.catalog import yaml_reader
from manyhost.errors import InvalidInput


def _refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        yaml_reader.parse(text, "file")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "file:2: not valid YAML: duplicate key 'a'"),
        ("a: {b: 1, b: 1}\n", "duplicate key 'b'"),
        ("a: [1\n", "file:2: not valid YAML"),
        ("a: b: c\n", "file:1: not valid YAML: mapping values are not allowed"),
        ("\ta: 1\n", "cannot start any token"),
        ("a: *b\n", "undefined alias"),
        ("a: 2026-13-45\n", "month must be in 1..12"),
        ("a: 2026-01-01\n", "file: a: a value of type date is no setting; put it in quotes"),
        ("a: {b: 2026-01-01T00:00:00Z}\n", "file: a.b: a value of type datetime is no setting"),
        ("a: !!binary aGk=\n", "a value of type bytes"),
        ("a: !!set {x, y}\n", "a value of type set"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("a: .nan\n", "file: a: is not a finite number"),
        ("a: [1.0, -.inf]\n", "file: a[1]: is not a finite number"),
        ("1: a\n", "file: the name 1 is no text; put it in quotes"),
        ("a: {no: b}\n", "file: a: the name False is no text"),
        ("a: &a [*a]\n", "too deep or too many values"),
        ('a: "x\\0y"\n', "file: a: contains a character that is no text"),
        ("a: " + "[" * 60 + "]" * 60, "too deep"),
        ("a: " + "[" * 20_000, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "file:2: not valid YAML: but found another document"),
        ("? [a, b]\n: 1\n", "not valid YAML: found unhashable key"),
    ],
)
def test_refused(text: str, words: str) -> None:
    message = _refused(text)
    assert words in message
    assert len(message) < 400


def test_aliases_that_unfold_into_millions_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too many values" in _refused("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("5", 5),
        ("1000000", 1000000),
        ("1_000_000", 1000000),
        ("0.85", 0.85),
        ("1e3", "1e3"),  # YAML 1.1 wants a dot: it stays text, and the type check says so
        ("'yes'", "yes"),
        ("{a: [1, two, null]}", {"a": [1, "two", None]}),
        ("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ('"\\u202e\\U0001F600"', "\u202e\U0001f600"),
    ],
)
def test_read_as_written(text: str, value: object) -> None:
    assert yaml_reader.parse(text, "file") == value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\xff\xfea: 1", "not a UTF-8 text file"),
        (b"- a\n- b\n", "must be a mapping of names to values"),
        (b"just words\n", "must be a mapping"),
        (b"#" * (1 << 20) + b"\n", "is too large for a settings file"),
        (b"a: \x00\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_mapping(raw: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput) as caught:
        yaml_reader.read_mapping(path, "x.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("x.yaml")


def test_a_missing_file_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="file not found"):
        yaml_reader.read_mapping(tmp_path / "none.yaml", "none.yaml")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        yaml_reader.read_mapping(tmp_path, "folder")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# only a comment\n")
    assert yaml_reader.read_mapping(tmp_path / "x.yaml", "x") == {}


def test_streams_keep_order_and_drop_empty_documents() -> None:
    assert yaml_reader.parse_stream("---\na: 1\n---\n---\nb: 2\n", "x") == [{"a": 1}, {"b": 2}]
    with pytest.raises(InvalidInput, match="document 2 is not a Kubernetes object"):
        yaml_reader.parse_stream("a: 1\n---\n- b\n", "x")
