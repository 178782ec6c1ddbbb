"""Staging: every file of a commit is brought to a target and proven, then the manifest is written.

A run may be ended at any point and repeated, and several may work on one target: what is proven is left
alone, and the manifest is written by whoever finds everything proven.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from manyhost.errors import Failed, InvalidInput, ManyhostError, NotReady, first
from manyhost.weights import manifest, safetensors
from manyhost.weights.digest import RemoteFile
from manyhost.weights.hub import Hub, Snapshot
from manyhost.weights.target import Busy, Found, Target
from manyhost.weights.transfer import Patience, Reader, Stopped, Traffic, WrongBytes

_TRIES = 2  # of a file that arrives with wrong bytes
_READERS = 16  # small reads at once, for the manifest
_FIRST = 256 * 1024  # enough for most headers, in one request
_LOOK_SECONDS = 2.0  # between looks at what other runs do
_TELL_SECONDS = 30.0  # between words on how far it is


@dataclass(frozen=True)
class Part:
    """One of several workers of a run: it takes each count-th file, the largest first."""

    index: int = 0
    count: int = 1

    def of(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """Return its own files."""
        ordered = sorted(files, key=lambda file: (-file.size, file.name))
        return ordered[self.index :: self.count]


@dataclass(frozen=True)
class Staged:
    """What a run has done.

    Attributes:
        where: The target.
        complete: Whether the manifest is there; not if other workers have files left.
        files: Files of the model.
        bytes: Their bytes.
        downloaded_files: Files that this run has brought.
        downloaded_bytes: Bytes that it has received from the hub, those of repeated tries included.
        adopted_files: Files that were there and have been proven by reading them.
        seconds: How long it took.
        phases: Seconds of each of its steps, in order.
    """

    where: str
    complete: bool
    files: int
    bytes: int
    downloaded_files: int
    downloaded_bytes: int
    adopted_files: int
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)


def stage(
    hub: Hub,
    snapshot: Snapshot,
    target: Target,
    *,
    workers: int = 8,
    part: Part = Part(),
    patience: Patience = Patience(),  # noqa: B008
    xet: bool = True,
    expected_bytes: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> Staged:
    """Bring a commit to a target.

    Args:
        hub: Where it comes from.
        snapshot: The commit.
        target: A bucket or a folder for this model.
        workers: Files at once.
        part: Which of several workers this is.
        patience: When a download is begun anew or given up.
        xet: Whether to try Xet storage first.
        expected_bytes: What the planner reckons with; 0 when nobody says.
        report: Told what users should know, a line at a time.

    Raises:
        InvalidInput: Another revision is there, or the model contradicts itself.
        NotReady: The target cannot take it.
        Failed: Files came with wrong bytes.
        RemoteError: The hub or the target fails for good.
    """
    return _Run(hub, snapshot, target, workers, part, Traffic(report, patience, xet=xet)).run(expected_bytes)


class _Run:
    def __init__(
        self, hub: Hub, snapshot: Snapshot, target: Target, workers: int, part: Part, traffic: Traffic
    ) -> None:
        self._hub, self._snapshot, self._target = hub, snapshot, target
        self._workers, self._part, self._traffic = workers, part, traffic
        self._lock = threading.Lock()
        self._stored = self._adopted = self._busy = 0
        self._failures: list[ManyhostError] = []
        self._started = time.monotonic()
        self._phases: dict[str, float] = {}

    def run(self, expected_bytes: int) -> Staged:
        while not self._is_there():
            self._begin()
            self._check_space()
            self._phase("look")
            self._bring()
            self._phase("transfer")
            found = self._target.inventory()
            if self._target.manifest() is not None:
                continue  # another run has finished in the meantime
            if self._left(self._snapshot.files, found):
                return self._result(complete=False)
            self._finish(found, expected_bytes)
        self._target.end()
        self._phase("manifest")
        return self._result(complete=True)

    def _finish(self, found: dict[str, Found], expected_bytes: int) -> None:
        """Write the manifest of what is all proven."""
        made = describe(self._snapshot, self._target, found)
        check_bytes(made, expected_bytes)
        self._phase("read back")
        there = self._target.publish(manifest.dumps(made))
        if there != manifest.dumps(made):
            raise InvalidInput("somebody else has staged another model here", where=self._target.where)

    def _is_there(self) -> bool:
        """Whether this revision is staged already, and still what its manifest says."""
        text = self._target.manifest()
        if text is None:
            return False
        try:
            known = manifest.loads(text)
        except manifest.Unreadable as error:
            raise InvalidInput(f"{manifest.NAME} {error}", where=self._target.where) from None
        self._refuse_other(known.model, known.revision)
        problems = differences(known, self._target)
        if not problems:
            return True
        self._traffic.report(f"{problems[0]}: staging it again")
        self._target.withdraw()
        return False

    def _begin(self) -> None:
        mark = {"model": self._snapshot.model, "revision": self._snapshot.revision}
        there = self._target.begin(json.dumps(mark).encode())
        try:
            known = json.loads(there)
            model, revision = str(known["model"]), str(known["revision"])
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(
                f"{manifest.MARK} is not ours", where=self._target.where, fix="stage to another folder"
            ) from None
        self._refuse_other(model, revision)

    def _refuse_other(self, model: str, revision: str) -> None:
        if (model, revision) != (self._snapshot.model, self._snapshot.revision):
            raise InvalidInput(
                f"holds {model}@{revision[:12]}, not {self._snapshot.model}@{self._snapshot.revision[:12]}",
                where=self._target.where,
                fix="stage to another folder: pods may be reading this one",
            )

    def _check_space(self) -> None:
        found = self._target.inventory()
        free, left = self._target.free_bytes(), self._left(self._snapshot.files, found)
        need = sum(file.size - (found[file.name].size if file.name in found else 0) for file in left)
        if free is not None and need > free:
            raise NotReady(
                f"has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed", where=self._target.where
            )

    def _bring(self) -> None:
        """Store this worker's files, round after round, until all are proven."""
        own = self._part.of(self._snapshot.files)
        told = False
        while True:
            found = self._target.inventory()
            left = self._left(own, found)
            if not left or self._target.manifest() is not None:
                return
            done = self._stored + self._adopted
            self._round(left, found)
            if self._failures:
                raise first(self._failures)
            if self._stored + self._adopted == done:
                if not told:
                    told = True
                    self._traffic.report(f"another run is at {len(left)} of the files: waiting for it")
                self._traffic.sleep(_LOOK_SECONDS)
                self._begin()

    def _round(self, left: list[RemoteFile], found: dict[str, Found]) -> None:
        order = list(left)
        if self._part.count == 1:
            random.shuffle(order)  # two runs then rarely bring the same file
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="stage")
        try:
            jobs = [pool.submit(self._one, file, found.get(file.name)) for file in order]
            need, began, before = sum(file.size for file in order), time.monotonic(), self._traffic.received
            while wait(jobs, timeout=_TELL_SECONDS).not_done:
                self._tell(need, began, before)
        except BaseException:
            self._traffic.stopped.set()  # Ctrl-C: the workers end at their next chunk
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _tell(self, need: int, began: float, before: int) -> None:
        """Say how far it is, by what has come from the hub since a round began."""
        have = self._traffic.received - before
        rate = have / (time.monotonic() - began)
        left = f", about {max(need - have, 0) / rate / 60:.0f} min left" if rate else ""
        self._traffic.report(f"{have / 1e9:.1f} of {need / 1e9:.1f} GB, {rate / 1e6:.0f} MB/s{left}")

    def _one(self, file: RemoteFile, there: Found | None) -> None:
        if self._traffic.stopped.is_set():
            return
        try:
            if there is not None and there.size == file.size and self._target.adopt(file):
                with self._lock:
                    self._adopted += 1
                return
            self._store(file)
            with self._lock:
                self._stored += 1
        except (Busy, FileNotFoundError):
            return  # another run has done it, or is at it: the next round tells
        except Stopped:
            return
        except WrongBytes as error:
            self._fail(Failed(f"{error.message}; tried {_TRIES} times", where=error.where, fix=error.fix))
        except ManyhostError as error:
            self._fail(error)
            self._traffic.stopped.set()  # what fails for one file fails for all
        except Exception as error:  # a bug must not look like success
            self._fail(Failed(f"this is a bug: {type(error).__name__}: {error}", where=file.name))
            self._traffic.stopped.set()

    def _store(self, file: RemoteFile) -> None:
        for number in range(1, _TRIES + 1):
            try:
                self._target.store(
                    file, lambda have: Reader(self._hub, self._snapshot, file, self._traffic, have)
                )
            except WrongBytes as error:
                if number == _TRIES:
                    raise
                self._traffic.report(f"{error.where}: {error.message}: once more")
                continue
            return

    def _fail(self, error: ManyhostError) -> None:
        with self._lock:
            self._failures.append(error)

    @staticmethod
    def _left(files: Iterable[RemoteFile], found: dict[str, Found]) -> list[RemoteFile]:
        return [file for file in files if file.name not in found or not found[file.name].is_file(file)]

    def _phase(self, name: str) -> None:
        passed = time.monotonic() - self._started - sum(self._phases.values())
        self._phases[name] = round(self._phases.get(name, 0.0) + passed, 3)

    def _result(self, *, complete: bool) -> Staged:
        return Staged(
            where=self._target.where,
            complete=complete,
            files=len(self._snapshot.files),
            bytes=self._snapshot.bytes,
            downloaded_files=self._stored,
            downloaded_bytes=self._traffic.received,
            adopted_files=self._adopted,
            seconds=round(time.monotonic() - self._started, 3),
            phases=self._phases,
        )


