"""make walkthrough: what it runs of walkthrough.md, how it fails, and the gcloud that stands in.

The walk itself needs the test cluster and the engine: make walkthrough.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import gcloud, gcs
from testbed.errors import MissingError
from tests.helpers.helm import ROOT
from tools import walkthrough
from tools.command_lines import CommandLine, command_lines
from tools.demo import StepError
from tools.walkthrough import SUBSTITUTIONS, Shell, substituted, walk

LINES = command_lines((ROOT / "walkthrough.md").read_text())
PLACES = {"bin": "/b", "bytes": "1", "hub": "http://h", "lws": "/lws", "registry": "127.0.0.1:1"}
# What the shell of the walk has beside programs.
FUNCTIONS = set(re.findall(r"(?m)^(\w+)\(\)", walkthrough.PRELUDE))
# Commands of manyhost that wait for, or speak with, engines on GPU hosts.
SERVED = re.compile(r"manyhost (deploy|status|chat|bench|logs|collect|teardown)\b")


# ------------------------------------------------------------------ what is run of walkthrough.md


@pytest.mark.parametrize("item", SUBSTITUTIONS, ids=lambda item: item.find[:40])
def test_no_substitution_is_for_a_command_that_is_no_more(item: walkthrough.Substitution) -> None:
    assert any(item.find in line.text for line in LINES)
    assert item.why


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line.number))
def test_a_command_can_run_here_as_it_is_or_has_a_substitution(line: CommandLine) -> None:
    text, _ = substituted(line.text, PLACES)
    places = {"gs://$GCS_BUCKET", "principal://iam.googleapis.com", PLACES["hub"]}
    assert {address.split()[0] for address in re.findall(r"\w+://[^/]*", text)} <= places
    assert "<walkthrough-" not in text
    assert "docker.pkg.dev" not in text
    assert not SERVED.search(text)
    for command in text.splitlines():
        program = command.split()[0]
        assert program in {"export", "gcloud", "helm", "kubectl", "make", ".venv/bin/manyhost"} | FUNCTIONS
        if program == "gcloud":
            assert gcloud.check(command.split()[1:]).name in gcloud.ANSWERS


def test_lines_are_numbered_as_in_the_document_under_their_heading() -> None:
    text = "# A\n```sh\na 1\n# no heading\n\nb \\\n  2\nc\n```\n"
    text += "## B\n```text\nno\n```\n- x\n  ```bash\n  d\n  ```\n"
    assert command_lines(text) == [(3, "A", "a 1"), (6, "A", "b 2"), (8, "A", "c"), (16, "B", "d")]


# ------------------------------------------------------------------ how it fails

TINY = """\
# A walk

## One

```sh
export PLACE=here OTHER=$(echo there)
```

## Two

```sh
test "$PLACE $OTHER" = "here there"
# a comment
echo made > made
```

## Three

```sh
test "$(cat made)" = \\
  made
rm made
```
"""


@pytest.fixture
def go(tmp_path: Path) -> Callable[[str], None]:
    """Walks through a text."""

    def run(text: str) -> None:
        (tmp_path / "tiny.md").write_text(text)
        shell = Shell(tmp_path, os.environ)
        try:
            walk(tmp_path / "tiny.md", shell, PLACES)
        finally:
            shell.close()

    return run


def test_one_shell_runs_all_blocks(go: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    go(TINY)
    said = capfd.readouterr().out
    assert [line[11:] for line in said.splitlines() if "---" in line] == ["--- One", "--- Two", "--- Three"]
    assert re.search(r"^\[ +\d+\.\d s\] +Two: \d\.\d s$", said, re.M)


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("export PLACE=here", "exprt PLACE=here", 6),
        ("$(echo there)", "$(ecko there)", 6),  # `export` itself succeeds
        ("$(echo there)", "$(true)", 6),
        ('test "$PLACE', 'test "$PLASE', 12),
        ("here there", "here or there", 12),
        ("echo made > made", "ls unmade | cat > made", 14),
        ("echo made > made", "exit 3", 14),
        ("  made\n", "  unmade\n", 20),
        ("rm made", "rm --quick made", 22),
    ],
)
def test_an_error_in_any_block_ends_it_at_its_line(
    right: str, wrong: str, line: int, go: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert right in TINY
    with pytest.raises(StepError, match=rf"^tiny\.md:{line}: exit code [1-9]"):
        go(TINY.replace(right, wrong))
    later = [number for number in (6, 12, 14, 20, 22) if number > line]
    assert not later or TINY.splitlines()[later[-1] - 1] not in capfd.readouterr().out


def test_a_command_that_does_not_end_is_ended(
    go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walkthrough, "LIMIT_SECONDS", 0.2)
    with pytest.raises(StepError, match=r"^tiny\.md:22: not ended within 0\.2 s: sleep 60"):
        go(TINY.replace("rm made", "sleep 60"))


# Tells when it walks, and cleans up for a second.
INTERRUPTED = """
import time
from tools.demo import exit_code

