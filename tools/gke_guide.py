"""The table of machine types in docs/how-to/set-up-gke.md, made from the environments (make generate)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from manyhost.catalog import Catalog, resolve
from manyhost.catalog.environment import Environment, Gke
from manyhost.plan import image, make_plan

BEGIN, END = "<!-- machines: begin -->", "<!-- machines: end -->"
RELEASE = "v1.95.0"
_TOOLKIT = f"https://github.com/GoogleCloudPlatform/cluster-toolkit/blob/{RELEASE}"


class Blueprint(NamedTuple):
    """What Cluster Toolkit makes a cluster from.

    Attributes:
        path: In GoogleCloudPlatform/cluster-toolkit at RELEASE.
        version: GKE's minor version that it asks for (version_prefix).
    """

    path: str
    version: str


# Read in GoogleCloudPlatform/cluster-toolkit at RELEASE.
BLUEPRINTS = {
    "a3high": Blueprint("examples/gke-a3-highgpu/gke-a3-highgpu.yaml", "1.33"),
    "a3mega": Blueprint("examples/gke-a3-megagpu/gke-a3-megagpu.yaml", "1.32"),
    "a3ultra": Blueprint("examples/gke-a3-ultragpu/gke-a3-ultragpu.yaml", "1.35"),
    "a4": Blueprint("examples/gke-a4/gke-a4.yaml", "1.35"),
    "a4x": Blueprint("examples/gke-a4x/gke-a4x.yaml", "1.35"),
}


def guide(path: Path, catalog: Catalog) -> str:
    """Return the page with its table as the environments have it now.

    Raises:
        SystemExit: It has no place for the table.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{path.name}: the lines {BEGIN} and {END} are missing; put them back")
    return f"{before}{BEGIN}\n{table(catalog)}\n{END}{after}"


def table(catalog: Catalog) -> str:
    """Return a row for each environment on GKE, with what its default recipe asks for.

    Raises:
        SystemExit: One of them has no blueprint here.
    """
    rows = [
        "| Environment | Hosts | Accelerator | Networks of a host | Blueprint | Driver: needed, by GKE |",
        "|---|---|---|---|---|---|",
    ]
    for name in catalog.names("environments"):
        environment = catalog.environment(name)
        if isinstance(environment.platform, Gke):
            rows.append(_row(name, environment, environment.platform, catalog))
    return "\n".join(rows)


def _row(name: str, environment: Environment, platform: Gke, catalog: Catalog) -> str:
    plan = make_plan(resolve(catalog, f"{name}/{environment.default_recipe}"), catalog)
    host = environment.host
    if name not in BLUEPRINTS:
        sys.exit(f"tools/gke_guide.py: BLUEPRINTS has no {name}; say which blueprint makes such a cluster")
    blueprint = BLUEPRINTS[name]
    networks = [nic.network for nic in host.nics if nic.mode]
    accelerator = platform.node_selector["cloud.google.com/gke-accelerator"]
    cells = (
        f"`{name}`",
        f"{plan.hosts} x {host.machine_type}",
        f"`type={accelerator},count={host.gpus}`",
        ", ".join(f"`{network}`" for network in networks) or "claimed from managed DRANET",
        f"[{blueprint.path.rpartition('/')[2]}]({_TOOLKIT}/{blueprint.path})",
        f"R{image.lock(plan.settings, plan.engine).minimum_driver}; {_drivers(platform, blueprint.version)}",
    )
    return f"| {' | '.join(cells)} |"


def _drivers(platform: Gke, version: str) -> str:
    """What GKE installs on that version, as far as somebody has read it."""
    told = [f"{name} R{by[version]}" for name, by in sorted(platform.gpu_drivers.items()) if version in by]
    return f"{version} has {', '.join(told)}" if told else f"{version} not read"
