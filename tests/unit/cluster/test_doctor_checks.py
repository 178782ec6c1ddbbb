"""Doctor's checks of versions, queue, registry and bucket: a healthy case, and planted faults.

Every test runs one check by its name through examine(), so it fails when the check is not registered.
The others are tested against planted faults in the test cluster (tests/e2e/test_doctor.py).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import msgspec
import pytest
from manyhost.cluster.registry import split
from manyhost.cluster.target import Target, from_rendered
from manyhost.render import build

from tests.unit.cluster.doctor import (
    RECIPE,
    Examine,
    Reply,
    Serve,
    a_local_target,
    a_range,
    a_target,
    lists,
    with_pods,
)

FILES = 163  # DeepSeek-R1's safetensors files, values/models/deepseek-r1-671b.yaml
MODEL = "models/deepseek-ai/DeepSeek-R1"
REVISION = "56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad"  # values/models/deepseek-r1-671b.yaml
POOL = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog"


# ------------------------------------------------------------------ the API server


@pytest.mark.parametrize(
    ("version", "status", "why"),
    [
        ("v1.29.0", "pass", "Kubernetes v1.29.0"),
        ("v1.33.2-gke.1043000", "pass", "Kubernetes v1.33.2-gke.1043000"),
        ("v1.28.15-gke.100", "fail", "older than 1.29: it has no native sidecars"),
        ("unknown", "warn", "version 'unknown' is not understood"),
    ],
)
def test_kubernetes_version(version: str, status: str, why: str, serve: Serve, examined: Examine) -> None:
    def answer(method: str, path: str, headers: Any) -> Reply:
        assert path == "/version"
        return 200, {}, {"gitVersion": version}

    result = examined("kubernetes-version", a_target(), f"http://{serve(answer)}")
    assert result.status == status
    assert why in result.why
    if status == "fail":
        assert "gcloud container clusters upgrade CLUSTER" in result.fix


@pytest.mark.parametrize(
    ("recipe", "hard", "ranges", "status", "why"),
    [
        (RECIPE, {"pods": "10", "requests.nvidia.com/gpu": "16"}, 0, "pass", "1 quota leaves room"),
        (RECIPE, {"requests.nvidia.com/gpu": "8"}, 0, "fail", "8 requests.nvidia.com/gpu, 0 are used and 16"),
        ("local/tiny-r1", {"limits.cpu": "9", "memory": "9Ti"}, 0, "fail", "limits.cpu: pods that do not"),
        ("local/tiny-r1", {"limits.cpu": "9", "memory": "9Ti"}, 1, "pass", "1 quota leaves room"),
        # Where the hosts are known every container has a limit: what counts is the size of the quota.
        (RECIPE, {"limits.cpu": "999", "memory": "9Ti"}, 0, "pass", "1 quota leaves room"),
        (RECIPE, {"limits.cpu": "600"}, 0, "fail", "allows 600 limits.cpu, 0 are used and 832"),
    ],
)
def test_quota(
    recipe: str, hard: dict[str, str], ranges: int, status: str, why: str, serve: Serve, examined: Examine
) -> None:
    items = {
        "resourcequotas": [{"metadata": {"name": "tight"}, "status": {"hard": hard, "used": {}}}],
        "limitranges": [a_range(default={"cpu": "2"})] * ranges,
        "pods": [],
    }

    def answer(method: str, path: str, headers: Any) -> Reply:
        plural = path.partition("?")[0].rpartition("/")[2]
        return 200, {}, {"metadata": {}, "items": items.get(plural, [])}

    result = examined("quota", from_rendered(build(recipe)), f"http://{serve(answer)}")
    assert result.status == status
    assert why in result.why


def select(scope: str, operator: str, *values: str) -> dict[str, Any]:
    one = {"scopeName": scope, "operator": operator} | ({"values": list(values)} if values else {})
    return {"scopeSelector": {"matchExpressions": [one]}}


CPU = [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "4"}}}]
CAPPED = [{"name": "vllm", "resources": {"limits": {"cpu": "600"}}}]
ELSEWHERE = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "a", "namespaceSelector": {}}}
        ]
    }
}

GPUS_ALONE = {
    "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": 8}}}],
    "initContainers": [],
}


@pytest.mark.parametrize(
    ("scope", "fields", "counts"),
    [
        ({"scopes": ["Terminating"]}, {}, False),
        ({"scopes": ["Terminating"]}, {"activeDeadlineSeconds": 9}, True),
        ({"scopes": ["NotTerminating"]}, {}, True),
        ({"scopes": ["NotTerminating"]}, {"activeDeadlineSeconds": 9}, False),
        ({"scopes": ["BestEffort"]}, {}, False),
        ({"scopes": ["BestEffort"]}, GPUS_ALONE, True),  # a pod that requests GPUs alone is best-effort
        ({"scopes": ["BestEffort"]}, {"containers": CPU}, False),
        ({"scopes": ["NotBestEffort"]}, {}, True),
        ({"scopes": ["NotBestEffort"]}, GPUS_ALONE, False),
        ({"scopes": ["NotBestEffort"]}, {"containers": CPU}, True),
        ({"scopes": ["NotTerminating", "NotBestEffort"]}, GPUS_ALONE, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {}, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {"affinity": ELSEWHERE}, True),
        ({"scopes": ["PriorityClass"]}, {"priorityClassName": "high"}, True),
        ({"scopes": ["SomethingNew"]}, {}, False),
        (select("Terminating", "Exists"), {}, False),
        (select("PriorityClass", "In", "high", "higher"), {"priorityClassName": "high"}, True),
        (select("PriorityClass", "In", "high"), {"priorityClassName": "low"}, False),
        (select("PriorityClass", "In", "high"), {}, False),
        (select("PriorityClass", "In", "usual"), {}, True),  # the cluster's default class
        (select("PriorityClass", "NotIn", "usual"), {}, False),
        (select("PriorityClass", "NotIn", "high"), {}, True),
        (select("PriorityClass", "Exists"), {}, True),
        (select("PriorityClass", "DoesNotExist"), {}, False),
        ({"scopes": ["NotTerminating"]} | select("PriorityClass", "In", "high"), {}, False),
    ],
)
def test_quota_scopes(
    scope: dict[str, Any], fields: dict[str, Any], counts: bool, serve: Serve, examined: Examine
) -> None:
    """A quota without room for one pod stops those that it counts, and says nothing about others."""
    items: dict[str, list[Any]] = {
        "resourcequotas": [{"metadata": {"name": "tight"}, "spec": {"hard": {"pods": "0"}, **scope}}],
        "limitranges": [],
        "pods": [],
        "priorityclasses": [
            {"metadata": {"name": "high"}},
            {"metadata": {"name": "usual"}, "globalDefault": True},
        ],
    }

    def answer(method: str, path: str, headers: Any) -> Reply:
        plural = path.partition("?")[0].rpartition("/")[2]
        return 200, {}, {"metadata": {}, "items": items.get(plural, [])}

    result = examined("quota", with_pods(**fields), f"http://{serve(answer)}")
    if counts:
        assert (result.status, "quota tight allows 0 pods" in result.why) == ("fail", True)
        return
    assert (result.status, result.why) == ("pass", "no quota of the namespace counts such pods")


def test_quota_on_limits(serve: Serve, examined: Examine) -> None:
    """Limits count too: two pods of 600 CPUs do not fit into 999."""
    quotas = [{"metadata": {"name": "tight"}, "spec": {"hard": {"limits.cpu": "999"}}}]

    def answer(method: str, path: str, headers: Any) -> Reply:
        return 200, {}, {"metadata": {}, "items": quotas if "/resourcequotas" in path else []}

    result = examined("quota", with_pods(containers=CAPPED, initContainers=[]), f"http://{serve(answer)}")
    assert (result.status, "1200 are needed" in result.why) == ("fail", True)


# ------------------------------------------------------------------ hosts


def a_node(name: str, *taints: str, cordoned: bool = False, ready: str = "True") -> dict[str, Any]:
    """A node with room for anything; taints as key=value."""
    found = [
        {"key": key, "value": value, "effect": "NoSchedule"}
        for key, _, value in (taint.partition("=") for taint in taints)
    ]
    if cordoned:
        found.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    room = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "9Ti"}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": {"unschedulable": cordoned, "taints": found},
        "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("nodes", "first", "fix"),
    [
        # GPU hosts that are none of this recipe's business outnumber the cordoned ones that are.
        (
            [*(a_node(f"gpu-{n}", "nvidia.com/gpu=present") for n in range(4)), a_node("cpu", cordoned=True)],
            ": cpu: cordoned;", "drains them on purpose: `kubectl uncordon cpu --context here`",
        ),
        ([a_node("gpu", "nvidia.com/gpu=present")], "taint nvidia.com/gpu=present", "leave nvidia.com/gpu"),
        ([a_node("their", "dedicated=them")], "taint dedicated=them", "dedicated is somebody's"),
        ([a_node("n", "dedicated=them", cordoned=True)], "and it is cordoned", "ask whoever set it"),
        ([a_node("n", "node.kubernetes.io/disk-pressure")], "disk-pressure", "goes by itself"),
    ],
)  # fmt: skip
def test_hosts_that_are_closed(
    nodes: list[Any], first: str, fix: str, serve: Serve, examined: Examine
) -> None:
    """The cordon is named first, and nobody is told to take a taint off that is somebody's."""
    result = examined("hosts", a_local_target(), f"http://{serve(lists(nodes=nodes))}")
    assert result.status == "fail"
    assert first in result.why
    assert fix in result.fix
    assert "kubectl taint" not in result.fix
    assert ("kubectl uncordon" in result.fix) is ("cpu" in first)


