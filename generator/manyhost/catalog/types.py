"""The closed shapes of everything under values/ and recipes/.

Every struct is frozen and refuses unknown keys, so a typing error in a file is an error with the
key's name, never a silently ignored line. Units are part of the field names.

No `from __future__ import annotations` here: msgspec would compile each annotation from its text, which
takes 3 ms in each process.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all inputs: immutable and closed."""


# ---------------------------------------------------------------- environments
class Host(Struct, frozen=True):
    """One host of an environment."""

    machine_type: str
    architecture: Literal["amd64", "arm64"]
    gpu: str
    gpus: Count
    gpu_memory_gib: Amount
    cpus: Positive
    memory_gib: Positive
    local_ssd_gib: Count


class Violation(Struct, frozen=True):
    """One departure from the Pod Security baseline, and why it is needed.

    Attributes:
        violation: In the words of checks.pod_security.violations.
        reason: Why the pods need it.
        when: The recipe key that must be set for it to be allowed; always allowed when empty.
    """

    violation: str
    reason: Annotated[str, Meta(min_length=10)]
    when: Literal["", "network.host_network", "ssd_host_path", "host_mounts"] = ""


class Security(Struct, frozen=True):
    """What the pods of an environment are allowed to do."""

    privileged: bool
    host_network: bool
    level: Literal["restricted", "baseline", "privileged"]
    violations: list[Violation]
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None


class Price(Struct, frozen=True):
    """On-demand price list of one host, USD per hour by region, with its date and source."""

    date: str
    source: str
    default_region: str
    usd_per_host_hour: dict[str, Amount]


class Environment(Struct, frozen=True):
    """A kind of place with hosts."""

    name: Name
    description: str
    platform: Literal["gke", "kubernetes"]
    default_recipe: Name
    host: Host
    networks: list[str]
    network_device_mode: Literal["", "NetDevice", "RDMA"]
    socket_interface: str
    interconnects: Annotated[list[str], Meta(min_length=1)]
    node_selector: dict[str, str]
    tolerations: list[dict[str, str]]
    topology_keys: list[str]
    resources: dict[str, dict[str, str]]
    shm_size: str
    security: Security
    price: Price


# --------------------------------------------------------------- interconnects
class InterconnectRelease(Struct, frozen=True):
    """A pair of plugin and daemon versions that belong together."""

    date: str
    plugin: str
    daemon: str
    nccl: str


class KvTransfer(Struct, frozen=True):
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


class Interconnect(Struct, frozen=True):
    """How GPUs of different hosts talk to each other."""

    name: Name
    description: str
    bus_bandwidth_gbytes_per_second: Amount
    minimum_bus_bandwidth_gbytes_per_second: Amount
    needs_multi_networking: bool
    profile: str
    daemonsets: list[str]
    releases: list[InterconnectRelease]
    disaggregation: KvTransfer
    plugin_repository: str = ""
    daemon_repository: str = ""


# ----------------------------------------------------------------------- models
class Architecture(Struct, frozen=True):
    """Dimensions of a DeepSeek-V3 type model (config.json of the model)."""

    layers: Positive
    dense_layers: Count
    mtp_layers: Count
    hidden: Positive
    heads: Positive
    q_lora_rank: Positive
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: Positive
    v_head_dim: Positive
    intermediate: Positive
    moe_intermediate: Positive
    routed_experts: Positive
    shared_experts: Count
    vocabulary: Positive


class Model(Struct, frozen=True):
    """A large language model: its weights and its architecture."""

    name: Name
    hub_id: str
    served_name: str
    weights_bytes: Positive
    weights_files: Positive
    gated: bool
    reasoning_parser: str
    weight_format: Literal["fp8-block", "bf16"]
    max_context_tokens: Positive
    architecture: Architecture


# ---------------------------------------------------------------------- engines
class EngineStartup(Struct, frozen=True):
    """How long an engine version takes between the loaded weights and the first answer."""

    compile_seconds: Positive


