"""Environments: kinds of place with hosts (values/environments/)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from manyhost.catalog.struct import Amount, Count, Date, Exemptions, Name, Path, Positive, Struct

Rate = Literal["on-demand", "spot", "flex-start", "calendar", "commit-1y", "commit-3y"]


class Nic(Struct, frozen=True):
    """One network interface of a host, as the pods see it.

    Attributes:
        network: Usual name of its network; on GKE that of the Network object.
        mode: Device mode of that network (GKENetworkParamSet.spec.deviceMode in
            GoogleCloudPlatform/gke-networking-api, apis/network/v1); empty for the cluster's own network.
        gpus: Indices of the GPUs that it carries; empty for an interface of the host.
    """

    network: str
    mode: Literal["", "NetDevice", "RDMA"] = ""
    gpus: list[Count] = []


class Share(Struct, frozen=True):
    """What the engine's container may count on, of a host's processors and main memory.

    Attributes:
        cpu: Processors that it requests. It may have all there are: throttled NCCL threads stall every GPU.
        memory_gib: Memory that it requests, what it writes to /dev/shm included.
        memory_limit_gib: Memory beyond which it is killed; 0 is no limit.
    """

    cpu: Amount
    memory_gib: Amount
    memory_limit_gib: Amount = 0


class Host(Struct, frozen=True):
    """One host of an environment.

    Attributes:
        machine_type: What the platform calls it.
        architecture: Of its CPUs: the engine's image must be built for it.
        gpu: Name of the GPU, for people.
        gpus: GPUs of the host; 0 counts as one rank.
        gpu_memory_gib: What CUDA reports as the memory of one GPU.
        cpus: Processors, as the platform counts them; 0 where hosts differ, and nothing has a limit of them.
        memory_gib: Main memory.
        shm_gib: /dev/shm of a pod, in memory.
        share: Of it, the engine's; left out where the engine asks for nothing but GPUs.
        local_ssd_gib: Local SSD, where downloads go.
        interface: Interface of the control traffic, the API's included.
        nics: In the order of the pods' interfaces; empty where there is only the cluster's network.
    """

    machine_type: str
    architecture: Literal["amd64", "arm64"]
    gpu: str
    gpus: Count
    gpu_memory_gib: Amount
    memory_gib: Positive
    shm_gib: Positive
    local_ssd_gib: Count
    interface: str
    cpus: Count = 0
    share: Share | None = None
    nics: list[Nic] = []


class Price(Struct, frozen=True):
    """List prices of one host, USD per hour, with their date and source.

    Attributes:
        date: The day they were read.
        source: Where.
        default_region: The region that counts when none is set.
        usd_per_host_hour: By region and by rate; commitments are rates too.
        verified: Whether the source is the seller's own list, and not somebody else's word.
    """

    date: Date
    source: str
    default_region: str
    usd_per_host_hour: dict[str, dict[Rate, Amount]]
    verified: bool = True


class Kubernetes(Struct, frozen=True, tag="kubernetes", tag_field="kind"):
    """Any Kubernetes cluster.

    Attributes:
        node_selector: Labels of the hosts.
        tolerations: Of their taints.
        topology_keys: Node labels that say how near two hosts are, widest first.
        pod_security: Level of the Pod Security Standards that the pods keep, less the departures that the
            interconnect and the recipe's own settings give a reason for.
        run_as_user: User of the engine; the image's own when it is left out.
        run_as_group: Its group, likewise.
        fs_group: Group that owns the volumes; unchanged when it is left out.
    """

    node_selector: dict[str, str]
    tolerations: list[dict[str, str]]
    topology_keys: list[str]
    pod_security: Literal["restricted", "baseline"]
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None


class Gke(Kubernetes, frozen=True, tag="gke"):
    """Google Kubernetes Engine: networks of the hosts are Network objects.

    Attributes:
        gpu_drivers: Branch of NVIDIA's driver that GKE puts on these hosts with Container-Optimized OS, by
            the value of their label cloud.google.com/gke-gpu-driver-version and by GKE's minor version. What
            nobody has read is left out.
    """

    gpu_drivers: dict[Literal["default", "latest"], dict[str, Positive]] = {}


class RunPod(Struct, frozen=True, tag="runpod", tag_field="kind"):
    """RunPod: pods, and Instant Clusters of several.

    Attributes:
        gpu_type_id: Its name of the GPU (runpod/docs, api-reference).
        image: What pods start from; the engine comes from the network volume.
        volume_path: Where the network volume is mounted.
        s3_data_centers: Those whose network volumes can be written without a pod.
    """

    gpu_type_id: str
    image: str
    volume_path: Path
    s3_data_centers: tuple[str, ...] = ()


class Environment(Struct, frozen=True):
    """A kind of place with hosts.

    Attributes:
        name: Its file's name.
        description: One line for people.
        default_recipe: The recipe that its name alone picks.
        host: What every host of it is.
        interconnects: How GPUs of different hosts may talk, the default first.
        platform: What runs the hosts, with what only that platform has.
        price: Its price list; left out where nobody publishes one.
        exemptions: Hardening that its pods do without.
    """

    name: Name
    description: str
    default_recipe: Name
    host: Host
    interconnects: Annotated[list[str], Meta(min_length=1)]
    platform: Gke | Kubernetes | RunPod
    price: Price | None = None
    exemptions: Exemptions = {}


def contradiction(environment: Environment) -> tuple[str, str]:
    """Return the key of an environment that contradicts another one, and why; empty texts when none does."""
    price = environment.price
    if price and price.default_region not in price.usd_per_host_hour:
        return "price.default_region", "is none of the regions of usd_per_host_hour"
    return next(_too_much(environment.host), None) or next(_gpus_of_nics(environment.host), ("", ""))


def _too_much(host: Host) -> Iterator[tuple[str, str]]:
    """Yield what no host can give: its pods would wait for ever."""
    share = host.share or Share(cpu=0, memory_gib=0)
    limit = share.memory_limit_gib or host.memory_gib
    for key, wanted, most, there in (
        ("shm_gib", host.shm_gib, "memory_gib", host.memory_gib),
        ("share.memory_limit_gib", share.memory_limit_gib, "memory_gib", host.memory_gib),
        ("share.memory_gib", share.memory_gib, "memory_gib", host.memory_gib),
        ("share.memory_gib", share.memory_gib, "share.memory_limit_gib", limit),
        ("share.cpu", share.cpu, "cpus", host.cpus or share.cpu),
    ):
        if wanted > there:
            yield f"host.{key}", f"is {wanted:g}, more than host.{most}: {there:g}"


def _gpus_of_nics(host: Host) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the GPUs of its NICs."""
    seen = set[int]()
    for index, nic in enumerate(host.nics):
        for gpu in nic.gpus:
            if gpu >= host.gpus:
                yield f"host.nics[{index}].gpus", f"names GPU {gpu} of {host.gpus}"
            if gpu in seen:
                yield f"host.nics[{index}].gpus", f"names GPU {gpu}, which another NIC carries"
            seen.add(gpu)
