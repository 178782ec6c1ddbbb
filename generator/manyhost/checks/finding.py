"""What a check reports."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    Attributes:
        check: Name of the rule, stable: `schema`, `engine-flag`, ...
        where: `Kind/name path.in.object`.
        message: What is wrong, one sentence.
        fix: What to do, one sentence; may be empty.
        severity: An error stops the render, a warning is shown.
        flag: The engine flag that it is about, as it was given and without dashes; empty for all else.
    """

    check: str
    where: str
    message: str
    fix: str = ""
    severity: Literal["error", "warning"] = "error"
    flag: str = ""

    def __str__(self) -> str:
        """Return the line that users see."""
        advice = f"; {self.fix}" if self.fix else ""
        return f"{self.where}: {self.message}{advice} [{self.check}]"
