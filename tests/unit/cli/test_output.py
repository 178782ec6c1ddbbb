"""--output json: one envelope as the last line of stdout whatever happens, and nothing beside it.

Commands that need a cluster run here up to it, or on what their library would have returned; the tests
in tests/e2e read them with the same helper on a real one.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.passthrough import CHART
from manyhost.cli import COMMANDS
from manyhost.cli.session import Opened
from manyhost.cluster.chat import Piece, Server
from manyhost.cluster.collect import Collected
from manyhost.cluster.deploy import Deployed, Proposal
from manyhost.cluster.discover import Found
from manyhost.cluster.doctor import Result
from manyhost.cluster.lease import Lease, Released
from manyhost.cluster.nccl import Bandwidth, Size
from manyhost.cluster.phases import Host, Problem
from manyhost.cluster.release import Change, Revision
from manyhost.cluster.rollout import Event
from manyhost.cluster.status import Janitor, Status
from manyhost.cluster.target import Place
from manyhost.cluster.teardown import Inventory, Item
from manyhost.cluster.waits import Spent, Wait
from manyhost.commands import Commands
from manyhost.errors import Failed, NotReady

from tests.helpers.cli import ROOT, manyhost
from tests.helpers.output import read

JSON = ("--output", "json")
PROGRAM = [sys.executable, "-m", "manyhost"]
ON_A_CLUSTER = {
    "discover": ("a3mega",),
    "doctor": ("local",),
    "deploy": ("local",),
    "status": ("local",),
    "logs": ("local",),
    "chat": ("local", "--prompt", "hello"),
    "dashboard": ("local",),
    "nccl": ("local",),
    "teardown": ("local",),
}


# --------------------------------------------------------------------- what ends every command
def test_every_command_takes_the_option_and_says_what_its_result_is() -> None:
    for name, (module, _) in COMMANDS.items():
        command: Any = importlib.import_module(f"manyhost.cli.{module}")
        assert "output_format" in [parameter.name for parameter in command.command.params], name
        assert command.RESULT, name


def test_success(tmp_path: Path) -> None:
    out = manyhost("render", "a3mega", "--out", str(tmp_path), *JSON)
    assert len(out.out.splitlines()) == 1
    envelope = out.output.envelope
    assert envelope["schema"] == "manyhost/v1"
    assert (envelope["command"], envelope["status"], envelope["exit_code"]) == ("render", "ok", 0)
    assert manyhost("check", str(tmp_path / "manifests.yaml"), *JSON).output.result["findings"] == []


@pytest.mark.parametrize(
    ("arguments", "command", "code", "message", "fix"),
    [
        (("render", "nope"), "render", 3, "unknown environment 'nope'", "choose one of"),
        (("render", "a3mega", "--set", "contxt=1"), "render", 3, "unknown key", "did you mean context?"),
        (("render", "a3mega", "--out", "/dev/null/x"), "render", 1, "cannot be written", ""),
        (("check", "none.yaml"), "check", 3, "file not found", ""),
        (("explain", "contex", "a3mega"), "explain", 3, "unknown key", "did you mean context?"),
        (("render",), "render", 2, "Missing argument 'RECIPE'", "manyhost render --help"),
        (("render", "a3mega", "--frob"), "render", 2, "No such option '--frob'", "manyhost render --help"),
        (("status", "a3mega", "--set"), "status", 2, "requires an argument", ""),
        (("frobnicate",), "", 2, "No such command 'frobnicate'", "manyhost --help"),
        (("chat", "local"), "chat", 2, "a conversation is for people", "add --prompt TEXT"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_refusals_and_wrong_usage(
    arguments: tuple[str, ...], command: str, code: int, message: str, fix: str, first: bool
) -> None:
    """The option may stand before the mistake or behind it."""
    words = (arguments[0], *JSON, *arguments[1:]) if first else (*arguments, *JSON)
    if arguments[-1] == "--set" and not first:
        words = (*arguments[:-1], *JSON, "--set")
    ran = manyhost(*words)
    envelope = ran.output.envelope
    assert (ran.code, envelope["command"], envelope["result"]) == (code, command, None)
    (error,) = envelope["errors"]
    assert message in error["message"]
    assert fix in error["fix"]
    assert bool(fix) == bool(error["fix"])


def test_the_last_option_counts_and_words_behind_two_dashes_are_none() -> None:
    assert manyhost("render", "nope", "--output", "json", "--output", "text").err.startswith("manyhost: ")
    assert manyhost("render", "nope", "--output=json").output.envelope["exit_code"] == 3
    assert manyhost("render", "--", "nope", "--output", "json").out == ""
    # The value of another option that looks like the option is not it.
    assert manyhost("render", "nope", "--release", "--output=json").err.startswith("manyhost: ")


def test_a_wrong_value_of_the_option_is_told_to_people() -> None:
    ran = manyhost("render", "a3mega", "--output", "xml")
    assert (ran.code, ran.out) == (2, "")
    assert "xml" in ran.err


def test_help_is_text() -> None:
    ran = manyhost("render", *JSON, "--help")
    assert ran.out.startswith("Usage: ")
    assert "manyhost/v1" not in ran.out


def test_a_bug_is_an_envelope_too(monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("manyhost.cli.list_.resolve", broken)
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("manyhost.cli").run(["list", *JSON])
    envelope = read(capsysbinary.readouterr().out.decode()).envelope
    assert (envelope["exit_code"], envelope["result"]) == (1, None)
    assert "this is a bug: ZeroDivisionError: oops" in envelope["errors"][0]["message"]


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "check", os.fsencode(tmp_path) + b"/\xff\xc3\xa9.yaml", *JSON],
        capture_output=True,
        check=False,
        timeout=60,
    )
    (error,) = read(done.stdout.decode()).envelope["errors"]
    assert (done.returncode, done.stderr) == (3, b"")
    assert error["where"].endswith("/?é.yaml")


def test_json_is_utf_8_in_every_locale() -> None:
    done = subprocess.run(
        [*PROGRAM, "render", "é", *JSON],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert "é" in read(done.stdout.decode()).envelope["errors"][0]["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """A command that waits for a pipe is interrupted."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*PROGRAM, "check", str(pipe), *JSON],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, pipe.open("w"):  # opens when the command has opened its end
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "")
    envelope = read(out).envelope
    assert (envelope["exit_code"], envelope["errors"][0]["message"]) == (130, "interrupted")


