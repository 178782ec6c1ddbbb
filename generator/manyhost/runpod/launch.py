"""What RunPod is asked for: bodies of requests, made of a plan and of the files that travel with them.

RunPod has no ConfigMaps and gives a pod neither an entry point nor files: what a pod runs travels in one
variable, as an archive that is the same for the same plan (docs/adr/0014-a-pod-that-carries-its-launcher.md).
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import math
import shlex
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from manyhost.catalog.environment import RunPod
from manyhost.commands import manyhost
from manyhost.errors import Failed, InvalidInput
from manyhost.plan import Plan, roles
from manyhost.render.launch import arguments, variables
from manyhost.runpod import names
from manyhost.runpod.models import (
    Compute,
    Cpu,
    Gpu,
    Mounts,
    NetworkMount,
    NewCluster,
    NewPod,
    NewVolume,
)

_BOOT = Path(__file__).parent / "boot"
REQUIREMENTS = Path(__file__).parent / "requirements"
PORT = 8000
TOOLS = "/opt/load"  # where boot.sh installs a load generator
LEASE_SECRET, API_SECRET, HUB_SECRET = "manyhost_lease", "manyhost_api", "manyhost_hf"
_FULL = 128 * 1024  # bytes of one variable (MAX_ARG_STRLEN, linux/include/uapi/linux/binfmts.h)
_OF_CLUSTERS = ("GLOO_SOCKET_IFNAME", "MANYHOST_INTERFACE", "NCCL_SOCKET_IFNAME")
_DISK_GB = 60  # the engine's environment, twice while it is packed, and its caches
ENGINE_GB = 40  # archives of some engines
_LAUNCHER = "*.py", "*.sh"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms something is rented.

    Attributes:
        name: Its name, the lease included.
        until: End of the lease, seconds since the epoch; 0 for none.
        volume: RunPod's name of the network volume.
        data_center: Where the volume is.
        url: RunPod's API, as pods reach it; empty for RunPod's own.
    """

    name: str
    until: float
    volume: str
    data_center: str
    url: str = ""


def platform(plan: Plan) -> RunPod:
    """Return the platform of a plan.

    Raises:
        InvalidInput: It is another one.
    """
    found = plan.environment.platform
    if not isinstance(found, RunPod):
        raise InvalidInput(
            f"environment {plan.environment.name} is not on RunPod",
            where="environment",
            fix=f"take a recipe of runpod-h200: {manyhost('list')} has them",
        )
    return found


def hosts(plan: Plan) -> int:
    """Return how many hosts the plan has."""
    return roles.hosts(plan.roles)


def volume(plan: Plan, name: str, data_center: str) -> NewVolume:
    """Return the network volume for a plan's weights and engine: hundreds of GB, a third to spare.

    It can grow and not shrink. 1,000 GB for DeepSeek R1.
    """
    needed = plan.model.weights_bytes * 1.3 / 1e9 + ENGINE_GB
    size = max(100, math.ceil(needed / 100) * 100)
    return NewVolume(name=name, size=size, data_center=data_center)


