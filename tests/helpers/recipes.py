"""The recipes that come with manyhost, by where they run."""

from __future__ import annotations

from manyhost.catalog import Catalog
from manyhost.catalog.environment import RunPod


def on_kubernetes(catalog: Catalog) -> list[str]:
    """Return the names of those that become manifests."""
    return [
        name
        for name in catalog.recipes()
        if not isinstance(catalog.environment(name.partition("/")[0]).platform, RunPod)
    ]