def test_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A warning is in the envelope for programs and on stderr for people."""
    from manyhost.checks import Finding

    found = Finding("fabric", "Pod/p spec", "is slow", "use another", severity="warning")
    monkeypatch.setattr("manyhost.checks.run", lambda *_, **__: [found])
    arguments = ("render", "local", "--out", str(tmp_path))
    (warning,) = manyhost(*arguments, *JSON).output.envelope["warnings"]
    assert warning == {"message": "is slow [fabric]", "where": "Pod/p spec", "fix": "use another"}
    assert "warning: Pod/p spec: is slow [fabric]\n  fix: use another\n" in manyhost(*arguments).err


# ----------------------------------------------------------------------------- with a cluster
@pytest.mark.parametrize("command", ON_A_CLUSTER)
def test_without_a_cluster(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    ran = manyhost(command, *ON_A_CLUSTER[command], *JSON)
    assert ran.code == 4
    assert ran.output.result is None
    assert ran.output.envelope["errors"][0]["fix"]


PROBLEM = Problem("pull", "the image cannot be pulled", "check the tag", 30.0)
HOSTS = (Host(group=0, host=0, pod="r-0", phase="ready"), Host(group=0, host=1, pod="r-0-1", problem=PROBLEM))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A cluster that is never asked: tests replace the functions of the library that would ask it."""
    connection = SimpleNamespace(commands=Commands(namespace="n", recipe="local", release="r"))
    plan = SimpleNamespace(interconnect=Catalog(ROOT).interconnect("tcpxo"))
    target = SimpleNamespace(release="r", namespace="n", recipe="local/x", hosts=2, plan=plan)
    place = Place(Catalog(ROOT).chart(CHART), "n", "r")
    catalog = Catalog(ROOT)
    resolved = resolve(catalog, "local/tiny-r1")
    opened: Any = Opened(connection, place, resolved, catalog.environment("local"))
    replaced = (
        ("open_place", (connection, place)),
        ("open_release", opened),
        ("open_target", (connection, target)),
    )
    for name in COMMANDS:
        module = importlib.import_module(f"manyhost.cli.{COMMANDS[name][0]}")
        for function, found in replaced:
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda _, found=found: found)
    return monkeypatch


