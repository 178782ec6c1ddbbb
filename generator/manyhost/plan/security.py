"""What the pods of a plan may do beyond the Pod Security baseline, each thing with its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from manyhost.catalog import Environment, Interconnect
from manyhost.catalog.environment import RunPod
from manyhost.catalog.interconnect import Plugin


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """What pods may do.

    Attributes:
        level: The weakest level of the Pod Security Standards that they may have.
        violations: Departures from the baseline with the reason of each, in the words of
            checks.pod_security.
        exemptions: Hardening that they may do without, with the reason of each, in the words of
            checks.hardening.
    """

    level: Literal["restricted", "baseline", "privileged"]
    violations: dict[str, str]
    exemptions: dict[str, str] = {}


def either(found: Iterable[Allowed]) -> Allowed:
    """Return what any of several allows."""
    each = list(found)
    weakest = max(each, key=lambda item: ("restricted", "baseline", "privileged").index(item.level))
    violations = {name: reason for item in each for name, reason in item.violations.items()}
    exemptions = {name: reason for item in each for name, reason in item.exemptions.items()}
    return Allowed(level=weakest.level, violations=violations, exemptions=exemptions)


def allowed(
    environment: Environment,
    interconnect: Interconnect,
    *,
    on: Collection[str],
    mounts: Iterable[str],
    exemptions: Mapping[str, str],
) -> Allowed:
    """Return what an environment's pods may do over an interconnect, with some settings on.

    Args:
        environment: Its platform says which level pods keep otherwise.
        interconnect: What it needs of the hosts.
        on: Keys of the settings that are on, of network.host_network and ssd_host_path.
        mounts: Names of the folders of the host that the recipe mounts.
        exemptions: Hardening that no release has; those of the two come on top.
    """
    found: dict[str, str] = {}
    if isinstance(interconnect, Plugin):
        found = {v.violation: v.reason for v in interconnect.violations if not v.when or v.when in on}
    if "network.host_network" in on:
        found["hostNetwork"] = "asked for by network.host_network"
    if "ssd_host_path" in on:
        found["hostPath volume ssd"] = "ssd_host_path: downloads on the host outlive the pods"
    found |= {f"hostPath volume host-{name}": "asked for by host_mounts" for name in mounts}
    platform = environment.platform
    own = interconnect.exemptions if isinstance(interconnect, Plugin) else {}
    without = {**exemptions, **environment.exemptions, **own}
    if found:
        return Allowed(level="privileged", violations=found, exemptions=without)
    level = "baseline" if isinstance(platform, RunPod) else platform.pod_security
    return Allowed(level=level, violations={}, exemptions=without)
