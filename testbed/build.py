"""Builds the programs of the test cluster from pinned Go modules, once, into the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import ClusterError, MissingError
from testbed.layout import cache_dir
from testbed.system import processes

SOURCE = Path(__file__).parent / "go"
_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
_PACKAGES = [
    *(f"k8s.io/kubernetes/cmd/{name}" for name in (*_KUBERNETES, "kubelet", "kubectl")),
    "sigs.k8s.io/kwok/cmd/kwok",
    "./dns",
    "./pause",
    "./standin",
]
_RENAMED = {"etcd": "go.etcd.io/etcd/server/v3", "lws-controller": "sigs.k8s.io/lws/cmd"}
_FILES = {  # what the controllers need beside their program: folder in the cache, module, patterns
    "lws/crds": ("sigs.k8s.io/lws", "config/crd/bases/*.yaml"),
    "lws": ("sigs.k8s.io/lws", "config/webhook/manifests.yaml"),
    "stages": ("sigs.k8s.io/kwok", "kustomize/stage/*/fast/*-*.yaml"),
    "stages/lease": ("sigs.k8s.io/kwok", "kustomize/stage/node/heartbeat-with-lease/node-*.yaml"),
}


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the cache's lock `name`: one build, one index choice, one change of a cluster a time."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def version_of(module: str) -> str:
    """The version that `go.mod` pins for a module."""
    found = re.search(rf"^\t{re.escape(module)} (v\S+)$", (SOURCE / "go.mod").read_text(), re.M)
    if not found:
        raise ClusterError(f"{SOURCE / 'go.mod'}: no version of {module}")
    return found.group(1)


def programs() -> Path:
    """The folder with every program, built first when the Go files changed.

    Cold this takes about six minutes on two cores and needs the Go module proxy; the Go caches
    make a repeat take seconds.

    Raises:
        MissingError: Go is not installed.
        ClusterError: the build failed.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in SOURCE.rglob("*") if p.is_file()):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + b"\0" + path.read_bytes())
    target = cache_dir() / f"cluster-{digest.hexdigest()[:12]}"
    if target.is_dir():
        return target
    with locked("build"):
        if not target.is_dir():
            _build(target)
    return target


def module_folder(source: Path, *packages: str, tags: str = "") -> Path:
    """Where build_module puts what it builds from a folder with go.mod and go.sum."""
    parts = [*((source / name).read_bytes() for name in ("go.mod", "go.sum")), *packages, tags]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    return cache_dir() / f"{source.name.removeprefix('go-')}-{digest}"


def build_module(source: Path, *packages: str, tags: str = "") -> Path:
    """The folder with the programs of some packages, built first when go.mod changed.

    That takes minutes and needs the Go module proxy.

    Raises:
        MissingError: Go is not installed.
        ClusterError: the build failed.
    """
    target = module_folder(source, *packages, tags=tags)
    if target.is_dir():
        return target
    with locked(source.name):
        if not target.is_dir():
            _require_go()
            print(f"building {', '.join(packages)} (minutes, once)", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as work:
                new = Path(work, "new")
                flags = ("-trimpath", "-tags", tags, "-ldflags", "-s -w", "-o", f"{new}/")
                _go("build", *flags, *packages, source=source)
                new.rename(target)
    return target


def _go(*args: str, source: Path = SOURCE) -> str:
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    command = ["go", *args]
    done = subprocess.run(command, cwd=source, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"go {args[0]} failed in {source} (its own lines are above)")
    return done.stdout


def _require_go() -> None:
    if not shutil.which("go"):
        raise MissingError(
            "go is missing: install Go 1.26 or newer (Debian: golang-go, or https://go.dev/dl)"
        )


def _build(target: Path) -> None:
    _require_go()
    print("building the test cluster's programs (minutes, once)", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    try:
        kubernetes = version_of("k8s.io/kubernetes")
        major, minor, _ = kubernetes.removeprefix("v").split(".")
        stamps = {
            "gitVersion": kubernetes,  # without it the server calls itself v0.0.0-master
            "gitMajor": major,
            "gitMinor": minor,
            "gitTreeState": "clean",
            "gitCommit": "unknown",
        }
        flags = "-s -w " + " ".join(f"-X k8s.io/component-base/version.{k}={v}" for k, v in stamps.items())
        common = ("build", "-trimpath", "-ldflags", flags)
        _go(*common, "-o", f"{work}/", *_PACKAGES)
        for name, package in _RENAMED.items():
            _go(*common, "-o", str(work / name), package)
        for folder, (module, pattern) in _FILES.items():
            (work / folder).mkdir(parents=True, exist_ok=True)
            base = Path(_go("list", "-m", "-f", "{{.Dir}}", module).strip())
            for path in sorted(base.glob(pattern)):
                shutil.copyfile(path, work / folder / path.name)
        work.chmod(0o755)
        work.rename(target)
        _forget_old(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _forget_old(folder: Path) -> None:
    """Removes all but the three newest builds (700 MB each), unless a cluster runs one."""
    builds = sorted(folder.glob("cluster-*"), key=lambda p: p.stat().st_mtime)
    for old in builds[:-3]:
        if not any(words[0].startswith(f"{old}/") for _, words in processes()):
            shutil.rmtree(old)
