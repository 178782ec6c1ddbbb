"""The Hugging Face hub through its own client: which files a commit has, and their bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from manyhost.errors import InvalidInput, ManyhostError, NotReady, RemoteError
from manyhost.secret import secret
from manyhost.weights import manifest, safetensors
from manyhost.weights.digest import RemoteFile

DEFAULT_ENDPOINT = "https://huggingface.co"
CHUNK = 1024**2
# What serving needs; other formats of the same weights, figures and demos are left where they are.
_WANTED = (safetensors.SUFFIX, ".json", ".jinja", ".model", ".py", ".tiktoken", ".txt")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# A single plain request gives at most 50 GB (huggingface_hub, constants.MAX_HTTP_DOWNLOAD_SIZE).
_REQUEST_BYTES = 16 * 1024**3


@dataclass(frozen=True)
class Snapshot:
    """A model at one commit.

    Attributes:
        model: Its name on the hub.
        revision: The commit.
        files: What serving needs of it, by name.
    """

    model: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def shards(self) -> tuple[RemoteFile, ...]:
        """The safetensors files."""
        return tuple(file for file in self.files if file.name.endswith(safetensors.SUFFIX))

    def find(self, name: str) -> RemoteFile | None:
        """Return a file by name."""
        return next((file for file in self.files if file.name == name), None)


class NoXet(Exception):
    """The Xet client is not there, or is one that cannot stream."""


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit's whole name: a branch or a tag may mean something else tomorrow."""
    return bool(_COMMIT.fullmatch(revision))


