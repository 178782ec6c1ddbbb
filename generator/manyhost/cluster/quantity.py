"""Kubernetes resource quantities ("250m", "16Gi") as numbers."""

from __future__ import annotations

import math

# apimachinery/pkg/api/resource/suffix.go; binary suffixes first, because "Ki" ends in no decimal one.
_FACTORS = {
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}  # fmt: skip


def parse(text: str | float) -> float:
    """Return a quantity as a number in its base unit (cores, bytes, pieces).

    Raises:
        ValueError: It is not a quantity.
    """
    if not isinstance(text, str):
        return float(text)
    for suffix, factor in _FACTORS.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


def show(resource: str, amount: float) -> str:
    """Return an amount of a resource for people: bytes as GiB or, where they are less, MiB."""
    if _is_bytes(resource):
        return f"{amount / 2**20:g} MiB" if 0 < amount < 2**30 else f"{amount / 2**30:.1f} GiB"
    return f"{amount:g}"


def whole(resource: str, amount: float) -> str:
    """Return a quantity that the API takes and that is not less: bytes as Gi, others as whole numbers."""
    if _is_bytes(resource):
        return f"{math.ceil(amount / 2**30)}Gi"
    return str(math.ceil(amount))


def _is_bytes(resource: str) -> bool:
    return resource in {"memory", "ephemeral-storage"} or resource.startswith("hugepages-")
