"""How long hosts are had, by capacity.mode (values/capacity.yaml)."""

from manyhost.catalog.struct import Count, Struct


class Mode(Struct, frozen=True):
    """What is known of one way to have hosts.

    Attributes:
        longest_days: How long a host lives at most; 0 is without an end.
        ends_at_a_date: Whether they end together at a date that only their owner knows (capacity.ends).
        any_time: Whether they may be taken away at any time.
        node_label: Label that says "true" on nodes that are had so; empty without one.
    """

    longest_days: Count = 0
    ends_at_a_date: bool = False
    any_time: bool = False
    node_label: str = ""


class CapacityFacts(Struct, frozen=True):
    """What is known of capacity.

    Attributes:
        modes: By capacity.mode.
        end_annotation: Annotation of a node with the time at which its machine ends.
    """

    modes: dict[str, Mode]
    end_annotation: str
