"""RunPod's S3 endpoint: a network volume as a bucket, whose objects are its files, without a pod.

Endpoints, keys, operations, limits and known troubles: runpod/docs, storage/s3-api.mdx.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from manyhost.errors import ManyhostError, NotReady, RemoteError
from manyhost.secret import secret
from manyhost.weights.transfer import Patience

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

# The names under which RunPod's documentation has them.
ACCESS, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
_SECONDS = 120.0  # for one answer; the proxy before the endpoint gives up after 100
_CONNECT_SECONDS = 20.0
_DENIED = (
    3  # how often the endpoint may deny what it allows at other times ("intermittent AccessDenied errors")
)
_OF_AWS = ("AKIA", "ASIA")  # docs.aws.amazon.com, IAM, "Understanding unique ID prefixes"
_MAKE = "make one in RunPod's console (Settings, S3 API Keys)"
T = TypeVar("T")


class NoAnswer(RemoteError):
    """Nobody knows whether it was carried out; it may be asked again.

    Attributes:
        late: Whether the answer did not come in time, and may be on its way.
    """

    late = False


class Missing(RemoteError):
    """There is no such object, or no such upload."""


class Denied(NotReady):
    """The key may not do that, or the endpoint says so."""


class NoVolume(NotReady):
    """The endpoint does not know the volume."""


@dataclass(frozen=True)
class Keys:
    """An S3 API key of RunPod's, which is another one than that of its REST API.

    Attributes:
        access: Its id.
        secret: Signs requests and is never sent.
    """

    access: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Object:
    """An object as the endpoint has it.

    Attributes:
        size: Bytes.
        changed: When it was written, seconds since the epoch.
        etag: Quoted MD5 of an object that came whole, something else of one in parts; may be empty.
    """

    size: int
    changed: float
    etag: str


def keys() -> Keys:
    """Return the key that the environment has.

    Raises:
        NotReady: It has none, or one of Amazon's.
        InvalidInput: It has a character that no key has.
    """
    found = Keys(secret(ACCESS), secret(SECRET))
    for name, value in ((ACCESS, found.access), (SECRET, found.secret)):
        if not value:
            raise NotReady(
                "is not set: the S3 endpoint wants a key of its own",
                where=name,
                fix=f"{_MAKE}, and export {ACCESS}=... {SECRET}=...",
            )
    if found.access.startswith(_OF_AWS):
        raise NotReady(
            "is a key of Amazon's, not an S3 API key of RunPod's",
            where=ACCESS,
            fix=f"{_MAKE}, and export {ACCESS}=... {SECRET}=...",
        )
    return found


def endpoint(data_center: str) -> str:
    """Return the address of a data center's endpoint."""
    return f"https://s3api-{data_center.lower()}.runpod.io"