def describe(snapshot: Snapshot, target: Target, found: dict[str, Found]) -> manifest.Manifest:
    """Return the manifest of a model whose files are all at the target, read back from there.

    Raises:
        InvalidInput: The files contradict each other.
    """
    headers: dict[str, safetensors.Header] = {}

    def one(file: RemoteFile) -> manifest.File:
        entry = found[file.name]
        whole = manifest.File(file.name, file.size, entry.sha256, entry.crc32c)
        is_shard = file.name.endswith(safetensors.SUFFIX)
        if not is_shard and file.size <= manifest.SMALL:
            return whole

        first = target.read(file.name, 0, _FIRST)

        def read(start: int, size: int) -> bytes:
            size = min(size, file.size - start)
            within = start + size <= len(first)
            return first[start : start + size] if within else target.read(file.name, start, size)

        offsets = manifest.blocks(file.size)
        whole = replace(whole, blocks=offsets, blocks_sha256=manifest.blocks_sha256(offsets, read))
        if not is_shard:
            return whole
        header = headers[file.name] = read_header(read, file.name, file.size)
        return replace(whole, header_sha256=header.sha256, tensor_bytes=header.tensor_bytes)

    with ThreadPoolExecutor(_READERS) as pool:
        files = list(pool.map(one, snapshot.files))
    index = snapshot.find(safetensors.INDEX)
    try:
        known = safetensors.weight_map(target.read(index.name, 0, index.size)) if index else None
    except safetensors.Broken as error:
        raise InvalidInput(str(error), where=safetensors.INDEX) from None
    if problems := safetensors.contradictions(known, headers):
        raise InvalidInput(problems[0], where=f"{snapshot.model}@{snapshot.revision[:12]}")
    return manifest.Manifest(snapshot.model, snapshot.revision, tuple(sorted(files, key=lambda f: f.name)))