def stage_pod(plan: Plan, terms: Terms, charts: Path, cpu: Cpu, hub: str = "") -> NewPod:
    """Return the CPU pod that puts engine and weights on the volume.

    Args:
        plan: Of the recipe.
        terms: Of the pod.
        charts: Folder of the charts, which have the code that stages.
        cpu: Its processors.
        hub: Address of a mirror of the hub; empty for the hub itself.

    Raises:
        InvalidInput: Nobody has locked the engine's environment.
    """
    rented = platform(plan)
    requirements = REQUIREMENTS / f"{plan.engine.version}.txt"
    if not requirements.exists():
        known = ", ".join(sorted(path.stem for path in requirements.parent.glob("*.txt")))
        raise InvalidInput(
            f"the environment of vLLM {plan.engine.version} is not locked for RunPod",
            where="engine.version",
            fix=f"use one of: {known}",
        )
    settings = {
        "MANYHOST_ENGINE_ARCHIVE": engine_archive(plan),
        "MANYHOST_HUB_ID": plan.model.hub_id,
        "MANYHOST_MODEL_PATH": plan.weights.path,
        "MANYHOST_REVISION": plan.model.revision,
        "MANYHOST_STAGED": plan.weights.staged,
        "MANYHOST_WEIGHTS_BYTES": str(plan.model.weights_bytes),
    }
    if hub:
        settings["HF_ENDPOINT"] = hub
    worker = charts / "model-staging" / "worker"
    files = _own("boot.sh", "install.sh", "stage.sh", "lease.py") | {
        "settings.env": _settings(settings),
        "requirements.txt": requirements.read_bytes(),
    }
    files |= {path.relative_to(worker).as_posix(): path.read_bytes() for path in sorted(worker.rglob("*.py"))}
    env = _environment(files, terms, HF_TOKEN=HUB_SECRET)
    return NewPod(cloud="SECURE", cpu=cpu, **_container(rented, terms, "stage", env, "22/tcp"))


def load_pod(plan: Plan, terms: Terms, charts: Path, cpu: Cpu, spec: bytes, tool: bytes = b"") -> NewPod:
    """Return the CPU pod that sends a load; what it has measured stands in its log.

    Args:
        plan: Of the recipe.
        terms: Of the pod.
        charts: Folder of the charts, which have the client.
        cpu: Its processors.
        spec: What to send, JSON.
        tool: Distributions of the load generator, with hashes; empty for our own.
    """
    client = charts / "llm-benchmark" / "client"
    files = _own("boot.sh", "install.sh", "lease.py") | {"spec.json": spec, "settings.env": b""}
    if tool:
        files["requirements.txt"] = tool
    files |= {f"client/{path.name}": path.read_bytes() for path in sorted(client.glob("*.py"))}
    env = _environment(files, terms, VLLM_API_KEY=API_SECRET)
    return NewPod(cloud="SECURE", cpu=cpu, **_container(platform(plan), terms, "load", env, "22/tcp"))


def serving(plan: Plan, terms: Terms, charts: Path) -> NewPod | NewCluster:
    """Return what serves: a pod for one host, an Instant Cluster for more.

    Args:
        plan: Of the recipe.
        terms: Of the pod or the cluster.
        charts: Folder of the charts, which have the launcher.
    """
    rented, count = platform(plan), hosts(plan)
    gpus = plan.gpus_per_host or 1  # no pod of a cluster is without one; an engine for CPUs leaves it idle
    files = _serving_files(plan, terms, charts)
    env = _environment(files, terms, VLLM_API_KEY=API_SECRET)
    shared = _container(rented, terms, "serve", env, f"{PORT}/tcp", "22/tcp")
    if count == 1:
        gpu = Gpu(id=rented.gpu_type_id, count=gpus, min_cuda_version=_cuda(plan))
        return NewPod(cloud="SECURE", gpu=gpu, **shared)
    shape = Compute(gpu_type_id=rented.gpu_type_id, gpu_count_per_pod=gpus, pod_count=count)
    # RunPod's RAY would start Ray its own way; the launcher starts it with a token and a barrier.
    return NewCluster(type="APPLICATION", compute=shape, **shared)


def _container(rented: RunPod, terms: Terms, what: str, env: dict[str, str], *ports: str) -> dict[str, Any]:
    """Return what every pod is asked for with, whatever it is for."""
    return {
        "name": terms.name,
        "image": rented.image,
        "args": _start(what),
        "disk": _DISK_GB,
        "env": env,
        "ports": list(ports),
        "mounts": Mounts(network=[NetworkMount(volume_id=terms.volume, path=rented.volume_path)]),
        "data_center_ids": [terms.data_center],
        "start_ssh": True,
    }


def _cuda(plan: Plan) -> str:
    """Return the CUDA that the driver must know: that of PyTorch on PyPI, which the stock image has too."""
    lock = plan.engine.image_lock.get(plan.engine.tag)
    return lock.cuda if lock else ""