def replace(cluster: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    for name, found in functions.items():
        value = found if callable(found) else lambda *_, found=found, **__: found
        cluster.setattr(f"manyhost.cluster.{module}.{name}", value)


def test_doctor(cluster: pytest.MonkeyPatch) -> None:
    results = [Result("api", "pass", "fine"), Result("quota", "fail", "too few", "ask for more")]
    replace(cluster, "doctor", examine=results)
    ran = manyhost("doctor", "local", *JSON)
    assert ran.code == 4
    assert [item["status"] for item in ran.output.result["checks"]] == ["pass", "fail"]
    verdict = "local would not work: 1 of 2 checks failed (quota)"
    assert ran.output.envelope["errors"][0]["message"] == ran.output.result["verdict"] == verdict
    text = manyhost("doctor", "local")
    assert "fail  quota                  too few\n" in text.out
    assert text.err == f"manyhost: {verdict}\n"


@pytest.mark.parametrize(
    ("why", "verdict"),
    [
        ("not fast", "local would work: 2 checks, 1 warning"),
        ("could not look: no", "local would work, as far as could be seen: 2 checks, 1 warning"),
    ],
)
def test_doctor_ends_with_its_verdict(why: str, verdict: str, cluster: pytest.MonkeyPatch) -> None:
    results = [Result("api", "pass", "fine"), Result("hosts", "warn", why), Result("bucket", "skip", "none")]
    replace(cluster, "doctor", examine=results)
    ran = manyhost("doctor", "local")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, verdict)


@pytest.mark.parametrize("installed", [True, False])
def test_status(installed: bool, cluster: pytest.MonkeyPatch) -> None:
    drift = [Change("create", "Service", "r-svc", "", drift=True)]
    found = Status(release="r", namespace="n", installed=installed, hosts=HOSTS, service="r-svc", drift=drift)
    replace(cluster, "status", status=found)
    ran = manyhost("status", "local", *JSON)
    assert ran.code == (0 if installed else 4)
    assert ran.output.result["installed"] is installed
    assert ran.output.result["hosts"][1]["problem"]["message"] == PROBLEM.message
    fix = "`manyhost deploy local --release r --namespace n`"
    (told,) = ran.output.envelope["warnings" if installed else "errors"]
    assert told["fix"] == fix
    text = manyhost("status", "local")
    assert f"  fix: {fix}\n" in text.err
    assert ("    fix: check the tag\n" in text.out) is installed


def test_status_tells_how_long_hosts_are_kept_and_what_they_cost(cluster: pytest.MonkeyPatch) -> None:
    """Lease, price, the wait of each group and a janitor that does not run; then what it is once released."""
    wait = Wait(
        role="", group=0, what="starts", since="2026-01-01T10:00:00Z", until="2026-01-01T11:30:00Z",
        then="the group is made anew", hosts=2, usd=92.94,
    )  # fmt: skip
    spent = Spent(
        hosts=2, usd_per_hour=185.88, since="2026-01-01T10:00:00Z", usd_so_far=92.94, usd_until_end=371.76,
        mode="on-demand", region="us-east4", date="2026-07-30", source="s",
    )  # fmt: skip
    found = Status(
        release="r", namespace="n", installed=True, groups=1, hosts=HOSTS, now="2026-01-01T10:30:00Z",
        lease=Lease("2026-01-01T12:30:00Z", "ada"), waits=(wait,), spent=spent,
        janitor=Janitor("j", "", True),
    )  # fmt: skip
    replace(cluster, "status", status=found)
    text = manyhost("status", "local").out
    for line in (
        "lease until 2026-01-01T12:30:00Z (in 2 h 0 min) by ada; then the hosts are freed",
        "another deploy --for renews it, teardown ends it",
        "2 hosts at 185.88 USD/h (on-demand, us-east4, list of 2026-07-30): 92.94 USD since "
        "2026-01-01T10:00:00Z, 371.76 USD until the lease ends",
        "group 0 starts since 2026-01-01T10:00:00Z: the group is made anew at 2026-01-01T11:30:00Z "
        "(in 1 h 0 min); 2 hosts for 92.94 USD so far",
        "the janitor has not run yet: nothing would free the hosts",
        "fix: `kubectl describe cronjob j --namespace n` says why",
    ):
        assert f"  {line}\n" in text
    result = manyhost("status", "local", *JSON).output.result
    assert (result["waits"][0]["until"], result["spent"]["usd_so_far"]) == ("2026-01-01T11:30:00Z", 92.94)
    replace(
        cluster, "status",
        status=msgspec.structs.replace(
            found, released=Released("2026-01-01T10:29:00Z", "w", 1), waits=(), hosts=(), groups=0
        ),
    )  # fmt: skip
    text = manyhost("status", "local").out
    again = "`manyhost deploy local --release r --namespace n`"
    assert f"  released at 2026-01-01T10:29:00Z: w\n    fix: {again}\n" in text
    assert "lease until" not in text


