"""What `make generate` writes is committed as it would write it now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tools import generate


@pytest.mark.parametrize("generator", generate.GENERATORS, ids=lambda function: function.__name__)
def test_generated_files(generator: Callable[[], dict[Path, bytes]]) -> None:
    files = generator()
    assert files
    stale = [path for path, content in files.items() if path.read_bytes() != content]
    assert not stale, "make generate"
