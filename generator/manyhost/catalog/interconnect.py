"""Interconnects: how GPUs of different hosts talk to each other (values/interconnects/)."""

from typing import Annotated, Literal

from msgspec import Meta

from manyhost.catalog.struct import Amount, Date, Exemptions, Name, Path, Positive, Struct


class Point(Struct, frozen=True):
    """Bus bandwidth at one message size, 10^9 bytes per second (nccl-tests, doc/PERFORMANCE.md)."""

    bytes: Positive
    gbytes_per_second: Amount


class Bandwidth(Struct, frozen=True):
    """What has been measured between two hosts, and what a healthy pair must reach.

    Attributes:
        collective: What was measured.
        points: By message size, ascending; empty where nobody has published any.
        minimum_gbytes_per_second: Gate of `manyhost nccl`, at its largest message.
    """

    collective: Literal["all-reduce", "all-gather"]
    points: list[Point]
    minimum_gbytes_per_second: Amount


class KvHandover(Struct, frozen=True):
    """Whether and how prefill and decode engines can exchange KV caches over this fabric.

    Attributes:
        supported: Whether they can.
        reason: Why or why not.
        buffer: Memory that the KV cache moves through; the engine's own device when empty.
        variables: Environment of the transfer library (UCX).
        gbytes_per_second: What one host receives, 10^9 bytes per second; 0 when nobody has measured it.
    """

    supported: bool
    reason: str
    buffer: Literal["", "cpu"] = ""
    variables: dict[str, str] = {}
    gbytes_per_second: Amount = 0.0


class DaemonSet(Struct, frozen=True):
    """A DaemonSet in kube-system that the fabric needs.

    Attributes:
        name: Its name.
        manifest: Where it comes from.
        installs_plugin: Whether its image is the plugin's: its tag is the version on the hosts.
    """

    name: str
    manifest: Annotated[str, Meta(pattern=r"^https://")]
    installs_plugin: bool = False


class Folder(Struct, frozen=True):
    """A folder of the host that the pods mount.

    Attributes:
        name: Name of the volume.
        host_path: Where it lies on the host.
        engine: Where the engine sees it; empty when it does not.
        daemon: Where the fabric's daemon sees it; empty when it does not.
        read_only: For the engine; the daemon may always write.
    """

    name: Name
    host_path: Path
    engine: str = ""
    daemon: str = ""
    read_only: bool = True


class Violation(Struct, frozen=True):
    """One departure from the Pod Security baseline, and why the fabric needs it.

    Attributes:
        violation: In the words of checks.pod_security.violations.
        reason: Why the pods need it.
        when: The recipe key that must be set for it to be allowed; always allowed when empty.
    """

    violation: str
    reason: Annotated[str, Meta(min_length=10)]
    when: Literal["", "network.host_network"] = ""


class Release(Struct, frozen=True):
    """Images that belong together: all pods of a workload use those of one release.

    Attributes:
        date: When it came out.
        plugin: Tag of the NCCL plugin.
        daemon: Tag of the daemon beside the engine; empty where there is none.
        nccl: The NCCL that the plugin was qualified with; empty where nobody says.
    """

    date: Date
    plugin: str
    daemon: str = ""
    nccl: str = ""


class Interconnect(Struct, frozen=True, tag_field="transport"):
    """What every fabric says of itself.

    Attributes:
        name: Its file's name.
        description: For people.
        bandwidth: Between two hosts.
        kv_handover: Whether prefill and decode may be apart over it.
        spans_hosts: Whether tensor parallelism across hosts is as good as inside one (NVLink across hosts).
    """

    name: Name
    description: str
    bandwidth: Bandwidth
    kv_handover: KvHandover
    spans_hosts: bool = False


class Sockets(Interconnect, frozen=True, tag="sockets"):
    """TCP sockets: nothing beside the engine."""


class Plugin(Interconnect, frozen=True):
    """A fabric that NCCL reaches through a plugin or a library of the host.

    Attributes:
        releases: Images that belong together, newest first: that is used unless a recipe names one.
        plugin_repository: Image of the plugin, without tag.
        libraries: Folder of the plugin's libraries as the engine sees it.
        profile: File with the NCCL variables of the plugin's own version, which the launcher sources.
        variables: Environment of the engine.
        folders: Folders of the host.
        capabilities: Linux capabilities of the engine.
        resources: Extended resources of one host that the engine asks for, beside its GPUs.
        daemonsets: What must run in kube-system.
        violations: Departures from the Pod Security baseline, with the reasons.
        exemptions: Hardening that its pods do without.
    """

    releases: list[Release] = []
    plugin_repository: str = ""
    libraries: str = ""
    profile: str = ""
    variables: dict[str, str] = {}
    folders: list[Folder] = []
    capabilities: list[str] = []
    resources: dict[str, str] = {}
    daemonsets: list[DaemonSet] = []
    violations: list[Violation] = []
    exemptions: Exemptions = {}


class Rdma(Plugin, frozen=True, tag="rdma"):
    """RDMA NICs (RoCE or InfiniBand).

    Attributes:
        compute_domain: Whether the hosts of a group share an NVLink domain (ComputeDomain of
            NVIDIA/k8s-dra-driver-gpu), which each pod then claims a channel of.
        device_class: Class of the RDMA NICs where pods claim them (dynamic resource allocation) instead of
            naming networks; empty otherwise.
    """

    compute_domain: bool = False
    device_class: str = ""


class GpuDirectTcp(Plugin, frozen=True, kw_only=True, tag="gpudirect-tcp"):
    """GPUDirect over TCP: a daemon of the receive path runs beside each engine.

    Attributes:
        daemon_repository: Image of the daemon, without tag.
        devices: Devices beside the GPUs that the device injector gives to the daemon.
        daemon_requests: What the daemon requests of the host.
        daemon_limits: What it may not exceed; of processors, all that the host has.
    """

    daemon_repository: str
    daemon_requests: dict[str, str]
    daemon_limits: dict[str, str]
    devices: list[Path]
