"""Regions of Google Cloud, as people write them."""

from __future__ import annotations

import re

from manyhost.catalog.environment import Gke
from manyhost.catalog.recipe import Site
from manyhost.errors import InvalidInput, nearest
from manyhost.plan.facts import Facts

_REGION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
_ZONE = re.compile(r"(?P<region>[a-z]+(-[a-z]+)+[0-9]{1,2})-[a-z]")


def check(site: Site, facts: Facts) -> None:
    """Check that what stands for a region is written as one; whether there is such a region is another thing.

    Raises:
        InvalidInput: For a zone, upper case, and what is no region at all, with the right spelling.
    """
    if not isinstance(facts.environment.platform, Gke):
        return  # its owner calls them as he likes
    for key, given in (("cluster_region", site.cluster_region), ("region", site.region)):
        if not given or _REGION.fullmatch(given) or (key == "region" and given == "global"):
            continue
        plain = given.strip().lower()
        zone = _ZONE.fullmatch(plain)
        right = zone["region"] if zone else plain
        if zone:
            message = f"{given[:80]!r} is a zone, not a region"
        else:
            message = f"{given[:80]!r} is not written like a region"
        fix = (
            f"write {right}"
            if _REGION.fullmatch(right)
            else nearest(right, facts.regions, "write one such as us-east4")
        )
        raise InvalidInput(message, where=f"site.{key}", fix=fix)