@pytest.mark.parametrize(
    ("mounts", "level", "status"),
    [(False, "restricted", "pass"), (True, "privileged", "pass"), (True, "baseline", "fail")],
)
def test_pod_security_of_the_pods_that_are_made(
    mounts: bool, level: str, status: str, serve: Serve, examined: Examine
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}

    def answer(method: str, path: str, headers: Any) -> Reply:
        return 200, {}, {"metadata": {"name": "default", "labels": labels}}

    target = from_rendered(build("local/tiny-r1")) if mounts else a_local_target()
    if not mounts:  # an environment that would allow more than its pods need
        allowed = msgspec.structs.replace(target.plan.allowed, level="privileged")
        target = msgspec.structs.replace(target, plan=msgspec.structs.replace(target.plan, allowed=allowed))
    result = examined("pod-security", target, f"http://{serve(answer)}")
    assert result.status == status
    if status == "fail":
        assert "need privileged for hostPath volume host-engine" in result.why
        assert "kubectl label namespace default" not in result.fix


@pytest.mark.parametrize(
    ("labels", "fix"),
    [
        ({"status": "pending-install", "version": "1"}, "manyhost teardown local/tiny-r1 --release tiny-r1"),
        ({"status": "pending-upgrade", "version": "4"}, "helm rollback tiny-r1 3 --namespace default"),
        ({"status": "uninstalling", "version": "4"}, "manyhost teardown local/tiny-r1 --release tiny-r1"),
    ],
)
def test_a_release_that_was_cut_off(
    labels: dict[str, str], fix: str, serve: Serve, examined: Examine
) -> None:
    """Nothing rolls back to before revision 1."""
    secret = {"metadata": {"name": "s", "labels": labels}}
    result = examined("release", a_local_target(), f"http://{serve(lists(secrets=[secret]))}")
    assert result.status == "fail"
    assert result.fix.startswith(f"if none runs: `{fix}")


