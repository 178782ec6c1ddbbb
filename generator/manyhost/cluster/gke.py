"""What the name of a GKE context says: gke_<project>_<location>_<cluster>."""

from __future__ import annotations

import msgspec

from manyhost.catalog.recipe import Site
from manyhost.commands import line

NETWORKS = "networks.networking.gke.io,gkenetworkparamsets.networking.gke.io"


class GkeContext(msgspec.Struct, frozen=True):
    """A context as `gcloud container clusters get-credentials` names it.

    Attributes:
        project: Google Cloud project.
        location: Region, or zone of a zonal cluster.
        cluster: Name of the cluster.
    """

    project: str
    location: str
    cluster: str

    @property
    def region(self) -> str:
        """The region of the location, of a zone too."""
        return "-".join(self.location.split("-")[:2])


def parse(context: str) -> GkeContext | None:
    """Return what a context's name says; None for contexts that are named otherwise."""
    parts = context.split("_")
    return GkeContext(*parts[1:]) if parts[0] == "gke" and len(parts) == 4 else None


def named(site: Site, context: str = "") -> tuple[str, ...]:
    """Return a cluster as gcloud's commands want it named; what nobody has said is in capitals.

    Args:
        site: What the settings say of it.
        context: A context in use, which says it better.
    """
    found = parse(context) or parse(site.cluster_name)
    if found is None:
        found = GkeContext(site.project_id, site.cluster_region or "LOCATION", site.cluster_name or "CLUSTER")
    project = ("--project", found.project) if found.project else ()
    return found.cluster, "--location", found.location, *project


def clusters(verb: str, *words: str) -> str:
    """Return a command of gcloud about a cluster."""
    return line("gcloud", "container", "clusters", verb, *words)


def get_credentials(site: Site) -> str:
    """Return the command that writes the settings' cluster into the kubeconfig."""
    return clusters("get-credentials", *named(site))


def new_cluster() -> str:
    """Return what to do about a cluster without multi-networking, which cannot be turned on later.

    Source: cloud.google.com, "Set up multi-network support for Pods".
    """
    create = clusters("create", "NAME", "--enable-dataplane-v2", "--enable-multi-networking")
    return f"make one with it: {create}"