class S3:
    """The endpoint of one data center, with one key.

    Args:
        data_center: Where; RunPod takes its name for the region.
        key: Of the account.
        url: Where the endpoint is; RunPod's own by default.
        patience: How often, and after what waits, a call is repeated.
    """

    def __init__(
        self,
        data_center: str,
        key: Keys,
        url: str = "",
        *,
        patience: Patience = Patience(),  # noqa: B008
    ) -> None:
        from botocore.config import Config
        from botocore.session import Session

        # Nothing of a configuration for Amazon: neither profile nor files.
        nothing, nowhere = (None, None, None, None), (None, None, os.devnull, None)
        own = {"profile": nothing, "config_file": nowhere, "credentials_file": nowhere}
        session = Session(session_vars=own)
        self._patience = patience
        self.url = (url or endpoint(data_center)).rstrip("/")
        self._client: S3Client = cast(
            "S3Client",
            session.create_client(
                "s3",
                region_name=data_center,
                endpoint_url=self.url,
                aws_access_key_id=key.access,
                aws_secret_access_key=key.secret,
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_SECONDS,
                    retries={"total_max_attempts": 1},  # `call` repeats: it can be stopped, and tells
                    max_pool_connections=32,
                    # Trailing checksums are not among what the endpoint is said to know.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    # The sha256 of every body is signed, over TLS too.
                    s3={"addressing_style": "path", "payload_signing_enabled": True},
                ),
            ),
        )

    def volumes(self) -> list[str]:
        """Return RunPod's names of the volumes that the key may see here.

        Raises:
            NotReady: The key is not accepted.
        """
        found = self.call(lambda client: client.list_buckets(), self.url)
        return [bucket.get("Name", "") for bucket in found.get("Buckets", [])]

    def listed(self, volume: str, prefix: str) -> dict[str, Object]:
        """Return the objects below a prefix, by key.

        The first list of files that a pod has written takes minutes: RunPod computes their MD5.
        """

        def look(client: S3Client) -> dict[str, Object]:
            return {key: found for page in _pages(client, volume, prefix) for key, found in page}

        return self.call(look, f"s3://{volume}/{prefix}")

    def head(
        self, volume: str, key: str, sleep: Callable[[float], None] = time.sleep
    ) -> Object | None:  # fmt: skip
        """Return what an object is; None if there is none."""

        def look(client: S3Client) -> Object:
            found = client.head_object(Bucket=volume, Key=key)
            return Object(found["ContentLength"], found["LastModified"].timestamp(), found.get("ETag", ""))

        try:
            return self.call(look, f"s3://{volume}/{key}", sleep)
        except Missing:
            return None

    def get(self, volume: str, key: str, start: int, length: int) -> bytes:
        """Return some bytes of an object.

        Raises:
            Missing: There is none.
        """

        def read(client: S3Client) -> bytes:
            found = client.get_object(Bucket=volume, Key=key, Range=f"bytes={start}-{start + length - 1}")
            _ = found["LastModified"]  # which a page of a proxy lacks
            if found["ContentLength"] > length:
                raise NoAnswer("sends more than it was asked for", where=f"s3://{volume}/{key}")
            return found["Body"].read()

        return self.call(read, f"s3://{volume}/{key}")

    def put(
        self, volume: str, key: str, data: bytes, sleep: Callable[[float], None] = time.sleep
    ) -> str:  # fmt: skip
        """Write an object whole, up to 500 MB, and return its ETag."""
        return self.call(
            lambda client: client.put_object(Bucket=volume, Key=key, Body=data)["ETag"],
            f"s3://{volume}/{key}",
            sleep,
        )

    def delete(self, volume: str, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            self.call(lambda client: client.delete_object(Bucket=volume, Key=key), f"s3://{volume}/{key}")
        except Missing:
            return

    def uploads(self, volume: str, prefix: str) -> list[tuple[str, str]]:
        """Return key and id of the uploads below a prefix that have begun and not ended, the oldest first."""

        def look(client: S3Client) -> list[Any]:
            return cast(
                "list[Any]", client.list_multipart_uploads(Bucket=volume, Prefix=prefix).get("Uploads", [])
            )

        found = self.call(look, f"s3://{volume}/{prefix}")
        ordered = sorted(found, key=lambda one: (str(one.get("Initiated", "")), one["UploadId"]))
        return [(one["Key"], one["UploadId"]) for one in ordered if one["Key"].startswith(prefix)]

    def begin(self, volume: str, key: str, sleep: Callable[[float], None]) -> str:
        """Begin an upload in parts, and return its id."""
        return self.call(
            lambda client: client.create_multipart_upload(Bucket=volume, Key=key)["UploadId"],
            f"s3://{volume}/{key}",
            sleep,
        )

    def parts(self, volume: str, key: str, upload: str) -> dict[int, tuple[int, str]]:
        """Return size and ETag of the parts that an upload has, by number.

        Raises:
            Missing: There is no such upload.
        """

        def look(client: S3Client) -> dict[int, tuple[int, str]]:
            found: dict[int, tuple[int, str]] = {}
            after = 0
            while True:
                page = client.list_parts(Bucket=volume, Key=key, UploadId=upload, PartNumberMarker=after)
                parts = page.get("Parts", [])
                found |= {part["PartNumber"]: (part["Size"], part["ETag"]) for part in parts}
                last = max(found, default=0)
                if not page.get("IsTruncated") or last <= after:
                    return found
                after = last

        return self.call(look, f"s3://{volume}/{key}")

    def part(
        self, volume: str, key: str, upload: str, number: int, data: bytes, sleep: Callable[[float], None]
    ) -> str:
        """Send a part, up to 500 MB, and return its ETag.

        Raises:
            Missing: There is no such upload any more.
        """
        return self.call(
            lambda client: client.upload_part(
                Bucket=volume, Key=key, UploadId=upload, PartNumber=number, Body=data
            )["ETag"],
            f"s3://{volume}/{key}",
            sleep,
        )

    def join(self, volume: str, key: str, upload: str, etags: list[str]) -> None:
        """Ask once that parts become an object.

        Raises:
            NoAnswer: It may be at it, or have done it.
            Missing: There is no such upload any more.
            RemoteError: It does not take them.
        """
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)
        ]
        self._once(
            lambda client: client.complete_multipart_upload(
                Bucket=volume, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            ),
            f"s3://{volume}/{key}",
        )

    def abort(self, volume: str, key: str, upload: str) -> None:
        """Forget an upload, if it is there."""
        try:
            self.call(
                lambda client: client.abort_multipart_upload(Bucket=volume, Key=key, UploadId=upload),
                f"s3://{volume}/{key}",
            )
        except Missing:
            return

    def call(
        self, action: Callable[[S3Client], T], where: str, sleep: Callable[[float], None] = time.sleep
    ) -> T:
        """Call the client, again as often as that may help.

        Args:
            action: What to do; it may be done twice.
            where: What it is about.
            sleep: How to wait, seconds.

        Raises:
            ManyhostError: It fails for good.
        """
        denied, last = 0, ""
        for pause in self.pauses():
            try:
                return self._once(action, where)
            except Denied:
                denied += 1
                if denied == _DENIED:
                    raise
            except NoAnswer as error:
                last = error.message
            sleep(pause)
        text = f"{last}, {self._patience.attempts} times in a row"
        raise RemoteError(text, where=where, fix="run the same again: what is there stays")

    def pauses(self) -> Iterator[float]:
        """Yield for each try how long to wait after it, seconds."""
        yield from map(self._patience.pause, range(1, self._patience.attempts + 1))

    def _once(self, action: Callable[[S3Client], T], where: str) -> T:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ReadTimeoutError
        from botocore.parsers import ResponseParserError

        try:
            return action(self._client)
        except ClientError as error:
            raise _meaning(error.response, where) from None
        except KeyError as error:  # a page of a proxy, say
            raise NoAnswer(f"RunPod's S3 endpoint answers without {error}", where=where) from None
        except (BotoCoreError, HTTPClientError, ResponseParserError) as error:
            lost = NoAnswer(f"RunPod's S3 endpoint gives no answer: {type(error).__name__}", where=where)
            lost.late = isinstance(error, ReadTimeoutError)
            raise lost from None


