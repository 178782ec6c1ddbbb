"""The cgroups below which a node's pods live, on cgroup v1 and v2."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from testbed.errors import ClusterError, MissingError

ROOT = Path("/sys/fs/cgroup")


def _is_v2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    if _is_v2():
        return [ROOT]
    found = [c for c in ROOT.iterdir() if c.is_dir() and not c.is_symlink()]
    if not any(c.name == "memory" for c in found):
        raise MissingError(f"no cgroups under {ROOT}: the test cluster needs cgroup v1 or v2")
    return found


def create(path: str) -> None:
    """Makes the cgroup `path` in every hierarchy; the kubelet wants its root to exist.

    On v1 a new cpuset is empty, which lets nothing run: it gets its parent's processors. On v2 the
    parents hand their controllers down.
    """
    for root in _hierarchies():
        parent = root
        for part in path.split("/"):
            if _is_v2():
                for controller in (parent / "cgroup.controllers").read_text().split():
                    # cgroup v2 refuses single controllers (rt processes on cpu): the kubelet says
                    # which it misses
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            child = parent / part
            child.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not _is_v2() and (child / name).exists():
                    (child / name).write_text((parent / name).read_text())
            parent = child


def remove(path: str, *, seconds: float = 10) -> None:
    """Removes the cgroup `path` with all below it, whose processes have been ended.

    Raises:
        ClusterError: one is still in use after `seconds`.
    """
    end = time.monotonic() + seconds
    while left := [c / path for c in _hierarchies() if (c / path).is_dir()]:
        for top in left:
            for child in [*sorted(top.rglob("*"), reverse=True), top]:
                if child.is_dir():
                    with contextlib.suppress(OSError):
                        child.rmdir()
        if time.monotonic() > end:
            raise ClusterError(f"cgroup still in use: {left[0]}")
        time.sleep(0.05)


def exists(path: str) -> bool:
    """Whether the cgroup `path` is in any hierarchy."""
    return any((c / path).is_dir() for c in _hierarchies())