def test_a_secret_without_its_key_is_patched(serve: Serve, examined: Examine) -> None:
    def answer(method: str, path: str, headers: Any) -> Reply:
        return 200, {}, {"metadata": {"name": "hf-secret"}, "data": {}}

    result = examined("hf-secret", a_target(), f"http://{serve(answer)}")
    assert "has no key hf_api_token" in result.why
    assert result.fix.startswith("`kubectl patch secret hf-secret --namespace default --context here -p ")


def with_queue(name: str) -> Target:
    target = a_target()
    return msgspec.structs.replace(target, effective={**target.effective, "queue": name})


def kueue(*served: str) -> Callable[[str, str, Any], Reply]:
    """An API server with one LocalQueue, under the served versions of Kueue's API."""

    def answer(method: str, path: str, headers: Any) -> Reply:
        for version in served:
            if path.startswith(f"/apis/kueue.x-k8s.io/{version}/namespaces/default/localqueues?"):
                return 200, {}, {"metadata": {}, "items": [{"metadata": {"name": "gpus"}}]}
        return 404, {}, {"message": "the server could not find the requested resource"}

    return answer


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_queue(version: str, serve: Serve, examined: Examine) -> None:
    api = f"http://{serve(kueue(version))}"
    assert examined("queue", with_queue("gpus"), api).status == "pass"
    wrong = examined("queue", with_queue("gpu"), api)
    assert wrong.status == "fail"
    assert wrong.why == "namespace default has no LocalQueue gpu; it has gpus"
    assert "kubectl get localqueues --all-namespaces" in wrong.fix
    assert examined("queue", a_target(), api).status == "skip"


