"""Load generators that do not come with the engine: each in a pinned environment of its own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from manyhost.errors import RemoteError
from manyhost.home import home

_REQUIREMENTS = Path(__file__).parent / "requirements"
_LAST_LINES = 3


def lock(tool: str) -> Path:
    """Return the file with a tool's distributions, each with its version and hashes."""
    return _REQUIREMENTS / f"{tool}.txt"


def installed(tool: str) -> Path:
    """Return a tool's program, after installing it when it is not here yet.

    Raises:
        RemoteError: The package registry cannot be reached, or has another file than was pinned.
    """
    pinned = lock(tool)
    name = f"{tool}-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]}"
    home = _cache() / "tools"
    program, whole = home / name / "bin" / tool, home / name / ".whole"
    home.mkdir(parents=True, exist_ok=True)
    # Relocatable it is not: its scripts name their Python. So a mark is made last, and another run waits.
    with (home / f"{name}.lock").open("w") as turn, tempfile.TemporaryDirectory() as cache:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if whole.exists():
            return program
        _run(sys.executable, "-m", "venv", "--clear", str(home / name))
        words = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes")
        _run(str(home / name / "bin/python"), *words, "--no-deps", "--cache-dir", cache, "-r", str(pinned))
        whole.touch()
    return program


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return Path(base) / "manyhost"


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
        raise RemoteError(f"the tool could not be installed: {said[:500]}", where="--runner")
