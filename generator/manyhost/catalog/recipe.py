"""Recipes: workload x environment x tuning (recipes/<environment>/<recipe>/recipe.yaml).

Each description is the key's documentation: docs/reference/settings.md and `manyhost explain` show it.
values/local.yaml, environment variables and --set address the same keys.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from manyhost.catalog.engine import EngineName
from manyhost.catalog.struct import Amount, Name, Path, Struct

# Beyond these a number is a typing error, and Kubernetes' fields of 32 bits are not far.
INT32 = 2**31 - 1
DAY_SECONDS = 86_400
GROUPS = 1_000
RANKS = 4_096
SEATS = 1_000_000


class EngineChoice(Struct, frozen=True):
    """Which engine a recipe runs, and from which image."""

    version: Annotated[
        str, Meta(description="Version of the engine, one of values/engines/vllm, or of engine.name.")
    ]
    executor: Annotated[
        Literal["mp", "ray"],
        Meta(
            description="What starts the ranks on the hosts: mp (the engine's own) or ray "
            "(the image must have it)."
        ),
    ]
    name: Annotated[
        EngineName,
        Meta(description="vllm, or sglang, which nobody has started with manyhost on GPUs."),
    ] = "vllm"
    image: Annotated[
        str,
        Meta(
            max_length=255,  # of a repository name: distribution/reference, RepositoryNameTotalLengthMax
            description="Image without tag; a bare name is looked up in site.artifact_registry.",
        ),
    ] = ""
    tag: Annotated[str, Meta(description="Tag of the image; the engine's own by default.")] = ""
    digest: Annotated[
        str,
        Meta(pattern=r"^(sha256:[0-9a-f]{64})?$", description="Digest of the image; it replaces the tag."),
    ] = ""
    command: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="Words that start the engine, `serve` and its arguments follow; by default its own.",
        ),
    ] = msgspec.field(default_factory=lambda: ["vllm"])


class Parallelism(Struct, frozen=True):
    """Sizes of the parallel groups; their product is the GPUs of one group."""

    tensor: Annotated[
        int,
        Meta(
            ge=1,
            le=RANKS,
            description="GPUs that share each layer (tensor parallelism); keep it inside a host.",
        ),
    ]
    pipeline: Annotated[
        int, Meta(ge=1, le=RANKS, description="Pipeline stages; stages may lie on different hosts.")
    ]
    data: Annotated[int, Meta(ge=1, le=RANKS, description="Data parallel replicas inside one host.")] = 1


class Traffic(Struct, frozen=True):
    """The requests a recipe is made for."""

    input_tokens: Annotated[int, Meta(ge=1, le=INT32, description="Prompt tokens of a typical request.")]
    output_tokens: Annotated[int, Meta(ge=1, le=INT32, description="Answer tokens of a typical request.")]


class Objectives(Struct, frozen=True):
    """What a user of the service may expect."""

    ttft_ms: Annotated[
        int, Meta(ge=1, le=DAY_SECONDS * 1000, description="Time to first token, milliseconds.")
    ]
    tpot_ms: Annotated[
        int, Meta(ge=1, le=DAY_SECONDS * 1000, description="Time per output token, milliseconds.")
    ]


class Weights(Struct, frozen=True):
    """Where the weights come from."""

    source: Annotated[
        Literal["auto", "hub", "bucket", "folder"],
        Meta(
            description="hub (each host downloads), bucket (staged once, mounted), folder (on every host); "
            "auto is bucket when there is one, else hub."
        ),
    ] = "auto"
    path: Annotated[
        str, Meta(description="Folder of the weights inside the container; /gcs/models/<model> for a bucket.")
    ] = ""


class Network(Struct, frozen=True):
    """Network objects of the cluster and NCCL settings."""

    subnetworks: Annotated[
        list[str],
        Meta(description="Network objects in NIC order; the environment's usual names when empty."),
    ] = []
    interconnect: Annotated[
        str,
        Meta(
            description="One of values/interconnects; when empty the environment's first, or none "
            "where a group is one host."
        ),
    ] = ""
    release: Annotated[
        str,
        Meta(description="Release of the interconnect's images, by its plugin's tag; the newest when empty."),
    ] = ""
    host_network: Annotated[
        bool, Meta(description="Use the hosts' own network; privileged, and one pod per host.")
    ] = False
    nccl: Annotated[
        dict[str, str], Meta(description="NCCL variables that win over the interconnect's profile.")
    ] = {}


class HostMount(Struct, frozen=True):
    """A folder of the host that the engine's container sees."""

    name: Name
    host_path: Path
    mount_path: Path
    read_only: bool = True


class RoleTuning(Struct, frozen=True):
    """What the groups of one role have of their own."""

    tensor: Annotated[
        int, Meta(ge=0, le=RANKS, description="Its tensor parallel size; 0 is parallelism.tensor.")
    ] = 0
    data: Annotated[
        int, Meta(ge=0, le=RANKS, description="Its data parallel size; 0 is parallelism.data.")
    ] = 0
    arguments: Annotated[
        dict[str, Any], Meta(description="Its engine flags, over those of all; null removes one.")
    ] = {}


class PrefillRole(RoleTuning, frozen=True):
    """Groups that only read prompts and hand the KV cache on."""

    groups: Annotated[
        int,
        Meta(
            ge=0,
            le=GROUPS,
            description="Groups that only read prompts and hand the KV cache on; `groups` then counts those "
            "that write the answers (decode). 0: every group does both.",
        ),
    ] = 0