class Engine(Struct, frozen=True):
    """vLLM at one version: image, executors, memory behaviour, and the file with its flags.

    `nixl` says whether it has the NIXL connector and its image the library: two engines can then
    exchange KV caches.
    """

    name: Literal["vllm"]
    version: Annotated[str, Meta(pattern=r"^v[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9]+)?$")]
    image: str
    tag: str
    flags: str
    executors: Annotated[list[Literal["mp", "ray"]], Meta(min_length=1)]
    stock_image_executors: list[Literal["mp", "ray"]]
    nixl: bool
    image_gib: Amount
    kv_entry_alignment_bytes: Positive
    kv_block_tokens: Positive
    kv_dtypes: list[str]
    mla_absorbed: Literal["v0", "v1"]
    overhead_gib: Amount
    default_arguments: dict[str, Any]
    reasoning_field: str
    default_utilization: Amount
    startup: EngineStartup


# ---------------------------------------------------------------------- recipes
# Each description is the key's documentation: docs/reference/settings.md and `manyhost explain` show it.
class EngineChoice(Struct, frozen=True):
    """Which engine a recipe runs, and from which image."""

    version: Annotated[str, Meta(description="vLLM version, one of values/engines/vllm.")]
    executor: Annotated[
        Literal["mp", "ray"],
        Meta(
            description="What starts the ranks on the hosts: mp (vLLM's own) or ray (the image must have it)."
        ),
    ]
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
        Meta(min_length=1, description="Words that start the engine; `serve` and its arguments follow."),
    ] = msgspec.field(default_factory=lambda: ["vllm"])


class Parallelism(Struct, frozen=True):
    """Sizes of the parallel groups; their product is the GPUs of one group."""

    tensor: Annotated[
        int, Meta(ge=1, description="GPUs that share each layer (tensor parallelism); keep it inside a host.")
    ]
    pipeline: Annotated[int, Meta(ge=1, description="Pipeline stages; stages may lie on different hosts.")]
    data: Annotated[int, Meta(ge=1, description="Data parallel replicas inside one host.")] = 1


class Traffic(Struct, frozen=True):
    """The requests a recipe is made for."""

    input_tokens: Annotated[int, Meta(ge=1, description="Prompt tokens of a typical request.")]
    output_tokens: Annotated[int, Meta(ge=1, description="Answer tokens of a typical request.")]


class Objectives(Struct, frozen=True):
    """What a user of the service may expect."""

    ttft_ms: Annotated[int, Meta(ge=1, description="Time to first token, milliseconds.")]
    tpot_ms: Annotated[int, Meta(ge=1, description="Time per output token, milliseconds.")]


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
        str, Meta(description="One of values/interconnects; the environment's first when empty.")
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
    host_path: str
    mount_path: str
    read_only: bool = True


class Disaggregation(Struct, frozen=True):
    """Prefill and decode in engines of their own."""

    prefill_groups: Annotated[
        int,
        Meta(
            ge=0,
            description="Groups that only read prompts and hand the KV cache on; `groups` then counts those "
            "that write the answers. 0: every group does both.",
        ),
    ] = 0


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


class Recipe(Struct, frozen=True):
    """Environment + model + engine + parallelism + traffic + objectives.

    values/local.yaml, environment variables and --set address the same keys.
    """

    description: Annotated[str, Meta(description="One line for people.")]
    environment: Annotated[str, Meta(description="One of values/environments.")]
    model: Annotated[str, Meta(description="One of values/models.")]
    engine: EngineChoice
    parallelism: Parallelism
    context: Annotated[int, Meta(ge=1, description="Longest request in tokens, prompt and answer together.")]
    arguments: Annotated[
        dict[str, Any],
        Meta(description="Engine flags by name without dashes; null removes one that came from elsewhere."),
    ]
    traffic: Traffic
    objectives: Objectives
    variables: Annotated[dict[str, str], Meta(description="Environment variables of the engine.")] = {}
    groups: Annotated[int, Meta(ge=1, description="Groups of hosts; each serves the whole model.")] = 1
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
        Meta(description="Folder of the host for downloads that outlive the pods; a pod volume when empty."),
    ] = ""
    drain_seconds: Annotated[
        int, Meta(ge=1, description="How long running requests may finish when a pod is stopped.")
    ] = 300
    stall_seconds: Annotated[
        int, Meta(ge=1, description="No token for this long, while requests run, counts as a stall.")
    ] = 120
    start_attempts: Annotated[
        int, Meta(ge=1, le=10, description="Engine starts inside the pod before it holds and says why.")
    ] = 3
    startup_seconds: Annotated[
        int, Meta(ge=0, description="Start budget of the engine; 0 takes the plan's cold-start estimate.")
    ] = 0
    disaggregation: Disaggregation = Disaggregation()
