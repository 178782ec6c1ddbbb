"""Secrets, which come from environment variables and go into HTTP headers."""

from __future__ import annotations

import os

from manyhost.errors import InvalidInput


def secret(name: str) -> str:
    """Return the secret in an environment variable; empty when there is none.

    Raises:
        InvalidInput: It has what no header takes, such as the line break at the end of the file it was read
            from; an HTTP client would show all of it in its error.
    """
    value = os.environ.get(name, "")
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        raise InvalidInput(
            "has a blank or a line break at an end of it, or a character that no key has",
            where=name,
            fix=f"export {name}=... anew",
        )
    return value
