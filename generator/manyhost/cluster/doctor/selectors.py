"""Label selectors of API objects: which labels they match, and which the pods of a group have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhost.cluster.phases import GROUP, NAME, WORKER


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects labels; an empty one selects everything, None too.

    Args:
        selector: matchLabels and matchExpressions (apimachinery, meta/v1, LabelSelector).
        labels: Of the object.
    """
    wanted = (selector or {}).get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_meets(item, labels) for item in (selector or {}).get("matchExpressions") or ())


def member_labels(item: Mapping[str, Any], member: str, index: int) -> dict[str, str]:
    """Return the labels of a member's pod, with those that the controller adds.

    Args:
        item: The LeaderWorkerSet.
        member: leader or worker.
        index: Of the member in its group.
    """
    template = item["spec"]["leaderWorkerTemplate"][f"{member}Template"]
    own = {NAME: item["metadata"]["name"], WORKER: str(index), GROUP: "0"}
    return {**(template["metadata"].get("labels") or {}), **own}


def _meets(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = item["key"], item.get("values") or ()
    match item["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
    return key not in labels  # DoesNotExist
