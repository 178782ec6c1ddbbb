"""A model's folder on a network volume as a target, through RunPod's S3 endpoint.

The endpoint has no preconditions and does not say to keep metadata: what is proven stands in small objects
beside the files, and of two runs that bring one file both bring the same bytes. What is written here is what
Folder finds when a pod mounts the volume.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from manyhost.errors import RemoteError
from manyhost.runpod.s3 import S3, Denied, Missing, NoAnswer, Object
from manyhost.weights import manifest
from manyhost.weights.digest import Digest, RemoteFile
from manyhost.weights.target import Busy, Found, Open, proof_of
from manyhost.weights.transfer import Reader, WrongBytes

# RunPod takes parts of up to 500 MB, and S3 10,000 of them. One of each file at a time is in memory, and one
# is what a connection costs that breaks off.
PART = 32 * 1024**2
_PIECE = 16 * 1024**2
_READERS = 16
_TRIES = 5  # of one file by one run that come to nothing: another one would not help
_RECORDS = f"{manifest.STAGING}/records"
# Joining parts reads and writes them once on RunPod's side; the slowest volume does 200 MB/s.
_JOIN_SECONDS, _JOIN_BYTES_PER_SECOND = 120.0, 20e6


class VolumeFolder:
    """A model's folder on a network volume.

    Args:
        s3: The endpoint of the volume's data center.
        volume: RunPod's name of it.
        folder: The model's own folder, from where the volume is mounted.
        capacity: Bytes that the model may take.
        part: Bytes of a part.
    """

    def __init__(self, s3: S3, volume: str, folder: str, capacity: int, *, part: int = PART) -> None:
        self.where = f"s3://{volume}/{folder}"
        self._s3, self._volume, self._folder, self._part = s3, volume, folder.strip("/"), part
        self._capacity, self._used = capacity, 0
        self._proven: dict[str, tuple[Object, Found]] = {}  # by the last looks
        self._tries: dict[str, int] = {}

    def free_bytes(self) -> int | None:
        """Return how much the model may still take, by the last look: RunPod does not tell what is free."""
        return self._capacity - self._used

    def begin(self, mark: bytes) -> bytes:
        """Say that a model is staged here, and return what was said first."""
        return self._create(manifest.MARK, mark)

    def inventory(self) -> dict[str, Found]:
        """Return the files of the folder."""
        start = len(self._key(""))
        listed = self._s3.listed(self._volume, self._key(""))
        there = {key[start:]: found for key, found in listed.items()}
        files = {name: one for name, one in there.items() if not name.startswith(f"{manifest.STAGING}/")}
        self._used = sum(one.size for one in there.values())
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda name: self._found(name, files[name]), files)
            return dict(zip(files, found, strict=True))

    def store(self, file: RemoteFile, open_reader: Open) -> None:
        """Send a file as it arrives; the parts that an earlier run has sent are not sent again.

        What was sent before is read from the hub once more: only so is the whole file proven.
        """
        if self._is_there(file):
            raise Busy  # another run has brought it since this one looked
        self._try(file)
        reader = open_reader(())
        try:
            samples: dict[int, bytes] = {}
            if file.size <= self._part:
                data = reader.read(file.size)
                _sample(file, 0, data, samples)
                etag = self._s3.put(self._volume, self._key(file.name), data, reader.sleep)
                proven = _is_md5(etag, data)
            else:
                proven = self._in_parts(file, reader, samples)
            there = self._s3.head(self._volume, self._key(file.name), reader.sleep)
            if there is None or there.size != file.size:
                have = f"{there.size:,}" if there else "no"
                raise self._wrong(file, f"{have} bytes, {file.size:,} were sent")
            if not proven and self._read(file).problem():  # an endpoint whose ETags are no MD5
                raise self._wrong(file, "other bytes than were sent")
            if any(self.read(file.name, start, len(data)) != data for start, data in samples.items()):
                raise self._wrong(file, "other bytes than were sent")
            self._note(file, there, reader.digest)
        except Missing:
            raise Busy from None  # another run has ended this upload: the next round tells
        finally:
            reader.close()

    def adopt(self, file: RemoteFile) -> bool:
        """Read a file that is there, through the endpoint, and note the proof."""
        there = self._s3.head(self._volume, self._key(file.name))
        if there is None or there.size != file.size:
            return False
        self._try(file)
        digest = self._read(file)
        if digest.problem():
            return False
        self._note(file, there, digest)
        return True

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a file."""
        return self._s3.get(self._volume, self._key(name), start, length) if length > 0 else b""

    def manifest(self) -> bytes | None:
        """Return the manifest's text."""
        return self._get(manifest.NAME)

    def publish(self, text: bytes) -> bytes:
        """Write the manifest; whoever else has staged this revision writes the same."""
        return self._create(manifest.NAME, text)

    def withdraw(self) -> None:
        """Remove the manifest."""
        self._s3.delete(self._volume, self._key(manifest.NAME))

    def end(self) -> None:
        """Remove records and mark, and the parts of uploads that nobody needs any more."""
        for key, upload in self._s3.uploads(self._volume, self._key("")):
            self._s3.abort(self._volume, key, upload)
        left = set(self._s3.listed(self._volume, self._key(f"{manifest.STAGING}/")))
        left |= {self._key(_record(name)) for name in self._proven}
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(lambda key: self._s3.delete(self._volume, key), left))

    def _in_parts(self, file: RemoteFile, reader: Reader, samples: dict[int, bytes]) -> bool:
        """Send a file in parts, and say whether the endpoint has named the MD5 of each, to the end.

        Raises:
            Missing: Another run has ended the upload.
            WrongBytes: The parts could not be joined.
        """
        key = self._key(file.name)
        before = self._s3.head(self._volume, key, reader.sleep)
        # The oldest one: two runs that begin at once go on with the same.
        begun = [upload for name, upload in self._s3.uploads(self._volume, key) if name == key]
        try:
            upload = begun[0]
            there = self._s3.parts(self._volume, key, upload)
        except (IndexError, Missing):
            upload, there = self._s3.begin(self._volume, key, reader.sleep), {}
        etags, proven = [], True
        for number, start in enumerate(range(0, file.size, self._part), 1):
            data = reader.read(min(self._part, file.size - start))
            _sample(file, start, data, samples)
            size, etag = there.get(number, (0, ""))
            if size != len(data) or not _is_md5(etag, data):
                etag = self._part_of(key, upload, number, data, reader.sleep)
            etags.append(etag)
            proven = proven and _is_md5(etag, data)
            del data  # before the next part is read
        if self._is_there(file):
            raise Busy
        # Another run may have sent a part anew, and not every endpoint compares ETags when it joins.
        there = self._s3.parts(self._volume, key, upload)
        same = all(there.get(number, (0, ""))[1] == etag for number, etag in enumerate(etags, 1))
        self._join(file, key, upload, etags, before, reader.sleep)
        return proven and same

    def _part_of(
        self, key: str, upload: str, number: int, data: bytes, sleep: Callable[[float], None]
    ) -> str:
        """Send a part, and return its ETag.

        Raises:
            Missing: Another run has ended the upload.
        """
        try:
            return self._s3.part(self._volume, key, upload, number, data, sleep)
        except Missing:
            raise
        except RemoteError:  # who refuses a part at its first bytes may break off before it has said why
            self._s3.parts(self._volume, key, upload)
            raise

    def _join(
        self,
        file: RemoteFile,
        key: str,
        upload: str,
        etags: list[str],
        before: Object | None,
        sleep: Callable[[float], None],
    ) -> None:
        """Make one file of its parts; a proxy may not wait for the answer, which gets lost then."""
        where = f"{self.where}/{file.name}"
        for pause in self._s3.pauses():
            try:
                self._s3.join(self._volume, key, upload, etags)
                return
            except (NoAnswer, Denied) as error:
                late = isinstance(error, NoAnswer) and error.late
                long = _JOIN_SECONDS + file.size / _JOIN_BYTES_PER_SECOND
                if self._appears(file, key, before, long if late else pause, sleep):
                    return
            except Missing:  # joined by the request whose answer was lost, or by another run
                if self._appears(file, key, before, 0, sleep):
                    return
                raise
            except RemoteError as error:
                self._s3.abort(self._volume, key, upload)
                raise WrongBytes(f"could not be joined: {error.message}", where=where) from None
        raise RemoteError(
            "its parts are not joined", where=where, fix="run the same again: what is there stays"
        )

    def _appears(
        self,
        file: RemoteFile,
        key: str,
        before: Object | None,
        seconds: float,
        sleep: Callable[[float], None],
    ) -> bool:
        """Wait until a file is there whole, and another one than before."""
        end, pause = time.monotonic() + seconds, 0.5
        while True:
            there = self._s3.head(self._volume, key, sleep)
            if there is not None and there.size == file.size and there != before:
                return True
            if time.monotonic() > end:
                return False
            sleep(pause)
            pause = min(10.0, 2 * pause)

    def _try(self, file: RemoteFile) -> None:
        """Count a try.

        Raises:
            RemoteError: There were too many.
        """
        tries = self._tries[file.name] = self._tries.get(file.name, 0) + 1
        if tries > _TRIES:
            raise RemoteError(
                "changes, or its upload ends, again and again", where=f"{self.where}/{file.name}"
            )

    def _is_there(self, file: RemoteFile) -> bool:
        """Whether a file is there and proven, now."""
        there = self._s3.head(self._volume, self._key(file.name))
        if there is None or there.size != file.size:
            return False
        text = self._get(_record(file.name))
        return text is not None and _judge(there, _parse(text)).is_file(file)

    def _read(self, file: RemoteFile) -> Digest:
        digest = Digest(file)
        for start in range(0, file.size, _PIECE):
            digest.update(self.read(file.name, start, min(_PIECE, file.size - start)))
        return digest

    def _wrong(self, file: RemoteFile, what: str) -> WrongBytes:
        return WrongBytes(f"has {what} on the volume", where=f"{self.where}/{file.name}")

    def _note(self, file: RemoteFile, there: Object, digest: Digest) -> None:
        record = {
            "proof": proof_of(file),
            "sha256": digest.sha256,
            "crc32c": digest.crc32c,
            "state": [there.size, there.changed],
        }
        self._s3.put(self._volume, self._key(_record(file.name)), json.dumps(record).encode())

    def _found(self, name: str, there: Object) -> Found:
        """Return a file with its proof, if what its record says is still so.

        The record is asked for, whatever the list says: it may leave out folders that begin with a dot.
        """
        if name in self._proven and self._proven[name][0] == there:
            return self._proven[name][1]
        found = _judge(there, _parse(self._get(_record(name)) or b""))
        if found.proof:
            self._proven[name] = (there, found)
        return found

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def _get(self, name: str) -> bytes | None:
        """Return a small object."""
        try:
            return self._s3.get(self._volume, self._key(name), 0, manifest.SMALL)
        except Missing:
            return None

    def _create(self, name: str, data: bytes) -> bytes:
        """Write a small object unless there is one, and return what is there."""
        there = self._get(name)
        if there is None:
            self._s3.put(self._volume, self._key(name), data)
            there = self._get(name)
        return data if there is None else there


def _record(name: str) -> str:
    """Return where the record of a file lies; its name has nothing in it that an endpoint could misread."""
    return f"{_RECORDS}/{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _judge(there: Object, record: dict[str, Any]) -> Found:
    """Return a file with its proof unless it was written again; lists and looks differ in fractions."""
    try:
        size, changed = record["state"]
        if size == there.size and abs(changed - there.changed) <= 1:
            return Found(there.size, record["proof"], record["sha256"], record["crc32c"])
    except (KeyError, TypeError, ValueError):
        pass
    return Found(there.size)


def _is_md5(etag: str, data: bytes) -> bool:
    return etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _sample(file: RemoteFile, start: int, data: bytes, samples: dict[int, bytes]) -> None:
    """Keep the bytes that will be read back, those of the manifest's blocks, as far as they are in a part."""
    for offset in manifest.blocks(file.size):
        if start <= offset < start + len(data):
            samples[offset] = data[offset - start : offset - start + manifest.BLOCK]