def test_queue_without_kueue(serve: Serve, examined: Examine) -> None:
    result = examined("queue", with_queue("gpus"), f"http://{serve(kueue())}")
    assert result.status == "fail"
    assert "does not serve Kueue's LocalQueue" in result.why
    assert "install Kueue" in result.fix


# ------------------------------------------------------------------ the registry


class Registry:
    """The part of the OCI distribution API that decides whether an image can be pulled.

    Attributes:
        manifests: repository -> its tags.
        gate: "" for none, "token" for one that the token server gives to anyone, "closed" for one it refuses.
        mirror: Where to send who asks for a manifest.
    """

    def __init__(self, gate: str = "", mirror: str = "") -> None:
        self.manifests = {"team/vllm": {"v0.26.0"}}
        self.gate, self.mirror, self.address = gate, mirror, ""
        self.asked: list[str] = []

    def __call__(self, method: str, path: str, headers: Any) -> Reply:
        self.asked.append(f"{method} {path}")
        if path.startswith("/token?"):
            if self.gate == "closed":
                return 401, {}, {}
            assert "scope=repository%3Ateam%2Fvllm%3Apull" in path
            assert "service=registry" in path
            return 200, {}, {"token": "for-anyone"}
        repository, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        if self.gate and headers.get("Authorization") != "Bearer for-anyone":
            scope = f'scope="repository:{repository}:pull"'
            challenge = f'Bearer realm="http://{self.address}/token",service="registry",{scope}'
            return 401, {"WWW-Authenticate": challenge}, {}
        if self.mirror:
            return 307, {"Location": f"http://{self.mirror}{path}"}, {}
        found = tag in self.manifests.get(repository, set())
        assert "vnd.oci.image.index.v1+json" in headers["Accept"]
        return (200 if found else 404), {}, {}


def image(host: str, tag: str = "v0.26.0") -> Target:
    return a_target(f"engine.image={host}/team/vllm", f'engine.tag="{tag}"')


@pytest.mark.parametrize("gate", ["", "token"])
@pytest.mark.parametrize(("tag", "status"), [("v0.26.0", "pass"), ("v0.26.9", "fail")])
def test_image(gate: str, tag: str, status: str, serve: Serve, examined: Examine) -> None:
    registry = Registry(gate)
    registry.address = serve(registry)
    result = examined("image", image(registry.address, tag))
    assert result.status == status
    assert registry.asked[0] == f"HEAD /v2/team/vllm/manifests/{tag}"
    assert len(registry.asked) == (3 if gate else 1)
    if status == "fail":
        assert result.why == f"{registry.address}/team/vllm:{tag} does not exist"
        assert "choose another engine.version" in result.fix


def test_image_of_a_private_registry(serve: Serve, examined: Examine) -> None:
    registry = Registry("closed")
    registry.address = serve(registry)
    result = examined("image", image(registry.address))
    assert result.status == "warn"
    assert "does not tell strangers" in result.why


