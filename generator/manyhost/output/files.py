"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from manyhost.errors import Failed
from manyhost.interrupts import held


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder: all are complete on disk before the first replaces an old one.

    Args:
        folder: Made when missing.
        files: Content by plain file name.

    Raises:
        Failed: When the folder cannot be written; old files are untouched then, and no new folder is left.
    """
    with held():
        _write(folder, files)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    made: list[tuple[Path, Path]] = []
    folders: list[Path] = []
    try:
        folders = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if (folder / name).is_dir():  # found out before the first file is replaced
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
            temporary = folder / f".{name}.{os.getpid()}"
            made.append((temporary, folder / name))
            temporary.write_bytes(content)
        for temporary_path, path in made:
            temporary_path.replace(path)
        folders = []
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = getattr(error, "strerror", None) or str(error)
        raise Failed(f"cannot be written: {problem}", where=str(folder)[:200]) from None
    finally:
        for temporary_path, _ in made:
            with contextlib.suppress(OSError, ValueError):  # what could not be written cannot be removed
                temporary_path.unlink(missing_ok=True)
        for path in folders:
            with contextlib.suppress(OSError, ValueError):  # somebody else's files are in it by now
                path.rmdir()