class Hub:
    """The hub, or a mirror of it.

    The token comes from the environment variable HF_TOKEN and from nowhere else, and is never shown.

    Args:
        endpoint: Its address; HF_ENDPOINT, or the public hub, by default.
        seconds: How long one request may say nothing.

    Attributes:
        endpoint: Its address.
    """

    def __init__(self, endpoint: str = "", *, seconds: float = 60) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        _check(self.endpoint)
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers, logging

        logging.set_verbosity_error()  # retries are told by whoever waits for them
        token: str | bool = secret("HF_TOKEN") or False
        self._api = HfApi(endpoint=self.endpoint, token=token)
        self._headers: dict[str, str] = {
            **build_hf_headers(token=token),
            # The bytes themselves: a range of compressed bytes would be of no use.
            "Accept-Encoding": "identity",
        }
        self._seconds = seconds

    def snapshot(self, model: str, revision: str) -> Snapshot:
        """Return what a revision is today.

        Args:
            model: Name on the hub.
            revision: A commit, a branch or a tag.

        Raises:
            InvalidInput: There is no such model or revision.
            NotReady: It needs a token, or another one.
            RemoteError: The hub fails.
        """
        try:
            commit = str(self._api.model_info(model, revision=revision or None).sha)
            tree = list(self._api.list_repo_tree(model, recursive=True, revision=commit))
        except Exception as error:  # the client's errors have no common class
            raise _explain(error, model, revision, self.endpoint) from None
        files = [_file(item) for item in tree if hasattr(item, "size")]
        if not any(file.name == safetensors.INDEX for file in files):
            return Snapshot(model, commit, tuple(file for file in files if _is_wanted(file.name, None)))
        snapshot = Snapshot(model, commit, tuple(files))
        index = snapshot.find(safetensors.INDEX)
        assert index  # noqa: S101  looked for above
        try:
            named = set(safetensors.weight_map(self.read(snapshot, index, 0, index.size)).values())
        except safetensors.Broken as error:
            raise InvalidInput(f"{safetensors.INDEX} {error}", where=f"{model}@{commit[:12]}") from None
        return Snapshot(model, commit, tuple(file for file in files if _is_wanted(file.name, named)))

    def read(self, snapshot: Snapshot, file: RemoteFile, start: int, length: int) -> bytes:
        """Return some bytes of a file; rate limits and failures are waited for as the client does.

        Raises:
            NotReady: It needs a token, or another one.
            RemoteError: The hub fails.
        """
        from huggingface_hub.utils import hf_raise_for_status, http_backoff

        end = min(start + length, file.size)
        if end <= start:
            return b""
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        try:
            response = http_backoff(
                "GET",
                self._url(snapshot, file),
                headers=headers,
                timeout=self._seconds,
                follow_redirects=True,
            )
            hf_raise_for_status(response)
        except Exception as error:
            raise _explain(error, snapshot.model, snapshot.revision, self.endpoint) from None
        data: bytes = response.content
        return data[start:end] if response.status_code == 200 else data

    def stream(self, snapshot: Snapshot, file: RemoteFile, start: int, *, xet: bool) -> Iterator[bytes]:
        """Yield a file's bytes from an offset on, once: whoever reads resumes after a failure.

        Args:
            snapshot: The commit.
            file: One of its files.
            start: Offset of the first byte.
            xet: Through Xet storage instead of plain HTTP.

        Raises:
            NoXet: The Xet client cannot stream.
            Exception: Whatever the clients raise.
        """
        yield from self._xet(snapshot, file, start) if xet else self._http(snapshot, file, start)

    def _http(self, snapshot: Snapshot, file: RemoteFile, start: int) -> Iterator[bytes]:
        from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

        while start < file.size:
            end = min(start + _REQUEST_BYTES, file.size)
            with http_stream_backoff(
                "GET",
                self._url(snapshot, file),
                headers={**self._headers, "Range": f"bytes={start}-{end - 1}"},
                timeout=self._seconds,
                follow_redirects=True,
                max_retries=0,
                retry_on_exceptions=(),
                retry_on_status_codes=(),
            ) as response:
                hf_raise_for_status(response)
                skip = start if response.status_code == 200 else 0
                before = start
                for chunk in response.iter_bytes(CHUNK):
                    passed = min(skip, len(chunk))
                    skip -= passed
                    if len(chunk) > passed:
                        start += len(chunk) - passed
                        yield chunk[passed:] if passed else chunk
                if start == before:
                    return  # an empty answer: the reader counts it as a failure

    def _xet(self, snapshot: Snapshot, file: RemoteFile, start: int) -> Iterator[bytes]:
        try:
            from hf_xet import XetFileInfo
            from huggingface_hub.utils import _xet

            session = _xet.get_xet_session()
            open_group = session.new_download_stream_group
            route = f"{self.endpoint}/api/models/{snapshot.model}/xet-read-token/{snapshot.revision}"
            data = _xet.XetFileData(file_hash=file.xet_hash, refresh_route=route)
            own = _xet.xet_headers_without_auth(self._headers)
        except (ImportError, AttributeError) as error:
            raise NoXet(str(error)) from None
        known = _xet.refresh_xet_connection_info(file_data=data, headers=self._headers)
        group = open_group(
            endpoint=known.endpoint,
            token=known.access_token,
            token_expiry_unix_secs=known.expiration_unix_epoch,
            token_refresh_url=route,
            token_refresh_headers=self._headers,
            custom_headers=own,
        )
        stream = group.download_stream(XetFileInfo(file.xet_hash, file.size), start=start or None)
        try:
            yield from stream
        finally:
            stream.cancel()

    def _url(self, snapshot: Snapshot, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(snapshot.model, file.name, revision=snapshot.revision, endpoint=self.endpoint)
        return url


def _file(item: Any) -> RemoteFile:
    """Return a file of the client's as one of ours.

    Raises:
        InvalidInput: Its name would lie elsewhere, or take the place of the manifest.
    """
    parts = item.path.split("/")
    if not all(parts) or {".", ".."} & set(parts) or parts[0] in (manifest.NAME, manifest.STAGING):
        raise InvalidInput(f"the hub has a file that cannot be staged: {item.path[:120]}", where="model")
    sha256 = item.lfs.sha256 if item.lfs else ""
    return RemoteFile(item.path, item.size, sha256, "" if sha256 else item.blob_id, item.xet_hash or "")


def _is_wanted(name: str, shards: set[str] | None) -> bool:
    if name.split("/", maxsplit=1)[0] in ("original", "figures", "assets"):
        return False
    if name.endswith(safetensors.SUFFIX):
        return name in shards if shards is not None else "/" not in name
    return name.endswith(_WANTED) or name.upper().startswith("LICENSE")


def status_of(error: BaseException) -> int:
    """Return the HTTP status that an error of the client carries; 0 for none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def wait_of(error: BaseException) -> float | None:
    """Return how many seconds the hub asks to wait after a 429; None where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = getattr(getattr(error, "response", None), "headers", {})
    limit = parse_ratelimit_headers(headers)
    if limit and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = str(headers.get("retry-after", "")).strip()
    return float(after) if after.isdecimal() else None


def _explain(error: Exception, model: str, revision: str, endpoint: str) -> ManyhostError:
    """Return what a failure of the client means."""
    name, status = type(error).__name__, status_of(error)
    if name == "RevisionNotFoundError":
        return InvalidInput(f"{model} has no revision {revision[:80]}", where="revision")
    if name in ("GatedRepoError", "DisabledRepoError") or status == 403:
        return NotReady(
            f"the hub gives {model} only to accounts that have accepted its terms",
            fix=f"accept them at {DEFAULT_ENDPOINT}/{model} and export HF_TOKEN",
        )
    if name == "RepositoryNotFoundError" or status in (401, 404):
        return InvalidInput(
            f"the hub has no model {model[:120]}, or not for this token",
            where="model",
            fix="export HF_TOKEN for a private or gated model",
        )
    if name == "OfflineModeIsEnabled":
        return NotReady("HF_HUB_OFFLINE is set", fix="unset HF_HUB_OFFLINE")
    if name == "HFValidationError":
        return InvalidInput(f"no name of a model on the hub: {model[:120]}", where="model")
    return RemoteError(
        f"the hub fails for {model}: {f'HTTP {status}' if status else name}",
        where="" if endpoint == DEFAULT_ENDPOINT else endpoint,
    )


def _check(endpoint: str) -> None:
    """See that an address is one, before the client's module reads it.

    Raises:
        InvalidInput: It is none.
    """
    try:
        address = urlsplit(endpoint)
        fine = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise InvalidInput(
            f"{endpoint[:120]!r} is no address of a hub",
            where="HF_ENDPOINT",
            fix=f"unset it, or write it like {DEFAULT_ENDPOINT}",
        )
