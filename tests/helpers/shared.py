"""Reference data beside the checkout, for tests that compare with upstream; it may be absent."""

from __future__ import annotations

from pathlib import Path


def shared_dir() -> Path | None:
    """Return the folder with reference data, None where there is none."""
    folder = Path(__file__).resolve().parents[2].parent / "shared"
    return folder if folder.is_dir() else None
