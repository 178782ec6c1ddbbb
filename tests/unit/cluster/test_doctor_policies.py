"""Doctor on other people's NetworkPolicies: which ways they cut, and what opens them again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manyhost.cluster.doctor.selectors import matches

from tests.helpers import fixes
from tests.unit.cluster.doctor import Examine, Serve, a_target, lists

RELEASE = {"app.kubernetes.io/instance": "deepseek-r1-671b"}
LWS, NAME = "leaderworkerset.sigs.k8s.io", "kubernetes.io/metadata.name"
ANY: dict[str, Any] = {}
DNS = {
    "to": [{"namespaceSelector": {"matchLabels": {NAME: "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
    "ports": [{"protocol": "UDP", "port": 53}],
}  # fmt: skip
HUB = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
OURS = {"podSelector": {"matchLabels": RELEASE}}
MEMBERS, NAMES, HUBS = (
    "the members of a group from each other",
    "the pods from DNS",
    "the hub with the weights",
)
CLIENTS = "clients from port 8000"
# The release's own policy lets in members and clients, whatever another one denies.
WITHOUT = "chart.networkPolicy.enabled=false"


def a_policy(name: str = "theirs", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}


def ingress(*rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return a_policy(policyTypes=["Ingress"], ingress=list(rules), **spec)


def egress(*rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return a_policy(policyTypes=["Egress"], egress=list(rules), **spec)


@pytest.mark.parametrize(
    ("policies", "cuts"),
    [
        ([], set()),
        ([a_policy(policyTypes=["Ingress", "Egress"])], {MEMBERS, NAMES, HUBS, CLIENTS}),
        ([a_policy()], {MEMBERS, CLIENTS}),  # without types and rules: Ingress
        ([a_policy(policyTypes=["Ingress", "Egress"], podSelector={"matchLabels": {"app": "other"}})], set()),
        # The workers alone, whose labels only the controller adds.
        ([a_policy(podSelector={"matchLabels": {f"{LWS}/worker-index": "1"}})], {MEMBERS}),
        ([ingress(ANY)], set()),
        ([ingress({"from": [{"podSelector": {}}]})], set()),
        ([ingress({"from": [OURS]})], {CLIENTS}),
        ([ingress({"from": [OURS]}), ingress({"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}],
                                              "ports": [{"port": "http"}]})], set()),
        ([ingress({"from": [OURS], "ports": [{"port": 8000}, {"port": 29501}]})], {MEMBERS, CLIENTS}),
        ([ingress({"from": [OURS], "ports": [{"port": 1024, "endPort": 65535}]})], {CLIENTS}),
        ([ingress({"from": [OURS], "ports": [{"protocol": "UDP"}]})], {MEMBERS, CLIENTS}),
        ([ingress({"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}]})], {MEMBERS}),
        ([ingress({"from": [{"namespaceSelector": {"matchLabels": {NAME: "default"}}}]})], set()),
        ([egress(DNS, HUB, {"to": [OURS]})], set()),
        ([egress(DNS, {"to": [OURS]})], {HUBS}),
        ([egress(HUB, {"to": [OURS]})], {NAMES}),
        ([egress(DNS, HUB)], {MEMBERS}),
        ([egress({"to": [{"podSelector": {}}]}, HUB)], {NAMES}),  # the name server is in another namespace
        ([egress({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, {"to": [OURS]})], set()),
        # What one denies another one allows.
        ([a_policy(policyTypes=["Egress"]), egress(ANY)], set()),
    ],
)  # fmt: skip
def test_network_policies(
    policies: list[dict[str, Any]], cuts: set[str], serve: Serve, examined: Examine
) -> None:
    """One finding for all that is cut; clients alone are a warning, since no group starts worse for it."""
    result = examined(
        "network-policies", a_target(WITHOUT), f"http://{serve(lists(networkpolicies=policies))}"
    )
    assert result.status == ("pass" if not cuts else "warn" if cuts == {CLIENTS} else "fail"), result
    told = {way for way in (MEMBERS, NAMES, HUBS, CLIENTS) if way in result.why}
    assert told == cuts
    if cuts:
        assert result.why.startswith("NetworkPolicy theirs cuts ")


@pytest.mark.parametrize(
    "policy",
    [a_policy(policyTypes=["Ingress", "Egress"]), ingress({"from": [OURS]}), egress(DNS), egress(HUB)],
)
def test_what_the_fix_applies_opens_the_ways(policy: dict[str, Any], serve: Serve, examined: Examine) -> None:
    """It is a policy beside the other one, of these pods alone."""
    result = examined(
        "network-policies", a_target(WITHOUT), f"http://{serve(lists(networkpolicies=[policy]))}"
    )
    (command,) = fixes.commands(result.fix)
    apply, _, stdin = command.partition(" <<< ")
    assert apply == "kubectl apply -f - --namespace default --context here"
    made = json.loads(stdin.strip("'"))
    assert made["spec"]["podSelector"]["matchLabels"].items() >= RELEASE.items()
    both = lists(networkpolicies=[policy, made])
    assert examined("network-policies", a_target(WITHOUT), f"http://{serve(both)}").status == "pass"


def test_the_releases_own_policy_counts_as_it_will_be(serve: Serve, examined: Examine) -> None:
    deny = [a_policy(policyTypes=["Ingress"])]
    assert (
        examined("network-policies", a_target(), f"http://{serve(lists(networkpolicies=deny))}").status
        == "pass"
    )
    # The live one of an older revision is not asked.
    old = [a_policy("deepseek-r1-671b", policyTypes=["Ingress", "Egress"])]
    assert (
        examined("network-policies", a_target(), f"http://{serve(lists(networkpolicies=old))}").status
        == "pass"
    )


def test_groups_of_one_host_need_no_way_between_members(serve: Serve, examined: Examine) -> None:
    target = a_target(WITHOUT, recipe="a3ultra/deepseek-r1-671b")
    result = examined("network-policies", target, f"http://{serve(lists(networkpolicies=[ingress()]))}")
    assert (result.status, MEMBERS in result.why) == ("warn", False)


def test_prefill_and_decode_are_members_of_each_other(serve: Serve, examined: Examine) -> None:
    target = a_target(WITHOUT, recipe="local/tiny-r1-disaggregated")
    result = examined("network-policies", target, f"http://{serve(lists(networkpolicies=[ingress()]))}")
    assert (result.status, MEMBERS in result.why) == ("fail", True)


ROUTER = {"app.kubernetes.io/component": "router"}


@pytest.mark.parametrize(
    ("policy", "status", "told"),
    [
        (ingress(podSelector={"matchLabels": ROUTER}), "warn", CLIENTS),
        (ingress({"from": [{"podSelector": {"matchExpressions": [
            {"key": "manyhost.dev/role", "operator": "Exists"}]}}]}), "fail", "the groups from their router"),
        (egress(podSelector={"matchLabels": ROUTER}), "fail", "the router from DNS"),
        (ingress(podSelector={"matchLabels": {"manyhost.dev/role": "decode"}}), "fail", "their router"),
        (a_policy(policyTypes=["Ingress", "Egress"]), "fail", CLIENTS),
    ],
)  # fmt: skip
def test_clients_have_the_router_and_the_router_the_groups(
    policy: dict[str, Any], status: str, told: str, serve: Serve, examined: Examine
) -> None:
    """What the fix opens for clients alone are the router's pods and no engine."""
    target = a_target(WITHOUT, recipe="local/tiny-r1-disaggregated")
    result = examined("network-policies", target, f"http://{serve(lists(networkpolicies=[policy]))}")
    assert (result.status, told in result.why) == (status, True)
    (command,) = fixes.commands(result.fix)
    made = json.loads(command.partition(" <<< ")[2].strip("'"))
    policies = made.get("items", [made])
    for item in policies:
        selector = item["spec"]["podSelector"]
        takes_clients = any(
            {"podSelector": {}} in rule.get("from", ()) for rule in item["spec"].get("ingress", ())
        )
        assert takes_clients <= (ROUTER.items() <= selector["matchLabels"].items())
    both = lists(networkpolicies=[policy, *policies])
    assert examined("network-policies", target, f"http://{serve(both)}").status == "pass"


def test_pods_on_the_hosts_network(serve: Serve, examined: Examine) -> None:
    target = a_target("network.host_network=true")
    api = f"http://{serve(lists(networkpolicies=[a_policy(policyTypes=['Ingress', 'Egress'])]))}"
    assert examined("network-policies", target, api).status == "skip"


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, True),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "1", "b": "1"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ],
)
def test_label_selectors(selector: dict[str, Any] | None, selected: bool) -> None:
    assert matches(selector, {"a": "1"}) is selected