PROPOSAL = Proposal(
    release="r", namespace="n", action="upgrade", revision=1,
    changes=[Change("update", "LeaderWorkerSet", "r", "---\n+++\n-a\n+b")],
)  # fmt: skip
DEPLOYED = Deployed(
    release="r", namespace="n", revision=2, groups=1, hosts=2, install_seconds=1, ready_seconds=2
)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "no lease: the hosts cost 185.88 USD/h until teardown; --for 4h would set an end"),
        (
            {"lease": Lease("2026-01-01T12:30:00Z", "ada"), "usd_until_end": 371.76},
            "lease until 2026-01-01T12:30:00Z by ada, 371.76 USD until then; then the hosts are freed",
        ),
        (
            {"released": Released("2026-01-01T12:30:00Z", "w", 1), "action": "start"},
            "its groups were released at 2026-01-01T12:30:00Z: w; they are started again",
        ),
    ],
)
def test_deploy_tells_what_is_kept_until_when(more: Any, said: str, cluster: pytest.MonkeyPatch) -> None:
    proposal = msgspec.structs.replace(PROPOSAL, usd_per_hour=185.88, **more)
    replace(cluster, "deploy", propose=proposal)
    replace(cluster, "doctor", require=None)
    assert f"  {said}\n" in manyhost("deploy", "local", "--dry-run").out


def test_a_lease_that_is_none_is_refused_before_the_cluster_is_asked() -> None:
    ran = manyhost("deploy", "local", "--for", "soon")
    assert (ran.code, ran.out) == (3, "")
    assert "--for: 'soon' is no duration" in ran.err
    assert "fix: write 4h, 90m or 1d12h" in ran.err


def deploying(cluster: pytest.MonkeyPatch, end: BaseException | None = None) -> None:
    def deploy(*_: Any, report: Any, **__: Any) -> Deployed:
        report(Event(event="phase", seconds=1.5, group=0, host=1, pod="r-0-1", node="h", phase="ready"))
        report(Event(event="problem", seconds=2, text="it crashed", fix="look", log=["line\u2028one", "two"]))
        if end:
            raise end
        return DEPLOYED

    replace(cluster, "doctor", require=None)
    replace(cluster, "deploy", propose=PROPOSAL, patience=60, deploy=deploy)


def test_deploy(cluster: pytest.MonkeyPatch) -> None:
    deploying(cluster)
    output = manyhost("deploy", "local", *JSON).output
    assert [event["kind"] for event in output.events] == ["proposal", "phase", "problem"]
    assert output.events[0]["data"] == output.result["proposal"]
    assert output.events[1]["data"]["phase"] == "ready"
    problem = output.events[2]
    assert (problem["text"], problem["data"]["fix"]) == ("it crashed", "look")
    assert problem["data"]["log"] == ["line\u2028one", "two"]
    assert output.result["deployed"]["revision"] == 2
    assert manyhost("deploy", "local").out == (
        "upgrade release r in namespace n (revision 1 is there)\n  update LeaderWorkerSet r\n    -a\n    +b\n"
        "  waits 1 min at most\n"
        "    1.5 s  group 0 host 1 (r-0-1 on h) ready\n"
        "    2.0 s  it crashed\n           | line\u2028one\n           | two\n           fix: look\n"
        "release r revision 2: 1 group on 2 hosts answer (installed in 1.0 s, ready after 2.0 s)\n"
        "next: `manyhost chat local --release r --namespace n`\n"
    )


def test_deploy_rehearsed_failed_and_interrupted(cluster: pytest.MonkeyPatch) -> None:
    deploying(cluster)
    output = manyhost("deploy", "local", "--dry-run", *JSON).output
    assert (output.events, output.result["deployed"]) == ([], None)
    assert output.result["proposal"]["changes"][0]["kind"] == "LeaderWorkerSet"

    deploying(cluster, Failed("it gave up", where="r-0", fix="look"))
    output = manyhost("deploy", "local", *JSON).output
    assert output.envelope["errors"] == [{"message": "it gave up", "where": "r-0", "fix": "look"}]
    assert (len(output.events), output.result["deployed"]) == (3, None)

    deploying(cluster, KeyboardInterrupt())
    ran = manyhost("deploy", "local", *JSON)
    assert (ran.code, ran.output.result["deployed"]) == (130, None)
    assert "manyhost teardown local --release r" in ran.output.envelope["errors"][0]["message"]
    text = manyhost("deploy", "local")
    assert (text.code, text.err.count("\n")) == (130, 1)
    assert text.err.startswith("manyhost: interrupted: release r is installed and goes on starting; ")