def walk():
    try:
        print("walking", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(1)
        print("clean", flush=True)

raise SystemExit(exit_code("walk", walk, "done"))
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_an_impatient_person_does_not_end_the_clean_up(first: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 one thread
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "walking\n"
        process.send_signal(first)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "clean\n"
    assert process.returncode == 130


def test_what_takes_the_place_of_a_command_is_told(
    go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    item = walkthrough.Substitution("rm made", "rm -f made {bytes}", "because")
    monkeypatch.setattr(walkthrough, "SUBSTITUTIONS", (item,))
    go(TINY)
    assert "# tiny.md:22: in place of `rm made`: because\n$ rm -f made 1\n" in capfd.readouterr().out


def test_kubectl_does_not_reach_out(tmp_path: Path) -> None:
    (tmp_path / "kubectl").write_text(walkthrough.KUBECTL.format(kubectl="/bin/echo"))

    def kubectl(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["sh", tmp_path / "kubectl", *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    assert kubectl("get", "pods", "--all-namespaces") == (0, "get pods --all-namespaces\n")
    code, said = kubectl("apply", "-f", "https://example.com/manifests.yaml")
    assert (code, "no network here" in said) == (1, True)


# ------------------------------------------------------------------ the gcloud that stands in


class Cloud:
    """The stand-in with a project and a cluster, and an emulator behind it."""

    def __init__(self, folder: Path, storage: str) -> None:
        self.state = folder / "state"
        context = {"name": "test", "context": {"cluster": "test", "user": "me"}}
        config = {"clusters": [{"name": "test"}], "contexts": [context], "current-context": "test"}
        (folder / "config").write_text(json.dumps(config))
        gcloud.install(
            folder / "gcloud",
            self.state,
            projects={"my-project": "42"},
            clusters={"my-cluster": {"location": "us-east4", "kubeconfig": str(folder / "config")}},
            storage=storage,
        )
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KUBECONFIG": str(folder / "kubeconfig"),
        }

    def __call__(self, *lines: str) -> subprocess.CompletedProcess[str]:
        """Run lines in a shell that ends with the first that fails."""
        return subprocess.run(
            ["bash", "-euc", "\n".join(lines)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    try:
        running = gcs.Gcs(location="us-east4")
    except MissingError as error:
        pytest.skip(str(error))
    with running:
        yield running.url


@pytest.fixture
def cloud(tmp_path: Path, storage: str) -> Iterator[Cloud]:
    made = Cloud(tmp_path, storage)
    yield made
    for item in gcloud.State(made.state).storage("GET", "b?project=my-project").get("items", []):
        made(f"gcloud storage rm --recursive gs://{item['name']}")


def test_the_gcloud_commands_of_the_walkthrough_leave_nothing_in_the_end(cloud: Cloud) -> None:
    lines = [substituted(line.text, PLACES)[0] for line in LINES]
    done = cloud(*(text for text in lines if text.startswith(("gcloud ", "export "))))
    assert done.returncode == 0, done.stderr
    assert "policy for gs://my-project-models: roles/storage.objectViewer principal" in done.stderr
    assert "/projects/42/locations/global/workloadIdentityPools/my-project.svc.id.goog/" in done.stderr
    assert gcloud.State(cloud.state).storage("GET", "b?project=my-project").get("items", []) == []
    known = gcloud.State(cloud.state).known
    assert (known["project"], known["repositories"], known["bindings"]) == ("my-project", [], {})
    config = json.loads(Path(cloud.environment["KUBECONFIG"]).read_text())
    assert config["current-context"] == "gke_my-project_us-east4_my-cluster"


def test_a_bucket_goes_with_all_that_is_in_it(cloud: Cloud, storage: str) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    made = cloud("gcloud config set project my-project", "gcloud storage buckets create gs://b1 -l us-east4")
    assert made.returncode == 0, made.stderr
    client = Client("my-project", AnonymousCredentials(), client_options={"api_endpoint": storage})  # type: ignore[no-untyped-call]
    for name in ("models/a b", "models/c/d", "e"):
        client.bucket("b1").blob(name).upload_from_string(b"x")
    done = cloud("gcloud storage rm --recursive gs://b1")
    assert (done.returncode, "Removed 3 objects" in done.stderr) == (0, True), done.stderr
    assert not list(client.list_buckets())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("gcloud config set project other", "no project [other]"),
        ("gcloud projects describe other", "no project [other]"),
        ("gcloud projects describe my-project", "no format"),
        ("gcloud container clusters get-credentials my-cluster --location us-east5", "no cluster my-cluster"),
        ("gcloud container clusters get-credentials mine --location us-east4", "no cluster mine"),
        ("gcloud container clusters get-credential my-cluster", "no command"),
        ("gcloud storage buckets create gs://b --location=us-east4 --hierarchical", "has no --hierarchical"),
        ("gcloud storage buckets create gs://bucket-1 --location=us-west1", "buckets in US-EAST4 only"),
        ("gcloud storage buckets create b --location=us-east4", "gs://NAME"),
        ("gcloud storage buckets add-iam-policy-binding gs://none --role=r --member=m", "HTTPError 404"),
        ("gcloud storage buckets add-iam-policy-binding gs://b --role=r", "is missing"),
        ("gcloud storage rm --recursive gs://none", "HTTPError 404"),
        ("gcloud storage rm gs://none", "--recursive"),
        ("gcloud artifacts repositories create r --location=us-east4", "--repository-format"),
        ("gcloud artifacts repositories create r --repository-format=docker", "'--location' is missing"),
        ("gcloud artifacts repositories delete r --location=us-east4", "NOT_FOUND: us-east4/r"),
        ("gcloud builds list --limit", "--limit needs a value"),
        ("gcloud services enable x", "the stand-in has no answer"),
    ],
)
def test_what_gcloud_does_not_know_or_is_not_there_is_refused(line: str, why: str, cloud: Cloud) -> None:
    done = cloud("gcloud config set project my-project", line)
    assert done.returncode == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_can_be_deleted_once(cloud: Cloud) -> None:
    made = "gcloud artifacts repositories create r --repository-format=docker --location=us-east4"
    gone = "gcloud artifacts repositories delete r --location=us-east4"
    assert cloud(made, gone).returncode == 0
    again = cloud(gone)
    assert (again.returncode, "NOT_FOUND" in again.stderr) == (1, True)
    twice = cloud(made, made)
    assert (twice.returncode, "ALREADY_EXISTS" in twice.stderr) == (1, True)
