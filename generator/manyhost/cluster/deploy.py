"""Installing or upgrading a release."""

from __future__ import annotations

import contextlib
import time

import msgspec

from manyhost.catalog.capacity import CapacityFacts
from manyhost.catalog.environment import Gke
from manyhost.cluster import control
from manyhost.cluster.capacity import Ends, ends, refuse
from manyhost.cluster.connection import Connection, Forbidden, Object, Refused, path_of
from manyhost.cluster.drift import drift, heal
from manyhost.cluster.lease import Lease, Released, kept, lease, released
from manyhost.cluster.nodes import selected
from manyhost.cluster.observe import Observer, sets_of
from manyhost.cluster.phases import stamp
from manyhost.cluster.release import Change, Releases, changes, newest, rehearse
from manyhost.cluster.rollout import Report, Wait
from manyhost.cluster.target import LWS, Target
from manyhost.errors import InvalidInput


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment would do.

    Attributes:
        release: The release.
        namespace: Its namespace.
        action: install, upgrade, start (of groups that were released) or nothing.
        revision: The revision in place; 0 when there is none.
        changes: Object by object.
        released: When and why the janitor has freed its hosts, which will be started again.
        lease: Until when the hosts will be kept; None without an end.
        renews: Whether this deployment sets the lease.
        usd_per_hour: List price of the hosts; None where nobody publishes one.
        usd_until_end: The same until the lease ends; None without an end or a price.
        capacity: Until when the hosts are had.
    """

    release: str
    namespace: str
    action: str
    revision: int
    changes: list[Change]
    released: Released | None = None
    lease: Lease | None = None
    renews: bool = False
    usd_per_hour: float | None = None
    usd_until_end: float | None = None
    capacity: Ends | None = None


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment that has become ready.

    Attributes:
        release: The release.
        namespace: Its namespace.
        revision: The Helm revision in force.
        groups: Groups that answer.
        hosts: Hosts of all groups.
        install_seconds: What the installation took.
        ready_seconds: From the end of the installation until all was ready.
    """

    release: str
    namespace: str
    revision: int
    groups: int
    hosts: int
    install_seconds: float
    ready_seconds: float


def propose(connection: Connection, target: Target, facts: CapacityFacts, *, seconds: int = 0) -> Proposal:
    """Compare a target with what is installed, and let the API server rehearse it; nothing is changed.

    Args:
        connection: The cluster.
        target: What to install.
        facts: How long hosts are had.
        seconds: How long to keep the hosts from now on; 0 leaves the lease that there is.

    Raises:
        InvalidInput: The server or an admission webhook would refuse it, the release is another chart's, the
            lease would outlive the hosts, or nothing would end it.
        NotReady: The namespace or the LeaderWorkerSet API is missing, or the hosts go before it would answer.
    """
    if seconds and not any(item["kind"] == "CronJob" for item in target.objects):
        raise InvalidInput(
            "nothing would end the lease: the janitor is off",
            where="--for",
            fix="add --set chart.janitor.enabled=true, or leave --for out",
        )
    current = newest(connection, target.place)
    live = []
    if current:
        releases = Releases(connection, target.namespace)
        chart = releases.chart(target.release)
        if not target.chart.is_of(chart):
            raise InvalidInput(
                f"release {target.release} exists and is of chart {chart or 'unknown'}",
                where="release",
                fix="choose another name with --release",
            )
        live = releases.manifest(target.release)
    rehearse(connection, target)
    found = changes(live, target.objects)
    settled = current is not None and current.status == "deployed"
    if settled:
        new = {(change.kind, change.name) for change in found}
        same = [item for item in target.objects if (item["kind"], item["metadata"]["name"]) not in new]
        found += drift(connection, target.namespace, same)
    sets = sets_of(connection, target.place)
    freed, running, now = released(sets), lease(sets), connection.now()
    if not current:
        action = "install"
    elif found or not settled:
        action = "upgrade"
    else:
        action = "start" if freed else "nothing"
    if seconds:
        running = Lease(stamp(now + seconds), _user(connection))
    elif running and running.ended(now):
        running = None
    until = _ends(connection, target, facts, now)
    refuse(
        until,
        lease=running if seconds else None,
        seconds=sum(duration for _, duration in target.plan.cold_start),
        starts=action in {"install", "start"},
        now=now,
        commands=connection.commands,
    )
    per_hour = target.plan.cost.usd_per_hour
    return Proposal(
        release=target.release,
        namespace=target.namespace,
        action=action,
        revision=current.revision if current else 0,
        changes=found,
        released=freed,
        lease=running,
        renews=bool(seconds),
        usd_per_hour=per_hour,
        usd_until_end=running.usd(per_hour, now) if running else None,
        capacity=until,
    )