def test_teardown(cluster: pytest.MonkeyPatch) -> None:
    found = Inventory(
        release="r", namespace="n", revision=Revision("r", 1, "deployed"),
        items=[Item("Service", "r-svc", "/api/v1/x")], pods=["r-0"], made=[], sets=("r",), kinds=(),
    )  # fmt: skip
    replace(
        cluster, "teardown", inventory=found, teardown=lambda *_, report, **__: report("waiting for 1 pod")
    )
    kept = Collected(archive="build/r.tar.gz", files=3, bytes=4096, unread=["x: y"])
    replace(cluster, "collect", before_teardown=kept)
    output = manyhost("teardown", "local", "--yes", *JSON).output
    assert [(event["kind"], event["text"]) for event in output.events][1:] == [
        ("collected", "no group answers; logs and events are kept in build/r.tar.gz"),
        ("step", "waiting for 1 pod"),
    ]
    assert output.events[1]["data"]["unread"] == ["x: y"]

    def full(*_: Any) -> None:
        raise Failed("cannot be written: No space left on device", where="build")

    replace(cluster, "collect", before_teardown=full)
    warned = manyhost("teardown", "local", "--yes", *JSON).output  # no reason to go on paying
    assert (warned.result["removed"], len(warned.envelope["warnings"])) == (True, 1)
    replace(cluster, "collect", before_teardown=None)
    assert output.events[0]["data"] == output.result["inventory"]
    assert output.result["removed"] is True
    dry = manyhost("teardown", "local", "--dry-run", *JSON).output
    assert (dry.events, dry.result["removed"], dry.result["inventory"]["pods"]) == ([], False, ["r-0"])
    text = manyhost("teardown", "local", "--yes").out.splitlines()
    assert text[:4] == [
        "release r in namespace n:", "  helm release, revision 1 (deployed)", "  Service r-svc", "  pod r-0",
    ]  # fmt: skip
    assert text[-1].startswith("nothing is left (")


def test_collect(cluster: pytest.MonkeyPatch) -> None:
    found = Collected(archive="a.tar.gz", files=3, bytes=4096, unread=["x: y"])
    replace(cluster, "collect", collect=found)
    assert manyhost("collect", "local", "--to", "a.tar.gz", *JSON).output.result == {
        "archive": "a.tar.gz", "files": 3, "bytes": 4096, "unread": ["x: y"],
    }  # fmt: skip
    said = manyhost("collect", "local", "--to", "a.tar.gz").out
    assert said == "a.tar.gz: 3 files, 4 KiB\n  not read: x: y\n"


