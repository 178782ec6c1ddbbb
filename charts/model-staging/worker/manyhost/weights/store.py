"""Cloud Storage through the real client: how it is opened, and what its failures mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from manyhost.commands import line
from manyhost.errors import NotReady, RemoteError

T = TypeVar("T")
_LOG_IN = f"log in: {line('gcloud', 'auth', 'application-default', 'login')}"


class Store:
    """A Cloud Storage client; STORAGE_EMULATOR_HOST sends it to an emulator.

    Args:
        client: The client.
        region: Where buckets should be; empty when nobody knows.
    """

    def __init__(self, client: Any, region: str = "") -> None:
        self.client = client
        self._region = region

    def call(self, action: Callable[[], T], where: str) -> T:
        """Call the client.

        Raises:
            NotReady: No credentials, or they do not allow it.
            RemoteError: Missing bucket, no connection, or any other failure.
        """
        import requests
        from google.api_core.exceptions import (
            Forbidden,
            GoogleAPICallError,
            NotFound,
            RetryError,
            Unauthorized,
        )
        from google.auth.exceptions import GoogleAuthError

        try:
            return action()
        except NotFound:
            raise RemoteError(
                f"{where} does not exist",
                fix=f"if it is to be yours: {create(where, self._region)}",
            ) from None
        except (Forbidden, Unauthorized):
            raise NotReady(f"your credentials do not allow it on {where}", fix=_LOG_IN) from None
        except GoogleAuthError:
            raise NotReady("there are no credentials", fix=_LOG_IN) from None
        except (GoogleAPICallError, RetryError, requests.RequestException, OSError) as error:
            raise RemoteError(f"Cloud Storage fails for {where}: {type(error).__name__}") from None


def open_store(project: str = "", region: str = "") -> Store:
    """Open Cloud Storage with the application's default credentials.

    Args:
        project: Google Cloud project; empty for the credentials' own.
        region: Where buckets should be; empty when nobody knows.

    Raises:
        NotReady: There are none.
    """
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        anonymous: Any = AnonymousCredentials  # untyped
        return Store(storage.Client(project=project or "emulator", credentials=anonymous()), region)
    # Outside Google Cloud the look for a metadata server must not take its default nine seconds.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    try:
        return Store(storage.Client(project=project or None), region)
    except (GoogleAuthError, OSError):
        raise NotReady("there are no credentials", fix=_LOG_IN) from None


def create(bucket: str, region: str) -> str:
    """Return the command that makes a bucket of our kind.

    Args:
        bucket: gs://name.
        region: Where; empty when nobody knows.
    """
    options = ("--uniform-bucket-level-access", "--enable-hierarchical-namespace")
    return line(
        "gcloud", "storage", "buckets", "create", bucket, "--location", region or "LOCATION", *options
    )
