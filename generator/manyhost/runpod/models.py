"""What of RunPod's API v2 is sent and read, as its OpenAPI description has it.

The description is api.runpod.io/v2/openapi.json, read on 2026-08-20. Answers may have more than is named
here; requests have nothing else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]
Stock = Literal["NONE", "LOW", "MEDIUM", "HIGH"]


class Sent(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A request's body: what keeps its default is left out."""


class Read(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an answer."""


class NewVolume(Sent, frozen=True):
    """A network volume.

    Attributes:
        size: GB, 10 to 4096; it can grow and never shrinks.
        data_center: Where; pods that mount it are there too.
        type: Cannot be changed.
    """

    name: str
    size: int
    data_center: str
    type: Literal["STANDARD", "HIGH_PERFORMANCE"] | None = None


class NetworkMount(Sent, frozen=True):
    """A volume in a pod."""

    volume_id: str
    path: str


class Mounts(Sent, frozen=True):
    """What a pod mounts; one network volume at most."""

    network: list[NetworkMount]


class Compute(Sent, frozen=True):
    """Shape of a cluster: 2 to 250 pods alike."""

    gpu_type_id: str
    gpu_count_per_pod: int
    pod_count: int


class Container(Sent, frozen=True, kw_only=True):
    """What a pod runs, and each one of a cluster alike."""

    name: str
    image: str
    args: str = ""
    disk: int | None = None
    env: dict[str, str] = {}
    ports: list[str] = []
    mounts: Mounts | None = None
    data_center_ids: list[str] = []
    start_ssh: bool = False


class NewCluster(Container, frozen=True, kw_only=True):
    """An Instant Cluster. It takes public images only: there is no field for a registry's credentials."""

    type: Literal["APPLICATION", "TRAINING", "SLURM", "RAY"]
    compute: Compute


class Gpu(Sent, frozen=True):
    """GPUs of a pod.

    Attributes:
        min_cuda_version: Of the host's driver. Without it a host may come that cannot run the image.
    """

    id: str
    count: int
    min_cuda_version: str = ""


class Cpu(Sent, frozen=True):
    """Processors of a pod without GPUs."""

    id: str
    vcpu_count: int


class NewPod(Container, frozen=True, kw_only=True):
    """A pod: either `gpu` or `cpu`."""

    cloud: Literal["SECURE", "COMMUNITY"]
    gpu: Gpu | None = None
    cpu: Cpu | None = None


class Rename(Sent, frozen=True):
    """A new name of a pod or a cluster."""

    name: str


class Volume(Read, frozen=True):
    """A network volume."""

    id: str
    name: str
    size: int
    data_center: str


class Member(Read, frozen=True):
    """A pod's place in its cluster."""

    id: str
    rank: int | None
    ip: str = ""


class Port(Read, frozen=True):
    """A port of a running pod, as it is reached from outside."""

    private: int | None = None
    public: int | None = None
    type: str = ""
    ip: str | None = None


class SshEndpoint(Read, frozen=True):
    """A way to reach a pod over SSH."""

    command: str


class Ssh(Read, frozen=True):
    """How a pod is reached over SSH; direct is None as long as it has no public port for it."""

    direct: SshEndpoint | None = None


class Runtime(Read, frozen=True):
    """What a running pod has."""

    uptime: int = 0
    ports: list[Port] = []


class Pod(Read, frozen=True):
    """A pod.

    Attributes:
        cost: What is billed, USD an hour.
        cluster: Its place; None when it is in none.
    """

    id: str
    name: str
    status: Status
    cost: float
    env: dict[str, str] = {}
    data_center_id: str | None = None
    cuda_version: str | None = None
    cluster: Member | None = None
    runtime: Runtime | None = None
    ssh: Ssh | None = None
    created_at: str = ""


class Primary(Read, frozen=True):
    """The pod of rank 0."""

    pod_id: str
    status: Status
    ssh_endpoint: str = ""


class Cluster(Read, frozen=True):
    """A cluster."""

    id: str
    name: str
    compute: Compute
    data_center_id: str = ""
    primary: Primary | None = None
    created_at: str = ""


class Prices(Read, frozen=True):
    """USD for each GPU and hour."""

    secure: float
    community: float


class Room(Read, frozen=True):
    """Stock of a GPU in one data center."""

    id: str
    availability: Stock


class GpuType(Read, frozen=True):
    """A GPU of the catalog.

    Attributes:
        memory: GB.
        availability: Of the product that was asked for.
    """

    id: str
    name: str
    memory: int
    price: Prices
    availability: Stock | None = None
    data_centers: list[Room] = []


class CpuPrice(Read, frozen=True):
    """USD for each virtual processor and hour."""

    secure_per_vcpu: float


class Range(Read, frozen=True):
    """The least and the most of something."""

    min: int
    max: int


class CpuType(Read, frozen=True):
    """A processor of the catalog."""

    id: str
    vcpu: Range
    price: CpuPrice
    availability: Stock | None = None
    data_centers: list[Room] = []


class Line(Read, frozen=True):
    """A line of a pod's log.

    Attributes:
        id: Names it for who reads on after a break.
        ts: When it was written (RFC 3339).
    """

    line: str
    ts: str = ""
    id: str = ""


class Billed(Read, frozen=True):
    """What was billed in one stretch of time, USD."""

    total_amount: float


class Problem(Read, frozen=True):
    """A refusal (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: list[str] = []