def engine_archive(plan: Plan) -> str:
    """Return where the engine's environment lies on the volume: its name is what is in it."""
    requirements = REQUIREMENTS / f"{plan.engine.version}.txt"
    locked = requirements.read_bytes() if requirements.exists() else b""
    digest = hashlib.sha256(locked + platform(plan).image.encode()).hexdigest()[:12]
    return f"{platform(plan).volume_path}/engines/vllm-{plan.engine.version}-{digest}.tar"


def archive(files: Mapping[str, bytes]) -> str:
    """Return files as a tar.gz in base64, the same for the same files.

    Raises:
        Failed: It does not fit into one variable.
    """
    text = _packed(tuple(sorted(files.items())))
    if len(text) + 32 > _FULL:
        raise Failed(f"what a pod starts with has {len(text)} bytes, and a variable holds {_FULL}")
    return text


@functools.lru_cache(maxsize=8)  # the pods of a role, and each look at a launch, have the same
def _packed(files: tuple[tuple[str, bytes], ...]) -> str:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return base64.b64encode(gzip.compress(packed.getvalue(), 9, mtime=0)).decode()


def _serving_files(plan: Plan, terms: Terms, charts: Path) -> dict[str, bytes]:
    settings = variables(plan) | {
        "MANYHOST_ENGINE_ARCHIVE": engine_archive(plan),
        "MANYHOST_GROUP": names.parts(terms.name)[0],
        "MANYHOST_CONTROL_KEY_FILE": "/dev/shm/manyhost-control-key",  # noqa: S108  boot.sh makes it
    }
    if hosts(plan) == 1:  # an ordinary pod has none of a cluster's interfaces
        settings = {name: value for name, value in settings.items() if name not in _OF_CLUSTERS}
    launcher = charts / "llm-multihost" / "launcher"
    files = _own("boot.sh", "lease.py") | {
        f"launcher/{path.name}": path.read_bytes()
        for pattern in _LAUNCHER
        for path in sorted(launcher.glob(pattern))
    }
    if plan.settings.routing == "dynamo":
        own = _own("dynamo_hosts.py", "dynamo_door.py")
        files |= {f"manyhost/runpod/boot/{name}": code for name, code in own.items()}
    several = sum(role.groups for role in plan.roles) > 1
    for role in plan.roles:
        words = arguments(plan, role)
        files[f"arguments.{role.name}" if several else "arguments"] = b"".join(
            word.encode() + b"\0" for word in words
        )
    # Members of two launches never work together.
    made_from = hashlib.sha256(b"".join(files[name] for name in sorted(files)) + _settings(settings))
    files["settings.env"] = _settings(settings | {"MANYHOST_GENERATION": made_from.hexdigest()[:12]})
    return files


def _own(*names: str) -> dict[str, bytes]:
    return {name: (_BOOT / name).read_bytes() for name in names}


def _settings(values: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={shlex.quote(values[name])}\n" for name in sorted(values)).encode()


def _environment(files: Mapping[str, bytes], terms: Terms, **secrets: str) -> dict[str, str]:
    found = {"MANYHOST_BOOT": archive(files)}
    if terms.until:
        secrets |= {"MANYHOST_LEASE_KEY": LEASE_SECRET}
        found["MANYHOST_UNTIL"] = str(int(terms.until))
    if terms.url:
        found["MANYHOST_RUNPOD_URL"] = terms.url
    return found | {name: f"{{{{ RUNPOD_SECRET_{secret} }}}}" for name, secret in secrets.items()}


def _start(what: str) -> str:
    unpack = 'mkdir -p /opt/manyhost && printf %s "$MANYHOST_BOOT" | base64 -d | tar -xzf - -C /opt/manyhost'
    return f"bash -c '{unpack} && exec bash /opt/manyhost/boot.sh {what}'"


def without_boot(env: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return variables as people can read them: the archive by its size."""
    return {
        name: f"<{len(value)} bytes: launcher, settings, lease>" if name == "MANYHOST_BOOT" else value
        for name, value in env
    }
