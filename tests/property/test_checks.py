"""The checks on manifests of anybody: whatever is in them, findings and no traceback."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manyhost.checks import Finding, run

from tests.helpers.sample import ALLOWED, flags, sample, scripts
from tests.unit.checks.test_kinds import KNOWN, UNKNOWN, a_pod, of_kind

Object = dict[str, Any]

KEYS = st.sampled_from(
    ["spec", "metadata", "template", "containers", "initContainers", "ephemeralContainers", "name", "labels",
     "annotations", "env", "volumes", "volumeClaimTemplates", "args", "command", "kind", "data", "x"]
)  # fmt: skip
TEXTS = st.text(max_size=5) | st.sampled_from(
    [
        "vllm",
        "1e+06",
        "--tensor-parallel-size",
        "²",
        "nvidia.com/gpu",
        "{",
        "[1]",
        '[{"a": 1}]',
        "a/b/c",
        "a: b",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), below, max_size=4)
    ),
    max_leaves=8,
)


def check(objects: list[Object]) -> list[Finding]:
    found = run(objects, flags=flags(), environment_level=ALLOWED, shipped_scripts=scripts())
    assert all(isinstance(f, Finding) and f.message and f.where for f in found)
    return found


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return every (mapping or list, key or index) of a tree."""
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        below = list(node.items() if isinstance(node, dict) else enumerate(node))
        found += [(node, key) for key, _ in below]
        waiting += [value for _, value in below if isinstance(value, (dict, list)) and value]
    return found


def subjects() -> list[Object]:
    pod = a_pod(
        volumes=[{"name": "v", "configMap": {"name": "c"}}],
        hostNetwork=True,
        securityContext={"seLinuxOptions": {"type": "t"}, "sysctls": [{"name": "a", "value": "1"}]},
        initContainers=[{"name": "i", "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "true"]}}}}],
    )
    body = pod["spec"]["containers"][0]
    body["env"] = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    body["resources"] = {"limits": {"nvidia.com/gpu": 1}}
    body["livenessProbe"] = {"httpGet": {"port": 1, "host": "h"}}
    return [*sample(), *(of_kind(kind, pod) for kind in [*KNOWN, *UNKNOWN])]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_manifests_ends_in_findings(data: st.DataObject) -> None:
    objects = copy.deepcopy(subjects())
    objects = data.draw(st.lists(st.sampled_from(objects), min_size=1, max_size=4, unique_by=id))
    for _ in range(data.draw(st.integers(1, 4))):
        all_places = places(objects)
        node, key = all_places[data.draw(st.integers(0, len(all_places) - 1))]
        if node is objects:
            continue
        if isinstance(node[key], str) and data.draw(st.booleans()):
            node[key] = data.draw(TEXTS)  # most often still of the right shape
        elif data.draw(st.booleans()):
            node[key] = data.draw(VALUES)
        elif isinstance(node, dict):
            node[data.draw(KEYS)] = node.pop(key)
        else:
            node.append(copy.deepcopy(node[key]))
    check(objects)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(KEYS | st.text(max_size=3), VALUES, max_size=5))
def test_any_mapping_ends_in_findings(body: Object) -> None:
    check([body])
    check([{"apiVersion": "v1", "kind": "Pod", **body}])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.lists(st.one_of(KEYS, st.integers(0, 2)), max_size=5),
    kind=st.sampled_from(["containers", "initContainers", "ephemeralContainers"]),
)
def test_a_privileged_container_anywhere_is_never_passed_over(path: list[str | int], kind: str) -> None:
    """Wherever it stands, it is checked as part of a pod or said to be checked by nobody."""
    node: Any = {kind: [{"name": "z", "image": "z", "securityContext": {"privileged": True}}]}
    for step in reversed(path):
        node = [{}] * step + [node] if isinstance(step, int) else {step: node}
    found = check([{"apiVersion": "example.com/v1", "kind": "Any", "metadata": {"name": "a"}, "body": node}])
    assert {"coverage", "pod-security"} & {f.check for f in found}


@pytest.mark.parametrize("kind", [*KNOWN, *UNKNOWN])
def test_the_subjects_themselves_are_seen(kind: str) -> None:
    assert "pod-security" in {f.check for f in check([of_kind(kind, a_pod(hostPID=True))])}