@pytest.mark.parametrize(("tag", "status"), [("v0.26.0", "pass"), ("v0.26.9", "fail")])
def test_image_behind_a_redirect(tag: str, status: str, serve: Serve, examined: Examine) -> None:
    """A registry that sends to its mirror has said nothing yet."""
    mirror = serve(Registry())
    assert examined("image", image(serve(Registry(mirror=mirror)), tag)).status == status


def test_image_of_a_registry_that_is_busy_or_away(serve: Serve, examined: Examine) -> None:
    busy = serve(lambda method, path, headers: (429, {"Retry-After": "3600"}, {}))
    assert "answers 429" in examined("image", image(busy)).why
    away = examined("image", image("127.0.0.1:9"))
    assert (away.status, "NewConnectionError" in away.why) == ("warn", True)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("vllm/vllm-openai:v1", ("registry-1.docker.io", "vllm/vllm-openai", "v1")),
        ("docker.io/vllm/vllm-openai:v1", ("registry-1.docker.io", "vllm/vllm-openai", "v1")),
        ("index.docker.io/busybox", ("registry-1.docker.io", "library/busybox", "latest")),
        ("localhost:5000/a/b", ("localhost:5000", "a/b", "latest")),
        ("ghcr.io/a/b:1@sha256:0", ("ghcr.io", "a/b", "sha256:0")),
    ],
)
def test_image_references(reference: str, parts: tuple[str, str, str]) -> None:
    assert split(reference) == parts


# ------------------------------------------------------------------ Cloud Storage


class Storage:
    """The emulator with the bucket gs://models, and a client for planting."""

    def __init__(self, server: Any, client: Any) -> None:
        self.client = client
        self.server = server
        self.bucket = client.create_bucket("models")

    def place(self, location: str, kind: str = "region") -> None:
        """Move the bucket: the emulator takes no location from its API."""
        found = self.server._storage.buckets["models"]
        found.update(location=location, locationType=kind)

    def allow(self, **roles: str) -> None:
        """Let members have roles/storage.<role> on the bucket, and nobody else."""
        policy = self.bucket.get_iam_policy(requested_policy_version=3)
        policy.bindings = [
            {"role": f"roles/storage.{role}", "members": {member}} for role, member in roles.items()
        ]
        self.bucket.set_iam_policy(policy)

    def stage(self, folder: str, revision: str = REVISION) -> list[str]:
        """Put a manifest and its files there, as small ones; return the files' names."""
        from manyhost.weights import manifest

        names = ["config.json", *(f"model-{number:05}.safetensors" for number in range(FILES))]
        files = []
        for name in names:
            data = name.encode()
            self.bucket.blob(f"{folder}{name}").upload_from_string(data)
            crc32c = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
            files.append(manifest.File(name, len(data), hashlib.sha256(data).hexdigest(), crc32c))
        known = manifest.Manifest("deepseek-ai/DeepSeek-R1", revision, tuple(files))
        self.bucket.blob(f"{folder}{manifest.NAME}").upload_from_string(manifest.dumps(known))
        return names


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    from gcp_storage_emulator.server import create_server
    from manyhost.cluster import gcs

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
        yield Storage(server, gcs.open_store("test").client)
    finally:
        server.stop()


def on_bucket(*assignments: str, name: str = "models") -> Target:
    return a_target(f"site.gcs_bucket={name}", *assignments)


def test_bucket(storage: Storage, examined: Examine) -> None:
    here = on_bucket("site.cluster_region=us-east4")
    storage.place("US-EAST4")
    healthy = examined("bucket", here)
    assert (healthy.status, healthy.why) == ("pass", "gs://models exists in us-east4")

    storage.place("EUROPE-WEST4")
    far = examined("bucket", here)
    assert far.status == "fail"
    assert "gs://models is in europe-west4, the cluster in us-east4" in far.why
    assert "buckets create gs://models-us-east4 --location us-east4" in far.fix
    # The region of a GKE context counts when no setting names one.
    assert examined("bucket", on_bucket(), context="gke_p_us-east4-b_prod").status == "fail"
    assert "the region is not known" in examined("bucket", on_bucket()).why

    storage.place("US", "multi-region")
    assert examined("bucket", here).status == "warn"
    assert examined("bucket", a_target()).status == "skip"


