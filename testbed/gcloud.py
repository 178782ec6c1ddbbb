"""gcloud for tests and the walkthrough: its commands with their flags, and a stand-in that remembers.

The table is taken from docs.cloud.google.com/sdk/gcloud/reference/<words>; a flag that is not here is
looked up there and added. The stand-in, a program of its own that needs nothing but Python, refuses what the
table does not have and what is not there, keeps what it is told in a folder, and makes buckets in the
emulator of Cloud Storage.

The folder holds `calls` (command lines, one a line), `state.json` (see State), `build-<id>` (each build as
Cloud Build describes it), `pushed` (the digest that a build's image has), `push` (there once one has pushed)
and `how` (what goes wrong with builds: denied, logged out, no log, log breaks, build fails, describe fails).
A build only seems to be one, unless State knows a docker: then its steps are run, on this machine in place of
the image that they name, and `log` is what they said.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote


class Command(NamedTuple):
    """Flags with a value, flags without one, and how many other words it takes."""

    valued: frozenset[str]
    plain: frozenset[str]
    least: int
    most: int


def command(valued: str = "", plain: str = "", least: int = 1, most: int = 1) -> Command:
    return Command(frozenset(valued.split()), frozenset(plain.split()), least, most)


EVERYWHERE = command("--project --format --account --verbosity --billing-project", "--quiet -q --help")
_PLACE = "--location --region --zone -z"
COMMANDS = {
    "artifacts repositories create": command(
        "--location --repository-format --description --kms-key --labels --mode", "--async --immutable-tags"
    ),
    "artifacts repositories delete": command("--location", "--async"),
    "auth print-access-token": command(least=0, most=0),
    "beta builds log": command("--region", "--stream"),
    "builds describe": command("--region"),
    "builds list": command("--region --filter --limit --page-size --sort-by", "--ongoing", least=0, most=0),
    "builds submit": command(
        "--config --dir --disk-size --gcs-log-dir --gcs-source-staging-dir --ignore-file --machine-type "
        "--region --service-account --substitutions --tag -t --timeout --worker-pool",
        "--async --no-cache --no-source --suppress-logs",
        least=0,
    ),
    "config set": command(least=2, most=2),
    "container clusters create": command(
        f"{_PLACE} --addons --cluster-version --machine-type --maintenance-window --network --node-locations "
        "--num-nodes --release-channel --subnetwork --workload-pool",
        "--async --enable-dataplane-v2 --enable-ip-alias --enable-multi-networking",
    ),
    "container clusters get-credentials": command(_PLACE, "--dns-endpoint --internal-ip"),
    "container clusters update": command(
        f"{_PLACE} --add-maintenance-exclusion-name --add-maintenance-exclusion-start "
        "--add-maintenance-exclusion-end --add-maintenance-exclusion-scope --gateway-api "
        "--remove-maintenance-exclusion --update-addons --workload-pool",
        "--async",
    ),
    "container node-pools update": command(
        f"{_PLACE} --accelerator --cluster --max-surge-upgrade --max-unavailable-upgrade",
        "--async --enable-autorepair --no-enable-autorepair --enable-autoupgrade --no-enable-autoupgrade",
    ),
    "projects describe": command(),
    "services enable": command("", "--async", most=99),
    "storage buckets add-iam-policy-binding": command("--member --role --condition --condition-from-file"),
    "storage buckets create": command(
        "--location -l --default-storage-class -c --placement --retention-period",
        "--uniform-bucket-level-access -b --enable-hierarchical-namespace --no-public-access-prevention",
    ),
    "storage rm": command("", "--all-versions -a --continue-on-error -c --recursive -r -R", most=99),
}


class Call(NamedTuple):
    """A command line: the command's name, its other words, and its flags."""

    name: str
    words: list[str]
    flags: dict[str, str]


class Refused(ValueError):
    """gcloud would not take it, or could not do it."""


