"""What is known of an engine version: plain data that the checks are given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec


class FlagTable(msgspec.Struct, frozen=True, dict=True):
    """The flags of one engine version.

    Attributes:
        version: The version the flags were taken from, for messages.
        flags: Name without dashes -> type, choices, negatable, negative, aliases, list, ...
        executors: What can start its ranks on several hosts; empty when nobody says.
        engine: What people call the engine.
    """

    version: str
    flags: Mapping[str, Mapping[str, Any]]
    executors: tuple[str, ...] = ()
    engine: str = "vLLM"

    def __str__(self) -> str:
        """Return what people call it: vLLM v0.26.0."""
        return f"{self.engine} {self.version}"

    @cached_property
    def spellings(self) -> dict[str, tuple[str, bool]]:
        """Return each spelling of each flag with its name and whether it switches the flag off."""
        found: dict[str, tuple[str, bool]] = {}
        for name, flag in self.flags.items():
            found[f"--{name}"] = (name, False)
            if flag.get("negatable"):
                found[f"--no-{name}"] = (name, True)
            for other in flag.get("negative", ()):
                found[f"--{other}"] = (name, True)
            for other in flag.get("aliases", ()):
                found[other if other.startswith("-") else f"--{other}"] = (name, False)
        return found
