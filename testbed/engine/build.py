"""Builds the engine into the cache: environment, two patches, model, image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from testbed.build import locked
from testbed.errors import ClusterError, MissingError
from testbed.images import archive
from testbed.layout import cache_dir

IMAGE = "docker.io/local/engine:1"  # as values/engines/vllm/v0.32.0-cpu.yaml has it
HERE = Path(__file__).parent
INTERPRETER = "/usr/bin/python3.11"  # Debian bookworm's, as in the image
_SUITE = "bookworm"
# g++ and openssl: torch.compile; libnuma1: the CPU build; procps, iproute2: people and tests.
_PACKAGES = "python3,python3-dev,g++,libnuma1,openssl,procps,iproute2"
_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt",
               "var/lib/apt/lists")  # fmt: skip

# vLLM asks the distribution `vllm` for its version, and the word `cpu` in it chooses the platform.
_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
# The CPU build does not know Ray; takes ranks with equal ports for neighbours that share /dev/shm,
# which pods do not; and allocates what pipeline stages exchange only when it compiles (a minute
# that a walk-through need not spend). Changed for this test engine only.
_PATCHES = (
    (
        "vllm/platforms/cpu.py",
        '    device_type: str = "cpu"\n',
        '    device_type: str = "cpu"\n    ray_device_key: str = "GPU"\n',
    ),
    (
        "vllm/v1/worker/cpu_worker.py",
        "        # Initialize the distributed environment.\n",
        '        os.environ["VLLM_DIST_IDENT"] += "-" + os.environ.get("VLLM_HOST_IP", "")\n'
        "        # Initialize the distributed environment.\n",
    ),
    (
        "vllm/v1/worker/gpu_model_runner.py",
        "        assert self.intermediate_tensors is not None\n",
        "        if self.intermediate_tensors is None:\n"
        "            self.intermediate_tensors = self.model.make_empty_intermediate_tensors(\n"
        "                batch_size=self.max_num_tokens,\n"
        "                dtype=self.model_config.dtype,\n"
        "                device=self.device,\n"
        "            )\n",
    ),
)


def engine_dir() -> Path:
    """The engine's folder in the cache; its name changes with everything it is made from."""
    made_from = hashlib.sha256()
    for path in sorted((*HERE.glob("*.py"), HERE / "requirements.txt")):
        made_from.update(path.read_bytes())
    return cache_dir() / f"engine-{made_from.hexdigest()[:12]}"


def _run(*args: str | Path) -> None:
    words = ["nice", "-n", "10", *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ClusterError(f"{' '.join(map(str, args[:4]))} ... failed: {' / '.join(last)}")


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise MissingError("uv is missing: run make setup")
    return found


def _environment(work: Path) -> None:
    out = work / "vllm"
    if not Path(INTERPRETER).exists():
        raise MissingError(f"{INTERPRETER} is missing: the local engine needs Debian 12's Python")
    uv = _uv()
    # Relocatable: the pods see it at another path than the cache's.
    _run(uv, "venv", "-q", "--relocatable", "--python", INTERPRETER, out)
    lock = HERE / "requirements.txt"
    python = out / "bin/python"
    how = ("-q", "--no-deps", "--require-hashes")
    _run(uv, "pip", "install", *how, "--python", python, "-r", lock)
    site = out / "lib/python3.11/site-packages"
    name = site / "vllm-0.32.0+cpu.dist-info"
    name.mkdir()
    (name / "METADATA").write_text(_METADATA)
    for file, old, new in _PATCHES:
        text = (site / file).read_text()
        if text.count(old) != 1:
            raise ClusterError(f"{file} is not the file that the patch was made for")
        changed = site / f"{file}.new"  # a new file: the old one may be a link into uv's cache
        changed.write_text(text.replace(old, new))
        changed.rename(site / file)
    # Pods cannot write beside the sources: without this every start compiles 20,000 files.
    # A few of those are templates that no Python can compile, hence no look at the status.
    words = ["nice", "-n", "10", str(python), "-m", "compileall", "-q", "-j", "2", str(site)]
    subprocess.run(words, capture_output=True, check=False)


def _model(work: Path) -> None:
    _run(work / "vllm/bin/python", HERE / "tinymodel.py", work / "model/tiny-r1")
    # What vLLM otherwise finds out by importing itself once more, on every member at every start.
    look = "from vllm.model_executor.models.registry import ModelRegistry as registry\n"
    look += "registry.models['DeepseekV3ForCausalLM'].inspect_model_cls()"
    _run("env", f"VLLM_CACHE_ROOT={work}/model/cache", work / "vllm/bin/python", "-c", look)


def settings(folder: Path) -> list[str]:
    """Options of manyhost that let the local recipe take engine and model from here.

    The test cluster's nodes share this machine's file system.
    """
    mounts = [
        {"name": name, "host_path": str(folder / source), "mount_path": f"/opt/{source}"}
        for name, source in (("engine", "vllm"), ("model", "model"))
    ]
    return [
        *("--set", f"host_mounts={json.dumps(mounts)}"),
        *("--set", "variables.VLLM_CACHE_ROOT=/opt/model/cache"),
    ]


def _image(work: Path) -> None:
    if not shutil.which("debootstrap"):
        raise MissingError("debootstrap is missing: apt-get install debootstrap")
    root = work / "root"
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root)
    for name in _NOT_NEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
    shutil.rmtree(root / "dev")
    (root / "dev").mkdir()
    archive([IMAGE], [], root, work / "image.tar")
    shutil.rmtree(root)


def build() -> Path:
    """Build what is missing; a second call returns at once.

    Returns:
        The engine's folder.

    Raises:
        MissingError: a program of this machine is missing.
        ClusterError: a step failed; the message has its last lines.
    """
    target = engine_dir()
    if not target.is_dir():
        with locked("engine"):  # a second builder waits and finds it
            if not target.is_dir():
                _build(target)
    return target


def _build(target: Path) -> None:
    work = target.with_name(f"{target.name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        for what, step in (
            ("virtual environment", _environment),
            ("model", _model),
            ("container image", _image),
        ):
            begin = time.monotonic()
            step(work)
            print(f"engine: {what} ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
        # Pods run as any user.
        _run("chmod", "-R", "a+rX", work)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