def check(words: list[str]) -> Call:
    """Take a command line apart; `words` are those after `gcloud`.

    Raises:
        Refused: gcloud has no such command or flag, or wants other words.
    """
    name = next((" ".join(words[:count]) for count in (4, 3, 2) if " ".join(words[:count]) in COMMANDS), "")
    if not name:
        raise Refused(f"no command that is known here: gcloud {' '.join(words)}")
    known, rest, flags = COMMANDS[name], [], dict[str, str]()
    following = iter(words[len(name.split()) :])
    for word in following:
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            rest.append(word)
        elif flag in known.valued | EVERYWHERE.valued:
            flags[flag] = value if equals else next(following, "-")
            if not equals and flags[flag].startswith("-"):
                raise Refused(f"{flag} needs a value")
        elif word in known.plain | EVERYWHERE.plain:
            flags[word] = ""
        else:
            raise Refused(f"gcloud {name} has no {word}")
    if not known.least <= len(rest) <= known.most:
        raise Refused(f"gcloud {name}: {rest}")
    return Call(name, rest, flags)


# --- the stand-in ---------------------------------------------------------------------------------


class State:
    """What the stand-in remembers between its calls.

    Attributes:
        folder: Where.
        known: `projects` (name -> number), `clusters` (name -> location, kubeconfig), `storage` (address of
            the emulator), `docker` (the folder of the program that builds use; see testbed/docker.py);
            then what commands have made: `project`, `repositories` (location/name), `bindings` (bucket ->
            role and member).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "state.json"
        empty: dict[str, Any] = {"projects": {}, "clusters": {}, "storage": "", "docker": "", "project": ""}
        known = json.loads(file.read_text()) if file.exists() else {}
        self.known = {**empty, "repositories": [], "bindings": {}, **known}
        how = folder / "how"
        self.how = how.read_text() if how.exists() else ""

    def save(self) -> None:
        (self.folder / "state.json").write_text(json.dumps(self.known, indent=1))

    def project(self, name: str) -> str:
        """The number of a project.

        Raises:
            Refused: There is none of this name.
        """
        if name not in self.known["projects"]:
            raise Refused(f"no project [{name}]")
        return str(self.known["projects"][name])

    def storage(self, method: str, path: str, body: object = None) -> Any:
        """Ask the emulator.

        Raises:
            Refused: It answers with an error.
        """
        data = json.dumps(body).encode() if body is not None else None
        head = {"Content-Type": "application/json"}
        url = f"{self.known['storage']}/storage/v1/{path}"
        request = urllib.request.Request(url, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"HTTPError {error.code}: {path}") from None
        return json.loads(text) if text else None

    def build(self, name: str) -> Path:
        return self.folder / f"build-{name}"


def _bucket(address: str) -> str:
    name = address.removeprefix("gs://")
    if name == address or "/" in name or not name:
        raise Refused(f"{address} is not a bucket: gs://NAME")
    return name


def _config_set(state: State, call: Call) -> None:
    if call.words[0] != "project":
        raise Refused(f"no property that is known here: {call.words[0]}")
    state.project(call.words[1])
    state.known["project"] = call.words[1]


def _describe_project(state: State, call: Call) -> None:
    number = state.project(call.words[0])
    if call.flags != {"--format": "value(projectNumber)"}:
        raise Refused(f"no format that is known here: {call.flags}")
    print(number)


def _get_credentials(state: State, call: Call) -> None:
    """Write the cluster into $KUBECONFIG, named as gcloud names it."""
    place = call.flags.get("--location") or call.flags.get("--region") or call.flags.get("--zone")
    found = state.known["clusters"].get(call.words[0])
    if not found or found["location"] != place:
        raise Refused(f"no cluster {call.words[0]} in {place}")
    name = f"gke_{state.known['project']}_{place}_{call.words[0]}"
    config = json.loads(Path(found["kubeconfig"]).read_text())
    config["clusters"][0]["name"] = config["contexts"][0]["name"] = config["current-context"] = name
    config["contexts"][0]["context"]["cluster"] = name
    target = Path(os.environ["KUBECONFIG"])
    target.touch(mode=0o600)
    target.write_text(json.dumps(config))
    print(f"kubeconfig entry generated for {call.words[0]}.", file=sys.stderr)


def _create_bucket(state: State, call: Call) -> None:
    name, project = _bucket(call.words[0]), state.known["project"]
    state.project(project)
    place = call.flags.get("--location") or call.flags.get("-l", "US")
    made = state.storage("POST", f"b?project={project}", {"name": name, "location": place.upper()})
    if made["location"].lower() != place.lower():
        state.storage("DELETE", f"b/{name}")
        raise Refused(f"the emulator has buckets in {made['location']} only, not in {place}")
    print(f"Creating {call.words[0]}/...", file=sys.stderr)


def _bind(state: State, call: Call) -> None:
    name = _bucket(call.words[0])
    binding = [call.flags["--role"], call.flags["--member"]]
    state.storage("GET", f"b/{name}")
    state.known["bindings"].setdefault(name, []).append(binding)
    print(f"Updated IAM policy for {call.words[0]}: {' '.join(binding)}", file=sys.stderr)


def _remove(state: State, call: Call) -> None:
    """A bucket with all that is in it."""
    if not {"--recursive", "-r", "-R"} & set(call.flags):
        raise Refused("a bucket is removed with --recursive")
    for address in call.words:
        name = _bucket(address)
        count = 0
        while found := (state.storage("GET", f"b/{name}/o") or {}).get("items", []):
            for item in found:
                state.storage("DELETE", f"b/{name}/o/{quote(item['name'], safe='')}")
            count += len(found)
        state.storage("DELETE", f"b/{name}")
        state.known["bindings"].pop(name, None)
        print(f"Removed {count} objects and {address}/", file=sys.stderr)


def _repository(call: Call) -> str:
    return f"{call.flags['--location']}/{call.words[0]}"


def _create_repository(state: State, call: Call) -> None:
    name = _repository(call)
    if name in state.known["repositories"]:
        raise Refused(f"ALREADY_EXISTS: {name}")
    if "--repository-format" not in call.flags:
        raise Refused("--repository-format is required")
    state.known["repositories"].append(name)
    print(f"Created repository [{call.words[0]}].", file=sys.stderr)


def _delete_repository(state: State, call: Call) -> None:
    name = _repository(call)
    if name not in state.known["repositories"]:
        raise Refused(f"NOT_FOUND: {name}")
    state.known["repositories"].remove(name)
    (state.folder / "push").unlink(missing_ok=True)
    print(f"Deleted repository [{call.words[0]}].", file=sys.stderr)


def _submit(state: State, call: Call) -> None:
    if state.how == "denied":
        raise Refused("PERMISSION_DENIED: The caller does not have permission")
    if not (Path(call.words[0]) / "cloudbuild.yml").samefile(call.flags["--config"]):
        raise Refused(f"no cloudbuild.yml in {call.words[0]}")
    pairs = dict(pair.split("=", 1) for pair in call.flags["--substitutions"].split(","))
    image = "{_ARTIFACT_REGISTRY}/{_VLLM_IMAGE}:{_VLLM_VERSION}".format_map(pairs)
    build = {
        "id": "b1",
        "status": "WORKING",
        "createTime": "2026-11-26T08:00:00Z",
        "logUrl": "https://console/b1",
        "images": [image],
    }
    state.build("b1").write_text(json.dumps(build))
    print("Creating temporary archive of 9 file(s)", file=sys.stderr)
    if state.known["docker"]:
        _run_build(state, Path(call.words[0]), pairs, image)
    print(json.dumps(build))


def _run_build(state: State, source: Path, pairs: dict[str, str], image: str) -> None:
    """Run the steps of a build and push its image; `pushed` is written when all of it went well."""
    import yaml

    workspace = state.folder / "workspace"
    shutil.copytree(source, workspace, dirs_exist_ok=True)
    steps = yaml.safe_load((workspace / "cloudbuild.yml").read_text())["steps"]
    lines = [[step["entrypoint"], *step["args"]] for step in steps]
    environment = os.environ | {"PATH": f"{state.known['docker']}:{os.environ['PATH']}"}
    with (state.folder / "log").open("w") as log:
        for line in [*lines, ["docker", "push", image]]:
            words = [re.sub(r"\$\{(\w+)\}", lambda name: pairs[name[1]], word) for word in line]
            done = subprocess.run(
                words, cwd=workspace, env=environment, stdout=log, stderr=log, text=True, check=False
            )
            if done.returncode:
                return
    look = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest.Digest}}"]
    digest = subprocess.run(look, env=environment, capture_output=True, text=True, check=True).stdout
    (state.folder / "pushed").write_text(digest.strip().strip('"'))


def _log(state: State, call: Call) -> None:
    if state.how == "no log":
        raise Refused("You do not currently have this command group installed.")
    log = state.folder / "log"
    said = log.read_text().splitlines() if log.exists() else ["pulling the base"]
    for text in said:
        print(f"Step #0 - build: {text}", flush=True)
    if state.how == "log breaks":
        sys.exit(1)
    print("PUSH DONE", flush=True)


def _describe_build(state: State, call: Call) -> None:
    """A build that was done has ended; one that only seems to be has when it is looked at a second time."""
    if state.how == "describe fails":
        raise Refused("INTERNAL: try again")
    path = state.build(call.words[0])
    build = json.loads(path.read_text())
    looks = build["looks"] = build.get("looks", 0) + 1
    pushed, ended = state.folder / "pushed", looks > 1 or state.known["docker"]
    if ended and (state.how == "build fails" or not pushed.exists()):
        build.update(status="FAILURE", failureInfo={"detail": "step exited with non-zero status: 1"})
    elif ended:
        image = {"name": build["images"][0], "digest": pushed.read_text()}
        build.update(status="SUCCESS", finishTime="2026-11-26T08:20:00Z", results={"images": [image]})
        (state.folder / "push").touch()
    path.write_text(json.dumps(build))
    print(json.dumps(build))


def _builds(state: State, call: Call) -> None:
    print(json.dumps([json.loads(path.read_text()) for path in sorted(state.folder.glob("build-*"))]))


ANSWERS: dict[str, Callable[[State, Call], None]] = {
    "artifacts repositories create": _create_repository,
    "artifacts repositories delete": _delete_repository,
    "auth print-access-token": lambda state, call: print("ya29.token"),
    "beta builds log": _log,
    "builds describe": _describe_build,
    "builds list": _builds,
    "builds submit": _submit,
    "config set": _config_set,
    "container clusters get-credentials": _get_credentials,
    "projects describe": _describe_project,
    "storage buckets add-iam-policy-binding": _bind,
    "storage buckets create": _create_bucket,
    "storage rm": _remove,
}


def install(program: Path, state: Path, **known: object) -> None:
    """Write the stand-in as a program, and what it knows from the start (see State)."""
    state.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{state}" "$@"\n')
    program.chmod(0o755)
    (state / "state.json").write_text(json.dumps(known))


def main() -> int:
    state, words = State(Path(sys.argv[1])), sys.argv[2:]
    with (state.folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    try:
        if state.how == "logged out":
            raise Refused("You do not currently have an active account selected.\n  $ gcloud auth login")
        call = check(words)
        if call.name not in ANSWERS:
            raise Refused(f"the stand-in has no answer to: gcloud {call.name}")
        ANSWERS[call.name](state, call)
    except (Refused, KeyError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        print(
            f"WARNING: this is a stand-in for gcloud.\nERROR: (gcloud.{'.'.join(words[:2])}) {why}",
            file=sys.stderr,
        )
        return 1
    state.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
