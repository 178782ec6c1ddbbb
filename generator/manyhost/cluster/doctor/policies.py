"""NetworkPolicies that select the pods: do they leave the members, DNS, the weights and clients a way?

The rules are those of networking.k8s.io/v1 (kubernetes.io, "Network Policies"): a pod that any policy selects
for a direction may do in it what at least one of them allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from manyhost.cluster.connection import Object
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.cluster.doctor.selectors import matches, member_labels
from manyhost.cluster.target import size_of

Labels = dict[str, str]
Peer = Callable[[Object], bool]  # whether an entry of a rule's from or to takes somebody in
_LWS = "leaderworkerset.sigs.k8s.io"
_COMPONENT = "app.kubernetes.io/component"
_SYSTEM = "kube-system"
_PEERS = {"Ingress": "from", "Egress": "to"}
# The cluster's name server, CoreDNS too, and its cache on the nodes (kubernetes.io, "NodeLocal DNSCache").
_DNS = ({"k8s-app": "kube-dns"}, {"k8s-app": "node-local-dns"})
_TO_DNS: Object = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": _SYSTEM}},
            "podSelector": {"matchExpressions": [
                {"key": "k8s-app", "operator": "In", "values": [item["k8s-app"] for item in _DNS]}
            ]},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}  # fmt: skip
_LOW, _HIGH = 1024, 65535  # between them NCCL, Gloo and Ray choose ports as they run


class Port(NamedTuple):
    """Where a connection goes; number 0 is any port that a program may choose."""

    number: int
    protocol: str = "TCP"
    name: str = ""


class Way(NamedTuple):
    """A connection that a release needs.

    Attributes:
        told: Whom it joins, after "cuts".
        direction: Ingress or Egress: on which side of the pod.
        pod: The pod's labels.
        peer: Who is at the other end.
        port: Where it goes.
        rule: What opens it.
        vital: Whether no group starts without it.
    """

    told: str
    direction: str
    pod: Labels
    peer: Peer
    port: Port
    rule: Object
    vital: bool = True

    def selecting(self, policies: list[Object]) -> Iterator[Object]:
        """The policies that select the pod for this direction."""
        for item in policies:
            spec = item["spec"]
            kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
            if self.direction in kinds and matches(spec.get("podSelector"), self.pod):
                yield item

    def open(self, policies: list[Object]) -> bool:
        """Whether policies leave it open."""
        selecting = list(self.selecting(policies))
        rules = [rule for item in selecting for rule in item["spec"].get(self.direction.lower()) or ()]
        return not selecting or any(
            _opens(rule.get("ports"), self.port) and _takes(rule.get(_PEERS[self.direction]), self.peer)
            for rule in rules
        )


@check(
    "network-policies", "Do NetworkPolicies leave the pods the ways they need?", needs=("api", "namespace")
)
def network_policies(sight: Sight) -> Finding:
    """Every policy of the namespace, the release's own as it would be."""
    target = sight.target
    if target.pod("leader")["spec"].get("hostNetwork"):
        return skipped("pods on the hosts' network are no policy's business")
    there = sight.list("networking.k8s.io/v1", "networkpolicies", target.namespace)
    own = [item for item in target.objects if item["kind"] == "NetworkPolicy"]
    names = {item["metadata"]["name"] for item in own}
    policies = [*own, *(item for item in there if item["metadata"]["name"] not in names)]
    if not policies:
        return passed("the namespace has no NetworkPolicy")
    cut = [way for way in ways(sight) if not way.open(policies)]
    if not cut:
        return passed("they do")
    closing = sorted({item["metadata"]["name"] for way in cut for item in way.selecting(policies)} - names)
    told = "; ".join(dict.fromkeys(way.told for way in cut))
    look = failed if any(way.vital for way in cut) else warned
    return look(f"NetworkPolicy {', '.join(closing)} cuts {told}", _opening(sight, cut))


