"""Invariants of rendered manifests: what must hold before anything reaches a cluster.

Pure functions over parsed objects; the command line and the tests run the same code. A finding is
one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from manyhost.checks import (
    coverage,
    engine_flags,
    hardening,
    leaderworkerset,
    names,
    networks,
    numbers,
    parallelism,
    pod_security,
    references,
    routing,
    schemas,
    scripts,
    secrets,
)
from manyhost.checks.allowance import Allowance
from manyhost.checks.finding import Finding
from manyhost.checks.flag_table import FlagTable
from manyhost.checks.objects import Context, Object, ShellCheck, containers_anywhere, leaves, pod_templates

__all__ = ["Allowance", "Finding", "FlagTable", "run"]

# Checks that read fields by name: only of objects and pods whose shape is right.
_OF_VALID: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    leaderworkerset.check,
    names.check,
    parallelism.check,
    engine_flags.check,
    networks.check,
    references.check,
    routing.check,
    scripts.check,
    pod_security.check,
    hardening.check,
)


def run(
    objects: Sequence[Object],
    *,
    flags: FlagTable | None = None,
    environment_level: Allowance | None = None,
    shell: ShellCheck | None = None,
    shipped_scripts: Collection[str] = (),
    known_secrets: Collection[str] = ("hf-secret",),
    manifests_text: str = "",
) -> list[Finding]:
    """Return what is wrong with a set of manifests; an empty list means nothing was found.

    Args:
        objects: The parsed documents of one release, plain JSON values.
        flags: Flags of the pinned engine version; None skips the check of engine arguments.
        environment_level: What the environment allows its pods; None skips Pod Security and hardening.
        shell: Says what is wrong with a shell script; None skips shell scripts.
        shipped_scripts: Texts of the scripts that the chart ships, which its own tests check;
            any other script is checked here, which costs a process each.
        known_secrets: Secrets that exist outside these manifests.
        manifests_text: The YAML text, to find keys that stand twice; "" skips that.
    """
    findings: list[Finding] = []
    valid, invalid, scripts_of_chart = list[Object](), list[Object](), frozenset(shipped_scripts)
    for item in objects:
        problems = list(schemas.check_object(item))
        findings += problems
        (invalid if problems else valid).append(item)
    context = Context(
        valid,
        rescued=[pod for item in invalid for pod in pod_templates(item) if schemas.is_pod(pod)],
        flags=flags,
        allowance=environment_level,
        shell=shell,
        shipped_scripts=scripts_of_chart,
        known_secrets=frozenset(known_secrets),
    )
    checked = {id(container.body) for pod in context.pods for container in pod.containers}
    for item in objects:
        values, containers = leaves(item), list(containers_anywhere(item, checked))
        findings += numbers.check(item, values)
        findings += secrets.check(item, values, containers, scripts_of_chart)
        findings += coverage.check(item, containers, checked)
    findings += [finding for check in _OF_VALID for finding in check(context)]
    if manifests_text:
        findings += references.duplicate_keys(manifests_text)
    return findings
