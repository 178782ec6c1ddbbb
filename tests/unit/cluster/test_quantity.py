"""Resource quantities as the API writes them."""

from __future__ import annotations

import pytest
from manyhost.cluster.quantity import parse, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        (8, 8),
        ("250m", 0.25),
        ("16Gi", 2**34),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("2E", 2e18),
        ("1k", 1000),
        ("0", 0),
    ],
)
def test_parse(text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "Gi", "1Xi", "a lot"])
def test_no_quantity(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_show() -> None:
    assert show("memory", 2**34) == "16.0 GiB"
    assert show("memory", 2**26) == "64 MiB"
    assert show("memory", 0) == "0.0 GiB"
    assert show("nvidia.com/gpu", 8.0) == "8"
