"""What `make freshness` decides; it asks the indexes itself only when a person runs it."""

from __future__ import annotations

import pytest

from tools.freshness import Row, compare, exit_code, releases, table

PIP = "vllm (0.34.0)\nAvailable versions: 0.34.0, 0.33.1, 0.33.0, 0.9.0.1, 0.8.5.post1, 0.8.5\n"


def test_final_releases_alone_count() -> None:
    assert releases(PIP) == [(0, 8, 5), (0, 33, 0), (0, 33, 1), (0, 34, 0)]
    assert releases("sigs.k8s.io/lws v0.9.0 v0.10.0 v0.11.0-rc.1") == [(0, 9, 0), (0, 10, 0)]
    assert releases("v0.32.0-cpu v0.33.0rc1 v0.31.0+cpu") == []


def test_what_is_newer_than_the_newest_that_is_covered() -> None:
    row = compare("vLLM", [(0, 7, 3), (0, 33, 0)], releases(PIP))
    assert (row.covered, row.newer) == ((0, 33, 0), [(0, 34, 0), (0, 33, 1)])


@pytest.mark.parametrize(
    ("newer", "code"),
    [([[], []], 0), ([[], [(1, 0, 0)]], 1), ([None, []], 2), ([None, [(1, 0, 0)]], 1)],
)
def test_silence_is_no_good_news(newer: list[list[tuple[int, int, int]] | None], code: int) -> None:
    assert exit_code(Row("x", (0, 1, 0), one) for one in newer) == code


def test_the_table_says_why_somebody_could_not_be_asked() -> None:
    rows = [compare("a", [(0, 1, 0)], []), Row("b", (0, 2, 0), None, "go: not found")]
    assert [" ".join(line.split()) for line in table(rows)[1:]] == [
        "a 0.1.0 none",
        "b 0.2.0 not known: go: not found",
    ]
