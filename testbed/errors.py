"""Errors of the test cluster."""

from __future__ import annotations


class ClusterError(Exception):
    """Something that the caller can act on; the message is one or two lines.

    Attributes:
        exit_code: 4 when this machine lacks something, 1 when a step failed.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MissingError(ClusterError):
    """This machine cannot run the test cluster."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=4)