def test_questions_stay_off_stdout(cluster: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there to say yes: interrupted, and stdout has the envelope alone."""
    found = Inventory(
        release="r", namespace="n", revision=None, items=[], pods=["r-0"], made=[], sets=("r",), kinds=()
    )
    replace(cluster, "teardown", inventory=found)
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        ran = manyhost("teardown", "local", *JSON)
    assert ran.code == 130
    assert "remove all of this?" in ran.err
    output = read(ran.out)
    assert (output.result["removed"], output.envelope["exit_code"]) == (False, 130)


@pytest.mark.parametrize(("measured", "code"), [(280.0, 0), (20.0, 1)])
def test_nccl(measured: float, code: int, cluster: pytest.MonkeyPatch) -> None:
    found = Bandwidth(
        ranks=16, bus_gbytes_per_second=measured, minimum_gbytes_per_second=250,
        sizes=[Size(1 << 20, 0.5, measured)],
    )  # fmt: skip

    def measure(*_: Any, report: Any, **__: Any) -> Bandwidth:
        report("removed")
        return found

    objects = [{"kind": "ConfigMap", "metadata": {"name": "a"}}]
    replace(cluster, "nccl", measure=measure, manifests=objects)
    ran = manyhost("nccl", "local", *JSON)
    assert ran.code == code
    assert ran.output.result["bandwidth"]["bus_gbytes_per_second"] == measured
    assert [event["text"] for event in ran.output.events] == ["removed"]
    text = manyhost("nccl", "local").out
    assert f"16 GPUs: {measured:.1f} GB/s bus bandwidth, 250 needed\n" in text
    assert "340" in text  # what others have measured over this fabric
    dry = manyhost("nccl", "local", "--dry-run", *JSON).output
    assert dry.result == {"manifests": objects, "bandwidth": None}
    assert manyhost("nccl", "local", "--dry-run").out == "kind: ConfigMap\nmetadata:\n  name: a\n"


def test_logs(cluster: pytest.MonkeyPatch) -> None:
    pieces = [b"one\ntw", b"o\r", b"\n\xff thr\xc3", b"\xa9e\n\nlast"]
    replace(cluster, "logs", logs=lambda *_, **__: iter(pieces))
    output = manyhost("logs", "local", "--host", "1", *JSON).output
    assert [event["text"] for event in output.events] == ["one", "two\r", "\ufffd thr\u00e9e", "", "last"]
    assert output.result == {"pod": "r-0-1", "container": "vllm", "lines": 5}

    def none(*_: Any, **__: Any) -> Iterator[bytes]:
        raise NotReady("there is no pod r-0")

    replace(cluster, "logs", logs=none)
    assert manyhost("logs", "local", *JSON).output.envelope["exit_code"] == 4


def test_a_log_that_is_followed_says_why_it_ends(cluster: pytest.MonkeyPatch) -> None:
    replace(cluster, "logs", logs=lambda *_, **__: iter([b"one\n"]), uid_of="u", why_ended="r-0 is made anew")
    assert "warning: r-0 is made anew\n" in manyhost("logs", "local", "--follow").err
    (warning,) = manyhost("logs", "local", "--follow", *JSON).output.envelope["warnings"]
    assert warning["message"] == "r-0 is made anew"
    assert manyhost("logs", "local").err == ""


def test_chat(cluster: pytest.MonkeyPatch) -> None:
    pieces = [Piece("reasoning", "hm"), Piece("answer", "9"), Piece("answer", ".9"), Piece("end", "length")]
    replace(
        cluster, "chat", ready_server=Server("r-0", 8000), tunnel=lambda *_: nullcontext(), model_name="m",
        ask=lambda *_, **__: iter(pieces),
    )  # fmt: skip
    output = manyhost("chat", "local", "--prompt", "which?", *JSON).output
    assert [(event["kind"], event["text"]) for event in output.events] == [
        ("reasoning", "hm"), ("answer", "9"), ("answer", ".9"),
    ]  # fmt: skip
    assert output.result == {
        "model": "m", "pod": "r-0", "reasoning": "hm", "answer": "9.9", "finish_reason": "length",
    }  # fmt: skip
    text = manyhost("chat", "local", "--prompt", "which?")
    assert (text.out, text.err) == ("[reasoning] hm\n[answer] 9.9\n", "\n(cut off at the token limit)")


def test_discover(cluster: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("context: 16384\n")
    cluster.setenv("MANYHOST_LOCAL", str(local))
    settings = {"site": {"cluster_name": "c"}}
    found = Found(kubernetes="v1.33", lws="v0.9.0", nodes=2, settings=settings, notes=["so it is"])
    replace(cluster, "connection", connect=None)
    replace(cluster, "discover", discover=found)
    dry = manyhost("discover", "a3mega", "--dry-run", *JSON).output.result
    assert (dry["written"], dry["found"]["settings"]) == (False, settings)
    assert manyhost("discover", "a3mega", "--dry-run").out.endswith(f"note: so it is\n{dry['diff']}\n")
    done = manyhost("discover", "a3mega", "--yes", *JSON).output.result
    assert (done["written"], done["file"]) == (True, str(local))
    assert "cluster_name: c" in local.read_text()


# ------------------------------------------------------------------------------ the documents
def test_the_page_shows_what_is_printed() -> None:
    page = (ROOT / "docs/reference/output.md").read_text()
    envelope, event = re.findall(r"```json\n(.*?)```", page, re.S)
    assert json.loads(envelope) == manyhost("render", "a3mgea", *JSON).output.envelope
    shown = json.dumps(json.loads(event)) + "\n" + json.dumps(json.loads(envelope)) + "\n"
    assert read(shown.replace('"command": "render"', '"command": "deploy"')).events[0]["kind"] == "phase"
