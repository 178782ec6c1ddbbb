"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from manyhost.errors import Failed


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder: all are complete on disk before the first replaces an old one.

    Args:
        folder: Made when missing.
        files: Content by plain file name.

    Raises:
        Failed: When the folder cannot be written; old files are untouched then.
    """
    made: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = folder / f".{name}.{os.getpid()}"
            made.append((temporary, folder / name))
            temporary.write_bytes(content)
        for temporary_path, path in made:
            temporary_path.replace(path)
    except OSError as error:
        raise Failed(f"cannot be written: {error.strerror}", where=str(folder)) from None
    finally:
        for temporary_path, _ in made:
            temporary_path.unlink(missing_ok=True)
