"""A folder of a Cloud Storage bucket as a target."""

from __future__ import annotations

from typing import Any

from manyhost.errors import InvalidInput, ManyhostError, RemoteError
from manyhost.weights import manifest
from manyhost.weights.digest import Digest, RemoteFile
from manyhost.weights.store import Store
from manyhost.weights.target import Busy, Found, Open, proof_of
from manyhost.weights.transfer import Stopped, WrongBytes

# A multiple of 256 KiB. Each worker holds two or three of them: 8 stay below 500 MB (benchmarks/weights.py).
CHUNK = 8 * 1024**2
_SECONDS = 120.0
_PROOF, _SHA256 = "manyhost-proof", "manyhost-sha256"


def parse(address: str) -> tuple[str, str]:
    """Return bucket and folder of gs://bucket/folder.

    Raises:
        InvalidInput: It is no such address.
    """
    bucket, _, prefix = address.removeprefix("gs://").partition("/")
    if not address.startswith("gs://") or not bucket or "//" in prefix:
        raise InvalidInput(f"{address[:200]} is no gs://BUCKET/FOLDER", where="--to")
    return bucket, prefix.strip("/")


class Bucket:
    """A model's folder in a bucket.

    An object appears when its upload ends, and that ends only with the hub's bytes: the reader gives out the
    last ones when all are proven, and Cloud Storage compares the stream's crc32c with its own. The proof is
    the object's metadata. Of two runs that write an object one is refused by a precondition.

    Args:
        store: The client.
        address: gs://BUCKET/FOLDER.
    """

    def __init__(self, store: Store, address: str) -> None:
        self._name, self._prefix = parse(address)
        self.where = f"gs://{self._name}/{self._prefix}".rstrip("/")
        self._store = store
        self._bucket = store.client.bucket(self._name)
        self._known: dict[str, Found] = {}

    def free_bytes(self) -> int | None:
        """Return that there is no limit."""
        return None

    def begin(self, mark: bytes) -> bytes:
        """Say that a model is staged here, and return what was said first."""
        return self._create(manifest.MARK, mark)

    def inventory(self) -> dict[str, Found]:
        """Return the objects of the folder."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        fields = "items(name,size,crc32c,metadata),nextPageToken"

        def look() -> dict[str, Found]:
            blobs = self._store.client.list_blobs(self._name, prefix=prefix, fields=fields, timeout=_SECONDS)
            return {blob.name[len(prefix) :]: _found(blob) for blob in blobs}

        self._known = self._store.call(look, f"gs://{self._name}")
        return self._known

    def store(self, file: RemoteFile, open_reader: Open) -> None:
        """Upload a file as it arrives."""
        from google.api_core.exceptions import PreconditionFailed
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        # What was not there at the last look needs no other one: the precondition tells if it is now.
        there = None
        if file.name in self._known:
            there = self._call(lambda: self._bucket.get_blob(self._path(file.name), timeout=_SECONDS))
        if there is not None and _found(there).is_file(file):
            raise Busy
        blob = self._bucket.blob(self._path(file.name), chunk_size=CHUNK)
        reader = open_reader(())
        failure: list[Exception] = []

        def send() -> None:
            try:
                sha256, stream = file.sha256, _Stream(reader, b"", failure)
                if not sha256:  # a small file of git's, whose sha256 is not known before it is here
                    stream = _Stream(reader, reader.read(file.size), failure)
                    sha256 = reader.digest.sha256
                blob.metadata = {_PROOF: proof_of(file), _SHA256: sha256}
                blob.upload_from_file(
                    stream,
                    size=file.size,
                    content_type="application/octet-stream",
                    if_generation_match=there.generation if there is not None else 0,
                    checksum="crc32c",
                    timeout=_SECONDS,
                )
            except PreconditionFailed:
                raise Busy from None
            except (ManyhostError, Stopped, Busy):
                raise
            except DataCorruption:  # the client has removed the object
                raise WrongBytes("has wrong bytes in the bucket: crc32c", where=file.name) from None
            except Exception as error:
                if failure:  # the download's, whatever the client has made of it
                    raise failure[0] from None
                if isinstance(error, (InvalidResponse, ValueError)):  # an upload out of step
                    text = f"the upload fails: {type(error).__name__}"
                    raise RemoteError(text, where=f"{self.where}/{file.name}") from None
                raise

        try:
            self._call(send)
        finally:
            reader.close()
        if blob.crc32c != reader.digest.crc32c:
            self._delete(file.name, blob.generation)
            raise WrongBytes(
                f"has wrong bytes in the bucket: crc32c {blob.crc32c}, sent was {reader.digest.crc32c}",
                where=f"{self.where}/{file.name}",
            )

    def adopt(self, file: RemoteFile) -> bool:
        """Read an object that is there, and note the proof in its metadata."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._call(lambda: self._bucket.get_blob(self._path(file.name), timeout=_SECONDS))
        if blob is None or blob.size != file.size:
            return False
        digest = Digest(file)
        for start in range(0, file.size, CHUNK):
            digest.update(self.read(file.name, start, CHUNK))
        if digest.problem() or digest.crc32c != blob.crc32c:
            return False
        blob.metadata = {**(blob.metadata or {}), _PROOF: proof_of(file), _SHA256: digest.sha256}

        def note() -> bool:
            try:
                blob.patch(
                    if_generation_match=blob.generation,
                    if_metageneration_match=blob.metageneration,
                    timeout=_SECONDS,
                )
            except (NotFound, PreconditionFailed):
                return False  # changed in the meantime: the next look tells
            return True

        return bool(self._call(note))

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of an object."""
        blob = self._bucket.blob(self._path(name))
        data: bytes = self._call(
            lambda: blob.download_as_bytes(
                start=start, end=start + length - 1, checksum=None, timeout=_SECONDS
            )
        )
        return data

    def manifest(self) -> bytes | None:
        """Return the manifest's text."""
        return self._get(manifest.NAME)

    def publish(self, text: bytes) -> bytes:
        """Write the manifest."""
        return self._create(manifest.NAME, text)

    def withdraw(self) -> None:
        """Remove the manifest."""
        self._delete(manifest.NAME, None)

    def end(self) -> None:
        """Remove the mark."""
        self._delete(manifest.MARK, None)

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _call(self, action: Any) -> Any:
        return self._store.call(action, f"gs://{self._name}")

    def _get(self, name: str) -> bytes | None:
        from google.api_core.exceptions import NotFound

        def get() -> bytes | None:
            try:
                data: bytes = self._bucket.blob(self._path(name)).download_as_bytes(timeout=_SECONDS)
            except NotFound:
                return None
            return data

        found: bytes | None = self._call(get)
        return found

    def _create(self, name: str, data: bytes) -> bytes:
        """Write an object unless there is one, and return what is there."""
        from google.api_core.exceptions import PreconditionFailed

        def create() -> None:
            try:
                self._bucket.blob(self._path(name)).upload_from_string(
                    data, content_type="application/json", if_generation_match=0, timeout=_SECONDS
                )
            except PreconditionFailed:
                return

        self._call(create)
        found = self._get(name)
        return data if found is None else found

    def _delete(self, name: str, generation: int | None) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        def delete() -> None:
            try:
                self._bucket.blob(self._path(name)).delete(if_generation_match=generation, timeout=_SECONDS)
            except (NotFound, PreconditionFailed):
                return

        self._call(delete)


class _Stream:
    """A reader as the client wants a file; it keeps the error that ended it."""

    def __init__(self, reader: Any, before: bytes, failure: list[Exception]) -> None:
        self._reader, self._before, self._failure = reader, before, failure
        self._place = 0

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        data, self._before = self._before[:size], self._before[size:]
        if len(data) < size:
            try:
                data += self._reader.read(size - len(data))
            except Exception as error:
                self._failure.append(error)
                raise
        self._place += len(data)
        return data


def _found(blob: Any) -> Found:
    known = blob.metadata or {}
    return Found(blob.size or 0, known.get(_PROOF, ""), known.get(_SHA256, ""), blob.crc32c or "")
