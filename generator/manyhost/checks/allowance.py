"""What an environment allows its pods: plain data that the checks are given."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["restricted", "baseline", "privileged"]
LEVELS: tuple[Level, ...] = ("restricted", "baseline", "privileged")  # the strictest first


class Allowance(msgspec.Struct, frozen=True):
    """What an environment allows its pods.

    Attributes:
        level: The weakest level that its pods may have.
        violations: Departures from the baseline, in the words of `pod_security.violations`.
        exemptions: Rules of `hardening` that they may break, in its words; None skips them.
    """

    level: Level
    violations: frozenset[str] = frozenset()
    exemptions: frozenset[str] | None = None