def test_bucket_that_does_not_exist(storage: Storage, examined: Examine) -> None:
    result = examined("bucket", on_bucket(name="modles"))
    assert (result.status, result.why) == ("fail", "gs://modles does not exist")
    assert "gcloud storage buckets create gs://modles" in result.fix


def test_bucket_access(storage: Storage, examined: Examine) -> None:
    account = f"{POOL}/subject/ns/default/sa/deepseek-r1-671b"
    storage.allow(objectUser=account)
    assert examined("bucket-access", on_bucket()).status == "pass"

    # Weights are only read: who followed docs/how-to/weights.md or the walkthrough may do that, and no more.
    storage.allow(objectViewer=account)
    assert examined("bucket-access", on_bucket()).status == "pass"

    # The project may grant it, which the bucket's policy does not say: no reason to call it impossible.
    result = examined("bucket-access", on_bucket("site.project_id=p", "weights.source=hub"))
    assert result.status == "warn"
    assert result.why == (
        "the policy of gs://models does not let ServiceAccount default/deepseek-r1-671b write to it; "
        "grants above the bucket were not read"
    )
    assert result.fix.startswith(
        "`gcloud projects get-ancestors-iam-policy p` shows those; if none has ns/default"
    )
    assert "add-iam-policy-binding gs://models --role roles/storage.objectUser" in result.fix
    assert "p.svc.id.goog/subject/ns/default/sa/deepseek-r1-671b" in result.fix

    storage.allow(objectUser=f"{POOL}/subject/ns/default/sa/another")
    result = examined("bucket-access", on_bucket())
    assert (result.status, "deepseek-r1-671b read it;" in result.why) == ("warn", True)
    assert examined("bucket-access", a_target()).status == "skip"


def test_weights(storage: Storage, examined: Examine) -> None:
    place = f"gs://models/{MODEL}"
    empty = examined("weights", on_bucket())
    assert (empty.status, empty.why) == ("fail", f"{place} is empty: nothing is staged there")
    assert empty.fix == f"stage them: `manyhost stage deepseek-r1-671b --to {place}`"

    names = storage.stage(f"{MODEL}/")
    healthy = examined("weights", on_bucket())
    assert healthy.status == "pass"
    assert f"deepseek-ai/DeepSeek-R1@{REVISION}" in healthy.why

    # The right size and wrong bytes
    storage.bucket.blob(f"{MODEL}/{names[7]}").upload_from_string(b"x" * len(names[7]))
    wrong = examined("weights", on_bucket())
    assert wrong.status == "fail"
    assert f"is not what was staged: {names[7]} has other bytes" in wrong.why
    storage.bucket.blob(f"{MODEL}/{names[7]}").delete()
    short = examined("weights", on_bucket())
    assert (short.status, f"{names[7]} is missing" in short.why) == ("fail", True)

    storage.stage(f"{MODEL}/", "1" * 40)
    other = examined("weights", on_bucket())
    assert (other.status, "holds deepseek-ai/DeepSeek-R1@111111111111, not" in other.why) == ("fail", True)
    assert other.fix.startswith(
        f"stage them: `manyhost stage deepseek-r1-671b --to {place}-{REVISION[:12]}`, and name"
    )

    storage.bucket.blob(f"{MODEL}/manyhost-weights.json").delete()
    copied = examined("weights", on_bucket())
    assert copied.why == (
        f"{place} has {FILES + 1} files, but no manyhost-weights.json: nobody has proven them"
    )
    storage.bucket.blob(f"{MODEL}/.manyhost-staging/mark.json").upload_from_string(b"{}")
    half = examined("weights", on_bucket())
    assert half.why == f"{place} is half-staged: {FILES + 1} files and no manyhost-weights.json"

    away = examined("weights", on_bucket("weights.path=/data/model"))
    assert (away.status, away.why) == ("fail", "no mounted bucket holds /data/model")
    assert examined("weights", a_target()).status == "skip"


def test_weights_that_are_the_whole_bucket(storage: Storage, examined: Examine) -> None:
    storage.stage("")
    assert examined("weights", on_bucket("weights.path=/gcs")).status == "pass"
