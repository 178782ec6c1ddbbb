"""Waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(what: str, probe: Callable[[], Any], seconds: float = 60, *, pause: float = 0.3) -> Any:
    """Wait until a probe returns something true; return it."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
