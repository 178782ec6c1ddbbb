"""Runs walkthrough.md from its first to its last command: python -m tools.walkthrough [DOCUMENT].

One bash runs the lines in order, in a fresh copy of the repository whose .venv `make render` makes, against
the test cluster (API server, LeaderWorkerSet controller and Helm are real), an emulator of Cloud Storage, a
hub, a registry and a gcloud that remembers and whose builds of images are buildah's. What cannot run here as
it stands is in SUBSTITUTIONS, and each is printed where it takes effect. The first command that fails ends
the walk and is named by its line; in the end nothing may be left of what was made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from manyhost.catalog import Catalog, resolve
from manyhost.catalog.settings import VARIABLES
from manyhost.cluster.doctor import lws

from testbed import Cluster, docker, gcloud, gcs, hub, images, stock
from testbed import engine as local_engine
from testbed.layout import Layout
from testbed.oci import Server
from testbed.registry import Registry
from tools.command_lines import CommandLine, command_lines
from tools.demo import StepError, exit_code, step

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "a3mega/deepseek-r1-671b"
PROJECT, NUMBER, PLACE, CLUSTER = "my-project", "123456789012", "us-east4", "my-cluster"
LIMIT_SECONDS = 900  # of one command; the longest, a deployment on two busy cores, takes two minutes
LOCAL = "the local recipe is what is deployed"


class Substitution(NamedTuple):
    """What is run in place of a part of a command.

    Attributes:
        find: The part.
        put: What takes its place; {names} are those of `places`.
        why: Why it cannot run here.
    """

    find: str
    put: str
    why: str


SUBSTITUTIONS = (
    Substitution("<walkthrough-project-id/>", PROJECT, "Cloud Shell puts the chosen project there"),
    Substitution(
        f"--server-side -f {lws.MANIFESTS}",
        "--server-side --force-conflicts -f {lws}",
        "the test cluster is cut off; the definitions of the controller that it has are applied",
    ),
    Substitution(
        "helm install stage charts/model-staging",
        "helm install stage charts/model-staging --post-renderer {bin}/at-emulator"
        r" --set huggingface.endpoint={hub} --set model.bytes={bytes} --set resources.requests.cpu=100m"
        r" --set nodeSelector.kubernetes\\.io/hostname=host-1",
        "hub and bucket are on this machine, the model is small, and one real node runs the pods",
    ),
    Substitution("--timeout=12h", "--timeout=5m", "the model is small"),
    Substitution("$REGION-docker.pkg.dev", "{registry}", "a registry on loopback stands in for Google's"),
    Substitution("manyhost discover a3mega", "manyhost discover a3mega --yes", "nobody is there to say yes"),
    Substitution(
        ".venv/bin/manyhost deploy a3mega",
        "deploy_on_cpu",
        "no GPUs: API server and controller judge all objects of it, and the local recipe is deployed",
    ),
    Substitution(".venv/bin/manyhost status a3mega", "on_cpu status local", LOCAL),
    Substitution(".venv/bin/manyhost chat a3mega", "on_cpu chat local", LOCAL),
    Substitution(".venv/bin/manyhost bench a3mega", "on_cpu bench local", LOCAL),
    Substitution(".venv/bin/manyhost teardown a3mega", "on_cpu teardown local", LOCAL),
)

# What the walkthrough sets of an image, a bucket and a place is not for the local recipe, which takes the
# engine from this machine's cache; a lease needs the janitor, which it does without.
PRELUDE = """\
on_cpu() {
  env -u %(variables)s MANYHOST_LOCAL=/dev/null .venv/bin/manyhost "$@" \
    %(settings)s --set chart.janitor.enabled=true
}
deploy_on_cpu() { .venv/bin/manyhost deploy a3mega --dry-run "$@"; on_cpu deploy local "$@"; }
"""
# kubectl reaches the test cluster alone, and pods find the emulator by a variable that no chart sets.
KUBECTL = """\
#!/bin/sh
case "$*" in *://*) echo "kubectl: there is no network here: $*" >&2; exit 1 ;; esac
exec "{kubectl}" "$@"
"""
AT_EMULATOR = """\
#!/bin/sh
exec sed 's|^\\( *\\)- {{name: HOME, .*$|&\\n\\1- {{name: STORAGE_EMULATOR_HOST, value: "{storage}"}}|'
"""


# ------------------------------------------------------------------ the lines


def substituted(text: str, places: Mapping[str, str]) -> tuple[str, list[Substitution]]:
    """Return what is run for a command, and what was put in place of parts of it."""
    used = [item for item in SUBSTITUTIONS if item.find in text]
    for item in used:
        text = text.replace(item.find, item.put.format_map(places))
    return text, used


class Shell:
    """One bash that is given line after line, and ends with the first that fails.

    Args:
        folder: Where it starts.
        environment: Its variables.
        prelude: What it runs first.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], prelude: str = "") -> None:
        script, self._script = os.pipe()
        self._done, done = os.pipe()
        self._tell = f"printf . >&{done}"
        self._process = subprocess.Popen(
            ["bash", "-euo", "pipefail", f"/dev/fd/{script}"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=(script, done),
            start_new_session=True,
        )
        os.close(script)
        os.close(done)
        os.write(self._script, prelude.encode())

    def run(self, text: str) -> None:
        """Run a command.

        Raises:
            StepError: It failed, or did not end.
        """
        # bash takes the status of `export A=$(false)` for that of export: an empty variable tells.
        names = re.findall(r"([A-Z_]+)=", text) if text.startswith("export ") else []
        checks = [f': "${{{name}:?stays empty}}"' for name in names]
        os.write(self._script, "\n".join([text, *checks, self._tell, ""]).encode())
        end = time.monotonic() + LIMIT_SECONDS
        while not (select.select([self._done], [], [], 0.05)[0] and os.read(self._done, 1)):
            code = self._process.poll()
            if code is not None:
                raise StepError(f"exit code {code}")
            if time.monotonic() > end:
                raise StepError(f"not ended within {LIMIT_SECONDS} s")

    def close(self) -> None:
        """End it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._script)
        os.close(self._done)


def walk(document: Path, shell: Shell, places: Mapping[str, str]) -> None:
    """Run a document's commands, a step for each heading.

    Raises:
        StepError: A command failed; the text names its line.
    """

    def run(line: CommandLine) -> None:
        text, used = substituted(line.text, places)
        where = f"{document.name}:{line.number}"
        for item in used:
            print(f"# {where}: in place of `{item.find}`: {item.why}", flush=True)
        print(f"$ {text}", flush=True)
        try:
            shell.run(text)
        except StepError as error:
            raise StepError(f"{where}: {error}: {line.text}") from None

    def each(lines: list[CommandLine]) -> None:
        for line in lines:
            run(line)

    for heading, lines in groupby(command_lines(document.read_text()), key=lambda line: line.heading):
        step(heading, partial(each, list(lines)))


# ------------------------------------------------------------------ the stand-ins


def copy_repository(folder: Path) -> None:
    """Copy what is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def publish_model(server: hub.Hub, folder: Path, copy: Path) -> int:
    """Put a small model of as many files under the model's name; return the bytes of its weights.

    Sizes are all that differs: the copy's catalog gets that of the weights, and config.json of the small
    model has the dimensions of the big one.
    """
    model = Catalog(ROOT).model("deepseek-r1-671b")
    hub.write_model(folder, shards=model.weights_files)
    config = json.loads((folder / "config.json").read_text())
    own = {"hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    server.add(model.hub_id, folder).commit = model.revision
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    file = copy / f"values/models/{model.name}.yaml"
    file.write_text(re.sub(r"(?m)^weights_bytes: \d+$", f"weights_bytes: {size}", file.read_text()))
    return size


def publish_base(registry: Registry, programs: Path, copy: Path) -> None:
    """Put a stand-in for the stock image under its name.

    Its digest and the hashes of its extras are all that differs: the copy's catalog and docker/vllm get them.
    """
    version = resolve(Catalog(ROOT), RECIPE).recipe.engine.version
    locked = Catalog(ROOT).engine(version).image_lock[version].digest
    digest = registry.add(stock.archive(programs, version), stock.REPOSITORY, version)
    if locked:  # else the build looks it up
        for name in (f"values/engines/vllm/{version}.yaml", "docker/vllm/bases.txt"):
            file = copy / name
            file.write_text(file.read_text().replace(locked, digest))
    (copy / f"docker/vllm/requirements/{version}.txt").write_text(stock.requirements(version))


class Policies:
    """Answers what is read from Cloud Storage; the emulator has no policies, so those are the stand-in's."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def __call__(self, method: str, path: str, headers: Any) -> tuple[int, dict[str, str], Any]:
        """Answer a request."""
        known = gcloud.State(self._state).known
        bucket = re.match(r"/storage/v1/b/([^/?]+)/iam\b", path)
        if bucket:
            granted = known["bindings"].get(bucket[1], [])
            bindings = [{"role": role, "members": [member]} for role, member in granted]
            return 200, {}, {"version": 3, "bindings": bindings, "etag": "CAE="}
        request = urllib.request.Request(f"{known['storage']}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return 200, {"Content-Type": answer.headers["Content-Type"]}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {"Content-Type": "application/json"}, error.read()


def write_programs(folder: Path, cluster: Cluster, storage: str) -> None:
    """Write the programs that come before those of this machine, but gcloud."""
    folder.mkdir()
    for name, text in (
        ("kubectl", KUBECTL.format(kubectl=cluster.programs / "kubectl")),
        ("at-emulator", AT_EMULATOR.format(storage=storage)),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "helm").symlink_to(ROOT / ".tools/helm3")


def environment(work: Path, storage: str, hub_url: str, layout: Layout) -> dict[str, str]:
    """Return the variables of a new terminal that has nothing of this person's settings."""
    own = {*VARIABLES, "HF_TOKEN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "VIRTUAL_ENV"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in own and not name.startswith(("MANYHOST_", "CLOUDSDK_"))
    }
    near = ",".join(filter(None, (kept.get("NO_PROXY"), "127.0.0.1", layout.gateway, layout.control_plane)))
    return {
        **kept,
        "PATH": f"{work / 'bin'}{os.pathsep}{kept['PATH']}",
        "KUBECONFIG": str(work / "kubeconfig"),
        "TMPDIR": str(work / "tmp"),  # what ends with a signal leaves its files there
        "HF_ENDPOINT": hub_url,
        "STORAGE_EMULATOR_HOST": storage,
        "NO_PROXY": near,
        "no_proxy": near,
    }


@contextlib.contextmanager
def started(cluster: Cluster, engine: Path) -> Iterator[None]:
    """The cluster, fresh, for as long as it is needed."""
    values = (Catalog(ROOT).chart("model-staging").path / "values.yaml").read_text()
    name = ":".join(re.findall(r"(?m)^  (?:repository|tag): (\S+)$", values)[:2])
    archives = [engine / "image.tar", images.staging(cluster.programs, f"docker.io/{name}")]
    cluster.down()
    try:
        step("start the cluster", lambda: cluster.up(nodes=2, gpu_hosts=True, images=archives))
        yield
    finally:
        step("stop the cluster", cluster.down)


# ------------------------------------------------------------------ the walk


def objects(cluster: Cluster) -> set[str]:
    """Return every object in the namespace default but events, and every namespace."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))
    found = cluster.kubectl("get", listed, "--namespace", "default", "-o", "name", "--ignore-not-found")
    return {*found.split(), *cluster.kubectl("get", "namespaces", "-o", "name").split()}


def leftovers(cluster: Cluster, state: gcloud.State, before: set[str]) -> set[str]:
    """Return what is there and was not before, or is no part of a clean project."""
    buckets = state.storage("GET", f"b?project={PROJECT}").get("items", [])
    return {
        *(objects(cluster) - before),
        *(f"bucket {item['name']}" for item in buckets),
        *(f"repository {name}" for name in state.known["repositories"]),
        *(f"permissions on {name}" for name in state.known["bindings"]),
    }


def assert_clean(cluster: Cluster, state: Path, before: set[str]) -> None:
    """Wait for the end of what is on its way out.

    Raises:
        StepError: Something stays.
    """
    end = time.monotonic() + 60
    while left := leftovers(cluster, gcloud.State(state), before):
        if time.monotonic() > end:
            raise StepError(f"left behind: {', '.join(sorted(left))}")
        time.sleep(1)


def run(document: Path, work: Path) -> None:
    """Walk through a document.

    Args:
        document: The document.
        work: An empty folder.

    Raises:
        StepError: A command failed, or something is left.
        ClusterError: There is no test cluster.
    """
    engine = step("build the engine, or find it", local_engine.build)
    cluster, copy, state = Cluster("walkthrough"), work / "manyhost", work / "gcloud"
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(Registry(work / "registry"))
        docker.install(work / "cloud/docker", work / "images", registry.host)
        stack.enter_context(started(cluster, engine))
        layout = cluster.layout
        storage = stack.enter_context(gcs.Gcs(host=layout.gateway, location=PLACE))
        server = stack.enter_context(hub.Hub(host=layout.gateway))
        step("copy the repository", lambda: copy_repository(copy))
        size = publish_model(server, work / "model", copy)
        step("make the base of images", lambda: publish_base(registry, cluster.programs, copy))
        (work / "tmp").mkdir()
        write_programs(work / "bin", cluster, storage.url)
        gcloud.install(
            work / "bin/gcloud",
            state,
            projects={PROJECT: NUMBER},
            clusters={CLUSTER: {"location": PLACE, "kubeconfig": str(cluster.kubeconfig)}},
            storage=storage.url,
            docker=str(work / "cloud"),
        )
        policies = stack.enter_context(Server(Policies(state)))
        places = {
            "bin": str(work / "bin"),
            "bytes": str(size),
            "hub": server.url,
            "lws": str(cluster.programs / "lws/crds"),
            "registry": registry.host,
        }
        prelude = PRELUDE % {
            "variables": " -u ".join(VARIABLES),
            "settings": shlex.join(local_engine.settings(engine)),
        }
        before = objects(cluster)
        shell = Shell(copy, environment(work, f"http://{policies.host}", server.url, layout), prelude)
        stack.callback(shell.close)
        walk(document, shell, places)
        step("look for what is left", lambda: assert_clean(cluster, state, before))


def main() -> int:
    """Walk; return the exit code."""
    document = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "walkthrough.md"

    def walk_in_a_folder() -> None:
        with tempfile.TemporaryDirectory(prefix="walkthrough-") as work:
            run(document, Path(work))

    return exit_code("walkthrough", walk_in_a_folder, "every command ran, and nothing is left")


if __name__ == "__main__":
    sys.exit(main())