class Roles(Struct, frozen=True):
    """Prefill and decode in groups of their own."""

    prefill: PrefillRole = PrefillRole()
    decode: RoleTuning = RoleTuning()


class EndpointPicker(Struct, frozen=True):
    """What tells a Gateway which group a request suits best (Gateway API Inference Extension)."""

    name: Annotated[
        str, Meta(description="Service of the endpoint picker, in the namespace of the release.")
    ] = ""
    port: Annotated[int, Meta(ge=1, le=65_535, description="Port of the picker for the Gateway.")] = 9002
    failure_mode: Annotated[
        Literal["FailOpen", "FailClose"],
        Meta(
            description="While no picker answers the Gateway picks a group itself (FailOpen) or refuses the "
            "request (FailClose)."
        ),
    ] = "FailOpen"


class Gateway(Struct, frozen=True):
    """The Gateway before the groups."""

    name: Annotated[str, Meta(description="Gateway that routes to the groups, where routing says so.")] = ""
    namespace: Annotated[str, Meta(description="Its namespace; the release's when empty.")] = ""
    timeout_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=DAY_SECONDS,
            description="How long a request and its streamed answer may take; 0 is no limit, a day on GKE.",
        ),
    ] = 0
    picker: EndpointPicker = EndpointPicker()


class Capacity(Struct, frozen=True):
    """How the hosts are had."""

    mode: Annotated[
        Literal["on-demand", "spot", "flex-start", "calendar", "reservation"],
        Meta(description="How the platform gives the hosts; decides the price, and how long they are had."),
    ] = "on-demand"
    ends: Annotated[
        str,
        Meta(
            description="When the hosts go, where their nodes do not say it: the end of a reservation, "
            'written "2026-12-01T08:00Z".'
        ),
    ] = ""
    usd_per_host_hour: Annotated[
        Amount | None,
        Meta(description="What you pay for a host, USD an hour, where it is not what the list says."),
    ] = None


class Site(Struct, frozen=True):
    """Where the recipe runs: what the published recipe keeps in environment variables."""

    project_id: Annotated[str, Meta(description="Google Cloud project.")] = ""
    region: Annotated[str, Meta(description="Region of Cloud Build.")] = ""
    cluster_region: Annotated[str, Meta(description="Region of the cluster; decides the price.")] = ""
    cluster_name: Annotated[str, Meta(description="Cluster; commands refuse to work on another one.")] = ""
    gcs_bucket: Annotated[str, Meta(description="Bucket, mounted at /gcs; it holds the staged weights.")] = ""
    artifact_registry: Annotated[
        str, Meta(description="Registry of your own images: LOCATION-docker.pkg.dev/PROJECT/REPOSITORY.")
    ] = ""


class Workload(Struct, frozen=True):
    """What is to be served: model, context, traffic, objectives. It knows no place."""

    model: Annotated[str, Meta(description="One of values/models.")]
    context: Annotated[
        int, Meta(ge=1, le=INT32, description="Longest request in tokens, prompt and answer together.")
    ]
    traffic: Traffic
    objectives: Objectives


class Recipe(Workload, frozen=True):
    """Workload x environment x tuning."""

    description: Annotated[str, Meta(description="One line for people.")]
    environment: Annotated[str, Meta(description="One of values/environments.")]
    engine: EngineChoice
    parallelism: Parallelism
    arguments: Annotated[
        dict[str, Any],
        Meta(description="Engine flags by name without dashes; null removes one that came from elsewhere."),
    ]
    variables: Annotated[dict[str, str], Meta(description="Environment variables of the engine.")] = {}
    groups: Annotated[
        int, Meta(ge=1, le=GROUPS, description="Groups of hosts that answer; each has the whole model.")
    ] = 1
    utilization: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of GPU memory the engine may use; 0 is the engine's default."),
    ] = 0.0
    network: Network = Network()
    weights: Weights = Weights()
    site: Site = Site()
    host_mounts: Annotated[
        list[HostMount],
        Meta(description="Folders of the hosts: a list of {name, host_path, mount_path, read_only}."),
    ] = []
    node_selector: Annotated[
        dict[str, str], Meta(description="Node labels beside the environment's own.")
    ] = {}
    ssd_host_path: Annotated[
        str,
        Meta(
            pattern=r"^(/.*)?$",
            description="Folder of the host for downloads that outlive the pods; a pod volume when empty.",
        ),
    ] = ""
    drain_seconds: Annotated[
        int,
        Meta(ge=1, le=DAY_SECONDS, description="How long running requests may finish when a pod is stopped."),
    ] = 300
    stall_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_SECONDS,
            description="An engine that does not move for so long, while requests run or wait, is stuck.",
        ),
    ] = 120
    start_attempts: Annotated[
        int, Meta(ge=1, le=10, description="Engine starts inside the pod before it holds and says why.")
    ] = 3
    startup_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=DAY_SECONDS,
            description="Estimate of a start, by which waits are measured; 0 takes the plan's.",
        ),
    ] = 0
    roles: Roles = Roles()
    routing: Annotated[
        Literal["service", "inferencepool", "dynamo"],
        Meta(
            description="How clients reach the groups: the Service alone, or a Gateway with an InferencePool "
            "and an HTTPRoute too; on RunPod the engine itself, or NVIDIA Dynamo before one or more."
        ),
    ] = "service"
    gateway: Gateway = Gateway()
    capacity: Capacity = Capacity()
    chart: Annotated[
        dict[str, Any],
        Meta(description="Values of the chart that no other key writes, by their own names: chart.<value>."),
    ] = {}
