"""What the name of a GKE context says: gke_<project>_<location>_<cluster>."""

from __future__ import annotations

import msgspec


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