def check_bytes(made: manifest.Manifest, expected: int) -> None:
    """Compare the weights with what the planner reckons with: their files' bytes, or their tensors'.

    Raises:
        InvalidInput: They differ.
    """
    shards = [file for file in made.files if file.header_sha256]
    sizes = {sum(file.size for file in shards), sum(file.tensor_bytes for file in shards)}
    if expected and expected not in sizes:
        raise InvalidInput(
            f"has {max(sizes):,} bytes of weights, the planner reckons with {expected:,}", where=made.model
        )


def read_header(read: Callable[[int, int], bytes], name: str, size: int) -> safetensors.Header:
    """Read a safetensors file's header and compare it with the file's size.

    Args:
        read: Returns bytes from an offset on.
        name: The file's, for errors.
        size: The file's.

    Raises:
        InvalidInput: It is no whole safetensors file.
    """
    try:
        data = read(0, _FIRST)
        length = safetensors.length(data)
        if length > size:
            raise safetensors.Broken("ends before its header does")
        if len(data) < length:
            data += read(len(data), length - len(data))
        header = safetensors.parse(data)
        if header.file_bytes != size:
            raise safetensors.Broken(f"is {size:,} bytes long, its header says {header.file_bytes:,}")
    except safetensors.Broken as error:
        raise InvalidInput(str(error), where=name) from None
    return header


def differences(known: manifest.Manifest, target: Target) -> list[str]:
    """Return what at a target is not as its manifest says: sizes, checksums it knows, headers and blocks.

    A bucket knows the checksum of every object, so that any other byte is noticed. In a folder headers and
    blocks stand for the bytes, as when the launcher looks before it serves.
    """
    found = target.inventory()

    with ThreadPoolExecutor(_READERS) as pool:
        return [
            text
            for text in pool.map(lambda file: _difference(file, found.get(file.name), target), known.files)
            if text
        ]


def _difference(file: manifest.File, there: Found | None, target: Target) -> str:
    if there is None:
        return f"{file.name} is missing"
    if there.size != file.size:
        return f"{file.name} has {there.size:,} bytes, its manifest says {file.size:,}"
    if there.crc32c:
        same = there.crc32c == file.crc32c
    elif file.blocks:
        same = _looks_like(file, target)
    else:
        same = hashlib.sha256(target.read(file.name, 0, file.size)).hexdigest() == file.sha256
    return "" if same else f"{file.name} has other bytes than its manifest says"


def _looks_like(file: manifest.File, target: Target) -> bool:
    """Whether header and blocks of a file are those of the manifest."""

    def read(start: int, size: int) -> bytes:
        return target.read(file.name, start, size)

    header = read(0, file.size - file.tensor_bytes) if file.header_sha256 else b""
    if file.header_sha256 and hashlib.sha256(header).hexdigest() != file.header_sha256:
        return False
    return manifest.blocks_sha256(file.blocks, read) == file.blocks_sha256