def _ends(connection: Connection, target: Target, facts: CapacityFacts, now: float) -> Ends:
    """Until when the hosts are had that the release may get."""
    settings, platform = target.plan.settings, target.plan.environment.platform
    nodes = []
    if isinstance(platform, Gke):
        with contextlib.suppress(Forbidden):  # people of one namespace may not read nodes
            nodes = selected(connection, {**platform.node_selector, **settings.node_selector})
    return ends(settings.capacity, facts, nodes, hosts=target.hosts, since=now)


def _user(connection: Connection) -> str:
    """The name by which the cluster knows the user; the context's before Kubernetes 1.28."""
    body: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = connection.create(path_of("authentication.k8s.io/v1", "selfsubjectreviews"), body)
        return str(answer["status"]["userInfo"]["username"])
    except (Refused, KeyError):
        return connection.context


def apply(connection: Connection, target: Target, proposal: Proposal) -> int:
    """Do what was proposed; return the revision now in force.

    Raises:
        InvalidInput: An admission webhook refuses an object after all.
        RemoteError: Helm fails.
    """
    revision = proposal.revision
    if control.needed(target):
        control.provide(connection, target.place)
    if proposal.action == "install":
        revision = Releases(connection, target.namespace).install(target)
    elif proposal.action == "upgrade":
        revision = Releases(connection, target.namespace).upgrade(target)
        heal(connection, target.namespace, target.objects)
    if control.needed(target):
        control.bind(connection, target.place)
    _keep(connection, target, proposal.lease if proposal.renews else None)
    return revision


def _keep(connection: Connection, target: Target, new: Lease | None) -> None:
    """Start the groups that were released, and set the lease."""
    for wanted, groups in target.sets:
        path = path_of(*LWS, target.namespace, wanted["metadata"]["name"])
        item = connection.find(path)
        patch = kept(item, groups, new, connection.now()) if item else {}
        if patch:
            connection.merge(path, patch)


def deploy(
    connection: Connection, target: Target, proposal: Proposal, *, timeout: float, report: Report
) -> Deployed:
    """Do what was proposed and wait until every host answers.

    Args:
        connection: The cluster.
        target: What to install.
        proposal: From propose().
        timeout: Seconds to wait for the groups.
        report: Receives the events of the wait.

    Raises:
        Failed: A host gave up, a group keeps crashing, or time is up.
        NotReady: The cluster has no place for it.
        InvalidInput: An object is refused.
        RemoteError: Helm fails.
    """
    begin = time.monotonic()
    held = _held(connection, target) if proposal.action != "install" else []
    revision = apply(connection, target, proposal)
    for pod in held:
        # A group that gave up stays as it is for ever; deploying again is the request to try again.
        connection.delete(path_of("v1", "pods", target.namespace, pod))
    installed = time.monotonic()
    look = Wait(connection, target.place, timeout=timeout, report=report).run()
    return Deployed(
        release=target.release,
        namespace=target.namespace,
        revision=revision,
        groups=look.replicas,
        hosts=len(look.hosts),
        install_seconds=round(installed - begin, 2),
        ready_seconds=round(time.monotonic() - installed, 2),
    )


def _held(connection: Connection, target: Target) -> list[str]:
    """The pods of the groups that have given up."""
    look = Observer(connection, target.place).look()
    groups = {host.place for host in look.hosts if host.problem and host.problem.kind == "held"}
    return [host.pod for host in look.hosts if host.place in groups and host.uid]


def patience(target: Target) -> float:
    """Seconds to wait by default: the plan's cold start, plus ten minutes for images and nodes."""
    return float(target.plan.startup_seconds + 600)
