"""Container images without a container engine: one-layer docker archives, kept in the cache."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from testbed.build import locked
from testbed.errors import MissingError
from testbed.layout import cache_dir
from testbed.system import run

PAUSE = "docker.io/manyhost/pause:1"
STANDIN = "docker.io/manyhost/standin:1"
STANDIN_HOST = "docker.io/manyhost/standin-host:1"
STANDIN_HOST_NEXT = "docker.io/manyhost/standin-host:2"  # the same image, for rolling to another tag
STANDIN_MODEL = "/opt/standin/model"  # in STANDIN_HOST: a model folder as far as files go
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SUITE = "bookworm"
_PACKAGES = "python3,procps,iproute2"
_ONLY_FOR_PEOPLE = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
                    "var/cache/apt", "var/lib/apt/lists", "usr/share/i18n", "usr/lib/locale",
                    "var/cache/debconf")  # fmt: skip


def archive(tags: list[str], entrypoint: list[str], root: Path, out: Path, workdir: str = "/") -> None:
    """Writes a docker archive whose one layer is the folder `root`, owned by root.

    Args:
        tags: full image names.
        entrypoint: the image's entry point.
        root: the file system.
        out: the archive, for `ctr images import`; replaced as a whole.
        workdir: the folder that it starts in.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        layer = Path(work) / "layer.tar"
        owner = ("--numeric-owner", "--sort=name", "--mtime=@0")
        run("tar", "-C", root, *owner, "-cf", layer, ".")
        digest = hashlib.sha256()
        with layer.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": entrypoint, "Env": [_PATH], "WorkingDir": workdir},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
            }
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": name, "RepoTags": tags, "Layers": ["layer.tar"]}]
        whole = Path(work) / "image.tar"
        with tarfile.open(whole, "w") as tar:
            for path, data in ((name, config), ("manifest.json", json.dumps(manifest).encode())):
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            tar.add(layer, "layer.tar")
        whole.rename(out)


def _single(program: Path, tags: list[str], out: Path) -> Path:
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=out.parent) as root:
            Path(root).chmod(0o755)
            shutil.copy(program, Path(root) / program.name)
            (Path(root) / "tmp").mkdir(mode=0o1777)
            archive(tags, [f"/{program.name}"], Path(root), out)
    return out


def kept(programs: Path, name: str, *more: str) -> Path:
    """Where an image of this name, these programs and this way of making it is kept."""
    made = Path(__file__).read_bytes() + " ".join(more).encode()
    return programs / f"{name}-{hashlib.sha256(made).hexdigest()[:8]}.tar"


def pause(programs: Path, *also: str) -> Path:
    """The pause image; `also` = further names for it, for pods that only have to exist."""
    out = kept(programs, "pause", *also)
    return _single(programs / "pause", [PAUSE, *also], out)


def standin(programs: Path) -> Path:
    """The stand-in server alone: nothing but the program."""
    return _single(programs / "standin", [STANDIN], kept(programs, "standin"))


def standin_host(programs: Path) -> Path:
    """Debian with bash, Python 3, the stand-in server installed as `vllm`, and a model folder.

    The base system is made by debootstrap once (about 40 s, from the Debian mirror).

    Raises:
        MissingError: debootstrap is not installed.
    """
    out = kept(programs, "standin-host")
    with locked("standin-host"):
        base = debian()
        if not out.exists():
            _standin_host(base, programs / "standin", out)
    return out


def staging(programs: Path, name: str) -> Path:
    """Debian with Python and the hub's and Cloud Storage's clients, under the name of another image.

    The clients are those of uv.lock, from the package registry (seconds, once).

    Args:
        programs: the cluster's programs.
        name: the image that staging pods ask for.

    Raises:
        MissingError: debootstrap is not installed.
    """
    lock = Path(__file__).parents[1] / "uv.lock"
    out = kept(programs, "staging", name, lock.read_text())
    with locked("standin-host"):
        base = debian()
        if not out.exists():
            with tempfile.TemporaryDirectory(dir=out.parent) as work:
                root, versions = Path(work) / "root", Path(work) / "versions.txt"
                run("cp", "-a", base, root)
                uv = Path(sys.executable).with_name("uv")
                own = ("--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes")
                run(uv, "export", *own, "--project", lock.parent, "--output-file", versions)
                into = root / "usr/local/lib/python3.11/dist-packages"
                how = ("--quiet", "--python-version", "3.11", "--constraint", versions, "--target", into)
                run(uv, "pip", "install", *how, "huggingface-hub", "google-cloud-storage")
                archive([name], [], root, out)
    return out


def _standin_host(base: Path, program: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        root = Path(work) / "root"
        run("cp", "-a", base, root)
        shutil.copy(program, root / "usr/local/bin/vllm")
        model = root / STANDIN_MODEL.lstrip("/")
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}\n")
        (model / "model.safetensors").write_bytes(b"")
        archive([STANDIN_HOST, STANDIN_HOST_NEXT], [], root, out)


def debian() -> Path:
    """The folder of the base system, made first when it is missing."""
    target = cache_dir() / f"rootfs-{_SUITE}-{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    if not shutil.which("debootstrap"):
        raise MissingError("debootstrap is missing: apt-get install debootstrap")
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        root = Path(work) / "root"
        run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root)
        for name in _ONLY_FOR_PEOPLE:
            shutil.rmtree(root / name, ignore_errors=True)
        shutil.rmtree(root / "dev")
        (root / "dev").mkdir()
        root.rename(target)
    return target
