"""Taking a key out of a YAML file, or putting another in its place: nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from manyhost.catalog import yaml_editor
from manyhost.errors import InvalidInput

TEXT = """\
# of the file
a:
  # of b
  b: 1  # behind b
  # of c
  c: {x: 1}
d:
  - e
"""


@pytest.mark.parametrize(
    ("keys", "new", "after"),
    [
        (["a", "b"], None, "# of the file\na:\n  # of b\n  # of c\n  c: {x: 1}\nd:\n  - e\n"),
        (["a", "b"], ("z", 2), TEXT.replace("b: 1  # behind b", "z: 2")),
        (["a", "b"], ("b", 2), TEXT.replace("b: 1  # behind b", "b: 2")),
        (["a", "c"], ("c", "yes"), TEXT.replace("{x: 1}", "'yes'")),
        (["d"], None, TEXT.replace("d:\n  - e\n", "")),
    ],
)
def test_one_key(keys: list[str], new: tuple[str, Any] | None, after: str) -> None:
    assert yaml_editor.replace(TEXT, keys, new, "f") == after


def test_the_last_key_of_a_mapping_leaves_an_empty_mapping() -> None:
    assert yaml_editor.replace("a:\n  b: 1\nc: 2\n", ["a", "b"], None, "f") == "a: {}\nc: 2\n"


def test_what_is_not_in_block_style_is_refused_and_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        yaml_editor.replace(TEXT, ["a", "c", "x"], None, "f.yaml")
    assert raised.value.where == "f.yaml"
    assert raised.value.fix == "change a.c.x by hand"
