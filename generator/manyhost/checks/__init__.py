"""Invariants of rendered manifests: what must hold before anything reaches a cluster.

Pure functions over parsed objects; the command line and the tests run the same code. A finding is
one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from manyhost.checks import (
    engine_flags,
    leaderworkerset,
    names,
    networks,
    numbers,
    parallelism,
    pod_security,
    references,
    schemas,
    scripts,
    secrets,
)
from manyhost.checks.engine_flags import FlagTable
from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, Object
from manyhost.checks.pod_security import Allowance

__all__ = ["Allowance", "Finding", "FlagTable", "run"]

# Checks of any mapping with a kind, whatever its shape.
_OF_ANY: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    schemas.check,
    numbers.check,
    secrets.check,
)

# Checks that read fields by name: only of objects whose shape is right.
_OF_VALID: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    leaderworkerset.check,
    names.check,
    parallelism.check,
    engine_flags.check,
    networks.check,
    references.check,
    scripts.check,
    pod_security.check,
)


def run(
    objects: Sequence[Object],
    *,
    flags: FlagTable | None = None,
    environment_level: Allowance | None = None,
    shipped_scripts: Collection[str] = (),
    known_secrets: Collection[str] = ("hf-secret",),
    manifests_text: str = "",
) -> list[Finding]:
    """Return what is wrong with a set of manifests; an empty list means nothing was found.

    Args:
        objects: The parsed documents of one release.
        flags: Flags of the pinned engine version; None skips the check of engine arguments.
        environment_level: What the environment allows its pods; None skips Pod Security.
        shipped_scripts: Texts of the scripts that the chart ships, which its own tests check;
            any other script is checked here, which costs a process each.
        known_secrets: Secrets that exist outside these manifests.
        manifests_text: The YAML text, to find keys that stand twice; "" skips that.
    """
    context = Context(
        objects,
        flags=flags,
        allowance=environment_level,
        shipped_scripts=frozenset(shipped_scripts),
        known_secrets=frozenset(known_secrets),
    )
    findings = [finding for check in _OF_ANY for finding in check(context)]
    malformed = {f.where.split(" ", 1)[0] for f in findings if f.check == "schema"}
    valid = context.without(malformed) if malformed else context
    findings += [finding for check in _OF_VALID for finding in check(valid)]
    if manifests_text:
        findings += references.duplicate_keys(manifests_text)
    return findings