def _pages(client: S3Client, volume: str, prefix: str) -> Iterator[list[tuple[str, Object]]]:
    """Yield the pages of a list; what ends with / is a folder."""
    seen: set[str] = set()
    more: dict[str, Any] = {}
    while True:
        page = client.list_objects_v2(Bucket=volume, Prefix=prefix, **more)
        yield [
            (one["Key"], Object(one["Size"], one["LastModified"].timestamp(), one.get("ETag", "")))
            for one in page.get("Contents", [])
            if not one["Key"].endswith("/")
        ]
        token = page.get("NextContinuationToken", "")
        if not page.get("IsTruncated") or not token:
            return
        if token in seen:  # known of this endpoint: it passes when the same is asked some time later
            raise NoAnswer("the list of files goes round in circles", where=f"s3://{volume}/{prefix}")
        seen.add(token)
        more = {"ContinuationToken": token}


def _meaning(response: Any, where: str) -> ManyhostError:
    """Return what a refusal means."""
    code = str(response.get("Error", {}).get("Code", ""))[:60]
    said = " ".join(str(response.get("Error", {}).get("Message", "")).split())[:200]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MEANINGS:
        return _MEANINGS[code](code, where)
    if status == 404:
        return Missing(f"is not there: {code}", where=where)
    if status == 403:
        text = f"the key of {ACCESS} may not do that: {code}"
        return Denied(text, where=where, fix="use a key of the volume's account")
    text = " ".join(word for word in (f"HTTP {status}", code if code != str(status) else "", said) if word)
    if status < 500 and status not in (408, 429):
        return RemoteError(f"RunPod's S3 endpoint refuses it: {text}", where=where)
    failed = NoAnswer(f"RunPod's S3 endpoint fails: {text}", where=where)
    failed.late = status in (504, 524)  # of the proxy before it, which does not wait as long as joining takes
    return failed


def _no_key(code: str, where: str) -> ManyhostError:
    text = f"is not accepted by RunPod's S3 endpoint: {code}"
    return NotReady(text, where=ACCESS, fix=f"{_MAKE}, and export {ACCESS}=... {SECRET}=...")


_MEANINGS: dict[str, Callable[[str, str], ManyhostError]] = {
    "InvalidAccessKeyId": _no_key,
    "SignatureDoesNotMatch": _no_key,
    "Unauthorized": _no_key,
    "NoSuchBucket": lambda _, where: NoVolume(
        "RunPod's S3 endpoint does not know the volume, or not for this key", where=where
    ),
    "RequestTimeTooSkewed": lambda _, where: NotReady(
        "this machine's clock is wrong: RunPod refuses requests of another time", where=where
    ),
}
