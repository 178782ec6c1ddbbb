"""A folder as a target: a disk, a claim, a network volume."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from manyhost.errors import NotReady
from manyhost.weights import manifest
from manyhost.weights.digest import Digest, RemoteFile
from manyhost.weights.target import Busy, Found, Open, proof_of
from manyhost.weights.transfer import WrongBytes

_PIECE = 4 * 1024**2
_SYNCS = 8  # at once: the disk does several for the price of one


class Folder:
    """A model's folder.

    A file grows under a name of its own, locked by the run that writes it, and takes its real name when it is
    proven. Records of what is proven hold until the file is touched: an unchanged file is not read again.

    Args:
        path: The model's own folder; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._root = path
        self._staging = path / manifest.STAGING

    def free_bytes(self) -> int | None:
        """Return how much the disk can still hold."""
        return shutil.disk_usage(self._root).free

    def begin(self, mark: bytes) -> bytes:
        """Say that a model is staged here, and return what was said first."""
        try:
            for name in ("parts", "records"):
                (self._staging / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotReady(f"cannot be written: {error.strerror}", where=self.where) from None
        path = self._root / manifest.MARK
        with contextlib.suppress(FileExistsError):
            self._write(path, mark, exclusive=True)
        return path.read_bytes()

    def inventory(self) -> dict[str, Found]:
        """Return the files that are there."""
        found = {}
        for folder, folders, names in os.walk(self._root):
            if manifest.STAGING in folders:
                folders.remove(manifest.STAGING)
            for name in names:
                path = Path(folder, name)
                found[path.relative_to(self._root).as_posix()] = path
        return {name: self._look(name, path) for name, path in found.items() if path.is_file()}

    def store(self, file: RemoteFile, open_reader: Open) -> None:
        """Write a file; what an earlier run has of it is used."""
        part = self._part(file.name)
        path = self._root / file.name
        with self._locked(part) as number:
            if path.is_file() and self._look(file.name, path).is_file(file):
                part.unlink()  # another run has brought it since this one looked
                raise Busy
            have = os.fstat(number).st_size
            reader = open_reader(_pieces(number, 0, have) if have <= file.size else ())
            try:
                os.ftruncate(number, reader.digest.bytes)
                os.lseek(number, 0, os.SEEK_END)
                while data := reader.read(_PIECE):
                    _write_all(number, data)
            except WrongBytes:
                os.ftruncate(number, 0)  # or the next try would go on with it
                raise
            except OSError as error:
                raise NotReady(
                    f"cannot be written: {error.strerror}", where=f"{self.where}/{file.name}"
                ) from None
            finally:
                reader.close()
            self._note(file, os.fstat(number), reader.digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            part.replace(path)

    def adopt(self, file: RemoteFile) -> bool:
        """Read a file that is there; locked, since another run may be at it."""
        part = self._part(file.name)
        digest = Digest(file)
        with self._locked(part), (self._root / file.name).open("rb") as source:
            status = os.fstat(source.fileno())
            if status.st_size != file.size:
                return False
            for piece in _pieces(source.fileno(), 0, file.size):
                digest.update(piece)
            if digest.problem():
                return False
            self._note(file, status, digest)
            part.unlink()  # what an earlier run had of it is not needed
        return True

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file."""
        with (self._root / name).open("rb") as source:
            source.seek(start)
            return source.read(length)

    def manifest(self) -> bytes | None:
        """Return the manifest's text."""
        try:
            return (self._root / manifest.NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def publish(self, text: bytes) -> bytes:
        """Write the manifest, when all that it names would survive a power cut."""
        with ThreadPoolExecutor(_SYNCS) as pool:
            names = [name for name in self.inventory() if name != manifest.NAME]
            list(pool.map(lambda name: _sync(self._root / name), names))
        for folder in {(self._root / name).parent for name in names}:
            _sync(folder)
        path = self._root / manifest.NAME
        try:
            self._write(path, text, exclusive=True)
        except FileExistsError:
            pass
        except FileNotFoundError:  # another run has finished and removed the folder of parts
            if not path.exists():
                raise
        _sync(self._root)
        return path.read_bytes()

    def withdraw(self) -> None:
        """Remove the manifest."""
        (self._root / manifest.NAME).unlink(missing_ok=True)
        _sync(self._root)

    def end(self) -> None:
        """Remove parts and records."""
        shutil.rmtree(self._staging, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, part: Path) -> Iterator[int]:
        """Open a part for this run alone; the lock ends with the process, whatever ends it."""
        try:
            number = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            raise Busy from None  # another run has finished and removed the folder of parts
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had the lock before may have given the file its real name: then this is not the part.
            if os.fstat(number).st_ino != part.stat().st_ino:
                raise Busy
            yield number
        except (BlockingIOError, FileNotFoundError):
            raise Busy from None
        finally:
            os.close(number)

    def _look(self, name: str, path: Path) -> Found:
        status = path.stat()
        try:
            record = json.loads(self._record(name).read_text())
            if record["state"] == _state(status):
                return Found(status.st_size, record["proof"], record["sha256"], record["crc32c"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return Found(status.st_size)

    def _part(self, name: str) -> Path:
        return self._staging / "parts" / quote(name, safe="")

    def _record(self, name: str) -> Path:
        return self._staging / "records" / f"{quote(name, safe='')}.json"

    def _note(self, file: RemoteFile, status: os.stat_result, digest: Digest) -> None:
        record = {
            "proof": proof_of(file),
            "sha256": digest.sha256,
            "crc32c": digest.crc32c,
            "state": _state(status),
        }
        self._write(self._record(file.name), json.dumps(record).encode(), exclusive=False)

    def _write(self, path: Path, data: bytes, *, exclusive: bool) -> None:
        """Write a small file whole or not at all."""
        new = self._staging / f"new-{secrets.token_hex(8)}"
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _write_all(number, data)
            if path.name == manifest.NAME:
                os.fsync(number)
        finally:
            os.close(number)
        try:
            if exclusive:
                _link(new, path)
            else:
                new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def _link(new: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name."""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links: object stores and some network volumes
        if path.exists():
            raise FileExistsError(str(path)) from None
        new.replace(path)


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _pieces(number: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(number, min(_PIECE, end - start), start)):
        yield piece
        start += len(piece)


def _write_all(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _sync(path: Path) -> None:
    """Make a file's bytes or a folder's names last; some file systems cannot be told to."""
    number = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(number)
    finally:
        os.close(number)