def ways(sight: Sight) -> list[Way]:
    """Return the connections that a release needs."""
    target = sight.target
    ours = {"podSelector": {"matchLabels": target.place.chart.labels(target.release)}}
    home = sight.namespace_labels(target.namespace)
    pods: list[Labels] = []
    for item, _ in target.sets:
        pods.append(member_labels(item, "leader", 0))
        pods += [member_labels(item, "worker", 1)] if size_of(item) > 1 else []
    port = int(target.effective["vllm"]["service"]["ports"]["http"])
    routers = target.router_labels
    found = [
        Way(
            "the members of a group from each other",
            direction,
            here,
            _pod(there, home),
            Port(0),
            {key: [ours]},
        )
        for here in pods
        for there in pods
        for direction, key in _PEERS.items()
        if len(pods) > 1
    ]
    for router in routers:
        told, api = "the groups from their router", Port(port, name="http")
        found += [Way(told, "Ingress", here, _pod(router, home), api, {"from": [ours]}) for here in pods]
        found += [Way(told, "Egress", router, _pod(there, home), api, {"to": [ours]}) for there in pods]
    system, source = sight.namespace_labels(_SYSTEM), target.plan.weights.kind
    for router in routers:
        found.append(Way("the router from DNS", "Egress", router, _dns(system), Port(53, "UDP"), _TO_DNS))
    for here in pods:
        found.append(Way("the pods from DNS", "Egress", here, _dns(system), Port(53, "UDP"), _TO_DNS))
        if source in ("hub", "bucket"):
            rule = {"ports": [{"protocol": "TCP", "port": 443}]}
            told = f"the pods from the {source} with the weights"
            found.append(Way(told, "Egress", here, lambda peer: "ipBlock" in peer, Port(443), rule))
    known = target.place.chart.labels(target.release)
    leader = routers[0] if routers else member_labels(target.group, "leader", 0)
    rule = {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": port}]}
    clients = Way(
        f"clients from port {port}", "Ingress", leader, _stranger(known), Port(port, name="http"), rule, False
    )
    return [*found, clients]


# ------------------------------------------------------------------ who and where


def _pod(labels: Labels, home: Labels) -> Peer:
    """A pod in the namespace of the policies."""
    return lambda peer: (
        "ipBlock" not in peer
        and matches(peer.get("namespaceSelector"), home)
        and matches(peer.get("podSelector"), labels)
    )


def _dns(namespace: Labels) -> Peer:
    """The cluster's name server; who opens the way to addresses will have meant its own."""
    return lambda peer: (
        "ipBlock" in peer
        or (
            "namespaceSelector" in peer
            and matches(peer["namespaceSelector"], namespace)
            and any(matches(peer.get("podSelector"), labels) for labels in _DNS)
        )
    )


def _stranger(known: Labels) -> Peer:
    """Some client that is no member of the release: nobody knows its labels."""

    def takes(peer: Object) -> bool:
        wanted = (peer.get("podSelector") or {}).get("matchLabels") or {}
        release = "app.kubernetes.io/instance"
        return "podSelector" not in peer or not (
            wanted.get(release) == known[release] or any(key.startswith(_LWS) for key in wanted)
        )

    return takes


def _takes(peers: list[Object] | None, who: Peer) -> bool:
    return not peers or any(who(peer) for peer in peers)


def _opens(ports: list[Object] | None, port: Port) -> bool:
    """Whether a rule's ports, none being all, have this one among them."""
    for item in ports or ():
        given: int | str = item.get("port", port.name)  # none is all of them
        if item.get("protocol", "TCP") != port.protocol:
            continue
        if isinstance(given, str) and given == port.name:
            return True
        first, last = (port.number, port.number) if port.number else (_LOW, _HIGH)
        if isinstance(given, int) and given <= first and last <= item.get("endPort", given):
            return True
    return not ports


def _opening(sight: Sight, cut: list[Way]) -> str:
    """Policies of the release's own that open what is cut: they add up, so nobody else's is touched.

    One for the groups and one for their router, whose clients no engine is opened to.
    """
    ours = sight.target.place.chart.labels(sight.target.release)
    routers = sight.target.router_labels
    groups: Object = {"matchLabels": ours}
    if routers:
        groups["matchExpressions"] = [{"key": _COMPONENT, "operator": "NotIn", "values": ["router"]}]
    made = []
    for name, selector, ways_cut in (
        ("opens", groups, [way for way in cut if way.pod not in routers]),
        (
            "router-opens",
            {"matchLabels": routers[0] if routers else {}},
            [w for w in cut if w.pod in routers],
        ),
    ):
        if ways_cut:
            made.append(_policy(f"{sight.target.release}-{name}", selector, ways_cut))
    found = made[0] if len(made) == 1 else {"apiVersion": "v1", "kind": "List", "items": made}
    text = msgspec.json.encode(found).decode()
    stdin = f"<<< '{text}'"
    apply = sight.commands.kubectl("apply", "-f", "-", shell=stdin)
    return f"if whoever set it agrees, open these ways beside it: {apply}"


def _policy(name: str, selector: Object, cut: list[Way]) -> Object:
    spec: Object = {"podSelector": selector, "policyTypes": []}
    for way in cut:
        rules = spec.setdefault(way.direction.lower(), [])
        if way.rule not in rules:
            rules.append(way.rule)
        if way.direction not in spec["policyTypes"]:
            spec["policyTypes"].append(way.direction)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
