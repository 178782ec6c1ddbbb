"""Names of the networks behind a host's NICs."""

from __future__ import annotations

from manyhost.catalog import Recipe
from manyhost.catalog.environment import Host
from manyhost.errors import InvalidInput


def networks(recipe: Recipe, host: Host) -> tuple[str, ...]:
    """Return one name for each NIC, in their order: this cluster's, or else the usual ones.

    Raises:
        InvalidInput: When there are more or fewer names than NICs, or one stands twice.
    """
    usual = [nic.network for nic in host.nics]
    names = recipe.network.subnetworks or usual
    if len(names) != len(usual):
        raise InvalidInput(
            f"{host.machine_type} has {len(usual)} networks ({', '.join(usual) or 'none'}), "
            f"not {len(names)} ({', '.join(names)})",
            where="network.subnetworks",
            fix="name the cluster's Network objects in NIC order: discover finds them",
        )
    if len(set(names)) != len(names):
        raise InvalidInput("a network is named twice", where="network.subnetworks")
    return tuple(names)
