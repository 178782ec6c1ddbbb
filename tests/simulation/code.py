"""The launcher's decisions as modules: as they are, or with a bug planted."""

from __future__ import annotations

import functools
import re
import sys
import types
from typing import Any, NamedTuple

from tests.helpers.helm import CHART

LAUNCHER = CHART / "launcher"
NAMES = ("manyhost_group", "manyhost_wire", "manyhost_leader", "manyhost_worker")


class Code(NamedTuple):
    group: Any
    wire: Any
    leader: Any
    worker: Any


class Bug(NamedTuple):
    """A mistake somebody could make: in a module, one text instead of another.

    Attributes:
        seed: Of a schedule that shows it, to begin with.
    """

    name: str
    module: str
    old: str
    new: str
    seed: int = 0


def load(bug: Bug | None = None) -> Code:
    """The modules that decide, run from their source; nothing else sees them."""
    kept = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    made = []
    try:
        for name in NAMES:
            source = (LAUNCHER / f"{name}.py").read_text()
            if bug and bug.module == name:
                assert source.count(bug.old) == 1, (bug.name, source.count(bug.old))
                source = source.replace(bug.old, bug.new)
            module = types.ModuleType(name)
            module.__file__ = str(LAUNCHER / f"{name}.py")
            sys.modules[name] = module
            exec(compile(source, module.__file__, "exec"), module.__dict__)
            made.append(module)
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
    return Code(*made)


@functools.cache
def readiness_probe() -> tuple[float, int]:
    """How the kubelet asks, as the chart says: seconds between two probes, refusals that it believes."""
    text = (CHART / "templates/_container.tpl").read_text()
    found = re.search(r"readinessProbe:.*?periodSeconds: (\d+).*?failureThreshold: (\d+)", text, re.DOTALL)
    assert found
    return float(found[1]), int(found[2])


@functools.cache
def current() -> Code:
    return load()
