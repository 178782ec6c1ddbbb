"""The user's home folder, which somebody in a container may not have."""

from __future__ import annotations

from pathlib import Path

from manyhost.errors import NotReady


def home() -> Path:
    """Return it.

    Raises:
        NotReady: HOME is not set, and the system does not know the user.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise NotReady(
            "is not set, and the system does not know you",
            where="HOME",
            fix="export HOME=... with a folder of yours",
        ) from None
