"""Bad input: the exit code, the words of the message, and that nothing is left behind or changed.

Every case starts from a folder with an older render, which must be the same bytes afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from manyhost.catalog.settings import VARIABLES
from manyhost.errors import Failed
from manyhost.output import write_files

from tests.helpers.cli import RECIPE, checkout, manyhost, tree

OLD = {
    "values.yaml": b"old values\n",
    "manifests.yaml": b"old\n",
    "plan.json": b"{}",
    "topology.svg": b"<svg/>",
}
LINES = 6  # usage errors of click take four and a blank one


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a build folder with an older render."""
    folder = tmp_path / "work" / "build"
    folder.mkdir(parents=True)
    for name, content in OLD.items():
        (folder / name).write_bytes(content)
    return folder


def _fails(out: Path, code: int, words: tuple[str, ...], *arguments: str) -> str:
    before = tree(out.parent)
    ran = manyhost(*arguments)
    assert ran.code == code, ran
    for word in words:
        assert word in ran.err, ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= LINES, ran.err
    assert len(ran.err) < 2500
    assert ran.out == ""
    assert tree(out.parent) == before, "something was left behind or changed"
    return ran.err


def _name(value: object) -> str:
    """Return a short test name for a row of a table."""
    return value[-40:] if isinstance(value, str) else ""


# ------------------------------------------------------------------------ command line
USAGE = [
    ((), 2, ("Usage: manyhost",)),
    (("frobnicate",), 2, ("No such command 'frobnicate'",)),
    (("render",), 2, ("Missing argument 'RECIPE'",)),
    (("render", "a3mega", "more"), 2, ("unexpected extra argument (more)",)),
    (("render", "a3mega", "--frob"), 2, ("No such option '--frob'",)),
    (("render", "a3mega", "--set"), 2, ("Option '--set' requires an argument",)),
    (("render", "a3mega", "--output", "xml"), 2, ("--output", "xml", "text", "json")),
    (("render", "a3mega", "--set", "context"), 2, ("--set: 'context' is not of the form key=value",)),
    (("render", "a3mega", "--set", "=5"), 2, ("not of the form key=value",)),
    (("explain",), 2, ("Missing argument 'KEY'",)),
    (("explain", "contxt", "a3mega"), 3, ("contxt: unknown key", "did you mean context?")),
    (("check",), 2, ("Missing argument 'FILES",)),
    (("render", "a3mgea"), 3, ("unknown environment 'a3mgea'", "did you mean a3mega?")),
    (("render", ""), 3, ("unknown environment ''", "choose one of: ", "a3mega")),
    (("render", "../../etc/passwd"), 3, ("unknown environment '..'",)),
    (("render", "x" * 10_000), 3, ("unknown environment 'xxx",)),
    (("render", "a\nb"), 3, ("unknown environment 'a\\nb'",)),
    (("render", "a3mega/nope"), 3, ("RECIPE: environment a3mega has no recipe 'nope'",)),
    (("render", "a3mega/../local"), 3, ("has no recipe '../local'",)),
    (("render", "a3mega/" + "x" * 10_000), 3, ("has no recipe 'xxx",)),
    (("render", "a3mega", "--model", "gpt"), 3, ("unknown model 'gpt'", "choose one of")),
    (("render", "local", "--model", "deepseek-r1-671b"), 3, ("MODEL: environment local has no recipe",)),
    (("render", "a3mega", "--release", "jane_doe"), 3, ("release name: 'jane_doe'", "use 'jane-doe'")),
    (("render", "a3mega", "--release", "9lives"), 3, ("fix: use 'r-9lives'",)),
    (("render", "a3mega", "--release", "x" * 46), 3, ("must be at most 45",)),
    (("render", "a3mega", "--release", "9lives"), 3, ("starting with a letter",)),
    (("render", "a3mega", "--release", "r1", "--namespace", "My_Space"), 3, ("namespace: 'My_Space'",)),
    (("render", "a3mega", "--namespace", ""), 3, ("namespace: ''",)),
]


@pytest.mark.parametrize(("arguments", "code", "words"), USAGE)
def test_command_line(arguments: tuple[str, ...], code: int, words: tuple[str, ...], out: Path) -> None:
    extra = ("--out", str(out)) if arguments[:1] == ("render",) and code == 3 else ()
    before = tree(out.parent)
    if not arguments:
        ran = manyhost()
        assert ran.code in (0, 2)
        assert words[0] in ran.out + ran.err
        return
    _fails(out, code, words, *arguments, *extra)
    assert tree(out.parent) == before


# ----------------------------------------------------------------------------- settings
SETTINGS = [
    # wrong types
    ("context=abc", "--set: context: expected a whole number, got text"),
    ("context=1.5", "context: expected a whole number, got a decimal number"),
    ("context='5'", "context: expected a whole number, got text"),
    ("context=true", "context: expected a whole number, got true or false"),
    ("context=[1]", "context: expected a whole number, got a list"),
    ("context={a: 1}", "--set: context: expected a whole number, got a mapping"),
    ("context=-1", "context: expected a whole number of at least 1"),
    ("context=0", "context: expected a whole number of at least 1"),
    ("context=1e5", "context: expected a whole number, got text"),
    ("context=1000000", "is more than the model's 163840"),
    ("context=999999999999999999999999999", "--set: context: expected a whole number of at most 2147483647"),
    ("context=null", "--set: context: required key is missing"),
    ("context=", "context: required key is missing"),
    ("groups=0", "groups: expected a whole number of at least 1"),
    ("groups=1.0", "groups: expected a whole number, got a decimal number"),
    ("groups=10000000", "--set: groups: expected a whole number of at most 1000"),
    (
        "startup_seconds=9223372036854775807",
        "startup_seconds: expected a whole number of at most 86400",
    ),
    ("drain_seconds=9223372036854775807", "--set: drain_seconds: expected a whole number of at most 86400"),
    ("stall_seconds=9223372036854775807", "--set: stall_seconds: expected a whole number of at most 86400"),
    ("roles.prefill.groups=1001", "roles.prefill.groups: expected a whole number of at most 1000"),
    ("parallelism.tensor=99999", "parallelism.tensor: expected a whole number of at most 4096"),
    ("parallelism.data=99999", "parallelism.data: expected a whole number of at most 4096"),
    ("roles.decode.tensor=99999", "roles.decode.tensor: expected a whole number of at most 4096"),
    ("objectives.ttft_ms=99999999999", "objectives.ttft_ms: expected a whole number of at most 86400000"),
    ("arguments.max-num-seqs=1000001", "arguments.max-num-seqs: must be at most 1000000"),
    ("chart.lifecycle.peerWaitSeconds=1", "is written from startup_seconds"),
    ("chart.autoscaling.maxReplicas=9999999999", "autoscaling.maxReplicas"),
    # what the traffic and the weights need
    ("context=1999", "--set: context: 1000 + 1000 tokens of a typical request"),
    ("traffic.input_tokens=40000", "--set: traffic.input_tokens: 40000 + 1000 tokens of a typical request"),
    ("weights={source: folder, path: /data/r1}", "--set: weights.path: no mount holds /data/r1"),
    ("drain_seconds=soon", "drain_seconds: expected a whole number, got text"),
    ("start_attempts=11", "start_attempts: expected a whole number of at most 10"),
    ("startup_seconds=-1", "startup_seconds: expected a whole number of at least 0"),
    ("utilization=2", "utilization: expected a number of at most 1.0"),
    ("utilization=.nan", "utilization: is not a finite number"),
    ("utilization=.inf", "utilization: is not a finite number"),
    ("engine=5", "--set: engine: expected a mapping, got a whole number"),
    ("engine.version=5", "engine.version: expected text, got a whole number"),
    ("engine.command=vllm", "engine.command: expected a list, got text"),
    ("engine.command=[]", "engine.command: expected a list, length of at least 1"),
    ("engine.command=[1]", "engine.command[0]: expected text, got a whole number"),
    ("engine.digest=abc", "engine.digest: must be sha256: and 64"),
    ("engine.executor=slurm", "choose one of: mp, ray"),
    ("weights.source=nfs", "choose one of: auto, hub, bucket, folder"),
    ("arguments=5", "arguments: expected a mapping, got a whole number"),
    ("variables.A=5", "--set: variables"),
    ("network.nccl=[]", "network.nccl: expected a mapping, got a list"),
    ("network.nccl.NCCL_DEBUG=5", "--set: network.nccl"),
    ("network.subnetworks=default", "network.subnetworks: expected a list, got text"),
    ("node_selector=5", "node_selector: expected a mapping, got a whole number"),
    ("host_mounts=[{name: a}]", "host_mounts[0].host_path: required key is missing"),
    (
        "host_mounts=[{name: A_B, host_path: /a, mount_path: /b}]",
        "host_mounts[0].name: is no name: at most 63",
    ),
    (
        "host_mounts=[{name: a, host_path: a, mount_path: /b}]",
        "host_mounts[0].host_path: must be an abs",
    ),
    # unknown keys
    ("contxt=5", "contxt: unknown key\n  fix: did you mean context?"),
    ("engine.versio=v1", "engine.versio: unknown key\n  fix: did you mean engine.version?"),
    ("site.bucket=x", "site.bucket: unknown key"),
    ("a.b.c.d.e=x", "unknown key"),
    ("HF_TOKEN=hf_abc", "create the Kubernetes Secret hf-secret instead"),
    ("..=x", "unknown key"),
    # broken YAML and values that JSON does not have
    ("context=5: 6: 7", "not valid YAML: mapping values are not allowed"),
    ("context=[", "not valid YAML"),
    ("arguments.seed=*x", "undefined alias"),
    ("arguments.seed=&a [*a]", "too deep or too many values"),
    ("arguments.seed=!!python/object:os.system x", "could not determine a constructor"),
    ("arguments.seed=2026-01-01", "a value of type date is no setting; put it in quotes"),
    ("arguments.seed=2026-99-99", "month must be in 1..12"),
    ("arguments.seed=!!binary aGk=", "a value of type bytes"),
    ("arguments.hf-overrides={1: 2}", "the name 1 is no text"),
    ("arguments.hf-overrides={a: .nan}", "is not a finite number"),
    # names that do not exist
    ("engine.version=v9.9.9", "--set: engine.version: unknown engine.version 'v9.9.9'"),
    ("engine.version=../../x", "unknown engine.version"),
    ("model=gpt", "--set: model: unknown model 'gpt'"),
    ("chart={vllm: {}}", "--set: chart.vllm: names no value"),
    ("environment=locl", "--set: environment: unknown environment 'locl'\n  fix: did you mean local?"),
    ("environment=local", "computes on GPUs, and a host has no GPUs"),
    ("network.interconnect=gib", "has no interconnect 'gib'"),
    # what cannot work
    ("parallelism.tensor=3", "128 attention heads cannot be divided by tensor 3"),
    ("parallelism.pipeline=1", "does not fit: a GPU offers"),
    ("parallelism.pipeline=100", "cannot fill 100 pipeline stages"),
    ("parallelism.data=2", "data parallel ranks cannot span hosts"),
    ("engine.executor=ray", "does not contain Ray"),
    ("network.subnetworks=[a, b]", "has 9 networks"),
    ("weights.source=bucket", "set GCS_BUCKET"),
    ("weights.path=relative", "has no effect when weights come from the hub"),
    ("ssd_host_path=relative", "--set: ssd_host_path: must be an absolute path"),
    ("arguments.port=9000", "arguments.port: is set by manyhost itself"),
    ("arguments.nope=1", "--nope is no flag of vLLM v0.33.0"),
    ("arguments.max-num-seqs=many", "--max-num-seqs takes a whole number"),
    ("arguments.max-num-seqs=-1", "arguments.max-num-seqs: must be a whole number from 1"),
    ("arguments.max_num_seqs=5", "write max-num-seqs"),
    (
        "arguments.--seed=1",
        "arguments.--seed: flags are written without dashes",
    ),
    ("arguments.=1", "--set: arguments.: flags are written"),
    ("arguments.kv-cache-dtype=int3", "use one of: auto, fp8, fp8_e4m3"),
    ("variables.1A=x", "--set: variables.1A: is no name of a variable"),
    ("site.gcs_bucket=gs://weights", "is no bucket name"),
]


@pytest.mark.parametrize(("assignment", "words"), SETTINGS, ids=lambda value: value[:40])
def test_settings(assignment: str, words: str, out: Path) -> None:
    err = _fails(out, 3, (words,), "render", "a3mega", "--out", str(out), "--set", assignment)
    assert err.startswith("manyhost: ")


# ------------------------------------------------------------- hostile text in every setting
HOSTILE = {
    "quotes": "a\"b'c",
    "newline": "a\nb: c",
    "template": "{{ .Values.model }}",
    "jinja": "{% raw %}{{ 7*7 }}",
    "command": "$(id)`id`",
    "mapping": "a: b",
    "comment": "a #b",
    "nul": "a\0b",
    "rtl": "\u202egnp.exe",
    "emoji": "\U0001f600",
    "escape": "\x1b[31mred",
    "surrogate": "a\udcffb",
    "separator": "a\u2028b\x85c",
    "long": "x" * 10_000,
    "path": "../../../../etc/passwd",
    "space": " ",
}
TEXTS = [  # every setting that takes free text, by the key that --set writes
    "description",
    "engine.image",
    "engine.tag",
    "site.project_id",
    "site.region",
    "site.cluster_region",
    "site.cluster_name",
    "site.gcs_bucket",
    "site.artifact_registry",
    "ssd_host_path",
    "weights.path",
    "variables.X",
    "network.nccl.NCCL_X",
    "node_selector.x",
    "arguments.seed",
    "arguments.chat-template",
]


def _quoted(text: str) -> str:
    raw = json.dumps(text, ensure_ascii=False)
    return raw.replace("\u2028", "\\u2028").replace("\x85", "\\x85")  # YAML would take them for line breaks


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("key", TEXTS)
def test_hostile_text(key: str, kind: str, out: Path) -> None:
    """It is refused in a few lines, or every byte of it reaches the files as data."""
    import yaml

    text = HOSTILE[kind]
    before = tree(out.parent)
    ran = manyhost("render", "a3mega", "--out", str(out), "--set", f"{key}={_quoted(text)}")
    assert "Traceback" not in ran.err
    assert len(ran.err) < 2500
    if ran.code:
        assert ran.code == 3, ran
        assert len(ran.err.splitlines()) <= LINES
        assert tree(out.parent) == before
        return
    assert sorted(tree(out)) == sorted(OLD)
    assert kind not in ("nul", "surrogate")
    values = yaml.load((out / "values.yaml").read_text(), Loader=yaml.CSafeLoader)
    if key == "variables.X":
        assert {"name": "X", "value": text} in values["vllm"]["env"]
    if key == "arguments.chat-template":
        assert values["vllm"]["serverArgs"]["chat-template"] == text
    for document in yaml.load_all((out / "manifests.yaml").read_text(), Loader=yaml.CSafeLoader):
        assert document["apiVersion"]
    json.loads((out / "plan.json").read_text())
    assert "uid=" not in (out / "manifests.yaml").read_text()


@pytest.mark.parametrize("kind", [k for k in HOSTILE if k != "nul"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_hostile_variables(variable: str, kind: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, HOSTILE[kind])
    before = tree(out.parent)
    ran = manyhost("render", "a3mega", "--out", str(out))
    assert ran.code in (0, 3)
    assert "Traceback" not in ran.err
    assert len(ran.err) < 2500
    assert len(ran.err.splitlines()) <= LINES
    if ran.code:
        assert tree(out.parent) == before


# -------------------------------------------------------------------------- files of a site
LOCALS = [
    (b"contxt: 5\n", "values/local.yaml: contxt: unknown key"),
    (b"context: 5\ncontext: 6\n", "values/local.yaml:2: not valid YAML: duplicate key 'context'"),
    (b"context: [5\n", "not valid YAML"),
    (b"- context\n", "values/local.yaml: must be a mapping of names to values"),
    (b"\xff\xfe\n", "values/local.yaml: not a UTF-8 text file"),
    (b"#" * (2 << 20), "is too large for a settings file"),
    (b"site: 5\n", "values/local.yaml: site: expected a mapping, got a whole number"),
    (b"site: {hf_token: hf_abc}\n", "create the Kubernetes Secret hf-secret instead"),
    (b"1: 2\n", "the name 1 is no text"),
    (b"groups: 0\n", "values/local.yaml: groups: expected a whole number of at least 1"),
]


@pytest.mark.parametrize(("content", "words"), LOCALS, ids=_name)
def test_local_file(
    content: bytes, words: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "local.yaml"
    path.write_bytes(content)
    monkeypatch.setenv("MANYHOST_LOCAL", str(path))
    _fails(out, 3, (words,), "render", "a3mega", "--out", str(out))


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.yaml", "MANYHOST_LOCAL: "), ("", "Is a directory"), ("x" * 5000, "file not found")],
)
def test_local_file_that_is_not_there(
    name: str, words: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYHOST_LOCAL", str(tmp_path / name))
    _fails(out, 3, (words,), "render", "a3mega", "--out", str(out))


BROKEN = [
    (f"recipes/{RECIPE}/recipe.yaml", b"", "required key is missing"),
    (f"recipes/{RECIPE}/recipe.yaml", b"model: [", f"recipes/{RECIPE}/recipe.yaml:"),
    (f"recipes/{RECIPE}/recipe.yaml", None, "unknown recipe 'a3mega/deepseek-r1-671b'"),
    ("values/environments/a3mega.yaml", b"name: a3mega\n", "environments/a3mega.yaml: "),
    ("values/environments/a3mega.yaml", None, "unknown environment 'a3mega'"),
    ("values/models/deepseek-r1-671b.yaml", b"name: [\n", "values/models/deepseek-r1-671b.yaml:"),
    ("values/models/deepseek-r1-671b.yaml", None, "unknown model 'deepseek-r1-671b'"),
    ("values/engines/vllm/v0.33.0.yaml", b"\xff", "v0.33.0.yaml: not a UTF-8 text file"),
    ("values/engines/vllm/0.33.0.flags.yaml", b"a: [", "0.33.0.flags.yaml: cannot be read"),
    ("values/engines/vllm/0.33.0.flags.yaml", None, "0.33.0.flags.yaml: cannot be read"),
    ("values/interconnects/tcpxo.yaml", None, "unknown interconnect 'tcpxo'"),
    ("charts", None, "charts/llm-multihost"),
]


@pytest.mark.parametrize(
    ("file", "content", "words"), BROKEN, ids=lambda v: v[-24:] if isinstance(v, str) else ""
)
def test_files_of_the_checkout(
    file: str,
    content: bytes | None,
    words: str,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = checkout(tmp_path / "checkout", monkeypatch)
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(content)
    _fails(out, 3, (words,), "render", "a3mega", "--out", str(out))


# ---------------------------------------------------------------------------- output folder
def test_a_file_in_place_of_the_folder(out: Path) -> None:
    target = out / "values.yaml"
    _fails(out, 1, (f"{target}: cannot be written: ",), "render", "a3mega", "--out", str(target))
    _fails(out, 1, ("Not a directory",), "render", "a3mega", "--out", str(target / "below"))


def test_a_dangling_link_in_place_of_the_folder(out: Path) -> None:
    link = out.parent / "link"
    link.symlink_to(out.parent / "nowhere")
    _fails(out, 1, ("cannot be written",), "render", "a3mega", "--out", str(link))


@pytest.mark.parametrize("folder", ["/proc/1/none", "/dev/null/x", "/proc/manyhost"])
def test_places_where_nobody_can_write(folder: str, out: Path) -> None:
    _fails(out, 1, (f"{folder}: cannot be written",), "render", "a3mega", "--out", folder)


def test_a_name_that_is_too_long(out: Path) -> None:
    _fails(out, 1, ("cannot be written: File name too long",), "render", "a3mega", "--out", "x" * 300)


@pytest.mark.parametrize(
    "arguments",
    [
        ("render", "a3mega", "--out"),
        ("report", "run", "--to"),
        ("evaluate", "run", "--to"),
        ("collect", "a3mega", "--to"),
        ("plan", "qwen3-8b", "--picture"),
        ("runpod", "observe", "runpod-h200/single-host", "--to"),
    ],
)
def test_an_address_is_no_place_on_this_machine(
    arguments: tuple[str, ...], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)
    words = (f"{arguments[-1]}: gs:/", "cannot be written", "fix: name a place on this machine")
    _fails(out, 3, words, *arguments, "gs://bucket/a.svg")


def test_results_go_into_a_bucket_of_google_or_a_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    words = ("--to: s3://bucket/runs cannot be written", "fix: gs://BUCKET/FOLDER or a folder")
    _fails(out, 3, words, "bench", "a3mega", "--dry-run", "--to", "s3://bucket/runs")


def test_a_picture_whose_name_is_too_long(out: Path) -> None:
    _fails(out, 1, ("File name too long",), "plan", "qwen3-8b", "--picture", str(out / ("x" * 250 + ".svg")))


def test_a_nul_in_the_folder(out: Path) -> None:
    before = tree(out.parent)  # no program gets one from its command line, but a library does
    with pytest.raises(Failed, match=r"cannot be written: .*embedded null"):
        write_files(Path(f"{out}\0x"), {"values.yaml": b""})
    assert tree(out.parent) == before


def test_a_folder_in_place_of_one_file_leaves_the_others_alone(out: Path) -> None:
    (out / "topology.svg").unlink()
    (out / "topology.svg").mkdir()
    _fails(out, 1, ("cannot be written",), "render", "a3mega", "--out", str(out))


def test_a_new_folder_is_removed_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    target = str(out.parent / "new" / "folder")
    _fails(out, 1, ("No space left on device",), "render", "a3mega", "--out", target)


def test_a_disk_that_fills_up_leaves_the_old_files(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real = Path.write_bytes
    written = []

    def write_bytes(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    _fails(out, 1, ("cannot be written: No space left on device",), "render", "a3mega", "--out", str(out))


def test_an_interrupt_leaves_the_old_files(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    _fails(out, 130, ("manyhost: interrupted",), "render", "a3mega", "--out", str(out))


# ----------------------------------------------------------------------------------- helm
def test_a_helm_that_does_not_exist(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELM", "/nowhere/helm")
    words = ("helm: program '/nowhere/helm' not found", "install Helm or set HELM")
    _fails(out, 4, words, "render", "a3mega", "--out", str(out), "--helm")


def test_a_helm_that_is_no_program(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = out.parent / "helm"
    path.write_text("no program")
    monkeypatch.setenv("HELM", str(path))
    _fails(out, 4, (str(path),), "render", "a3mega", "--out", str(out), "--helm")


def test_a_helm_that_fails(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = out.parent / "helm"
    path.write_text("#!/bin/sh\necho 'Error: chart is broken' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("HELM", str(path))
    _fails(out, 3, ("chart: chart is broken",), "render", "a3mega", "--out", str(out), "--helm")


# ---------------------------------------------------------------------------------- check
MANIFESTS = [
    (b"", 3, "holds no Kubernetes object"),
    (b"a: [", 3, "not valid YAML"),
    (b"- 1\n- 2\n", 3, "document 1 is not a Kubernetes object"),
    (b"just words", 3, "document 1 is not a Kubernetes object"),
    (b"\xff\xfe", 3, "not a UTF-8 text file"),
    (b"a: 1\n", 3, "found"),
    (b"apiVersion: 5\nkind: [1]\nmetadata: x\n", 3, "found"),
    (b"apiVersion: v1\nkind: Service\n", 3, "found"),
    (b"kind: LeaderWorkerSet\nspec: 5\n", 3, "found"),
    (
        b"kind: LeaderWorkerSet\nspec: {leaderWorkerTemplate: {workerTemplate: {spec: {containers: 5}}}}\n",
        3,
        "found",
    ),
    (b"a: " + b"[" * 20_000, 3, "not valid YAML"),
    (b"a: " + b"[" * 200 + b"]" * 200, 3, "too deep"),
    (b"metadata: {creationTimestamp: 2026-01-01}\n", 3, "put it in quotes"),
    (b"1: x\n", 3, "put it in quotes"),
]


@pytest.mark.parametrize(("content", "code", "words"), MANIFESTS, ids=lambda v: str(v)[:24])
def test_check_of_what_is_no_manifest(content: bytes, code: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    ran = manyhost("check", str(path))
    assert ran.code == code
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= LINES


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.yaml",), 3, "none.yaml: file not found"),
        (("/",), 1, "cannot be read: Is a directory"),
        (("x" * 5000,), 1, "File name too long"),
    ],
)
def test_check_of_files_that_are_not_there(arguments: tuple[str, ...], code: int, words: str) -> None:
    ran = manyhost("check", *arguments)
    assert ran.code == code
    assert words in ran.err


@pytest.mark.parametrize(
    ("labels", "volume", "errors"),
    [
        ("{}", "emptyDir: {}", []),
        ("{manyhost.dev/environment: a3mega}", "hostPath: {path: /sys}", []),
        ("{}", "hostPath: {path: /sys}", ["hostPath volume sys"]),
    ],
)
def test_check_of_a_privileged_job(labels: str, volume: str, errors: list[str], tmp_path: Path) -> None:
    """Held against its environment, or the baseline where it names none."""
    path = tmp_path / "m.yaml"
    path.write_text(
        f"""
apiVersion: batch/v1
kind: Job
metadata: {{name: load, labels: {labels}}}
spec:
  template:
    spec:
      restartPolicy: Never
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      volumes: [{{name: sys, {volume}}}]
      containers:
        - name: load
          image: example.com/load:1
          securityContext: {{privileged: true}}
          volumeMounts: [{{name: sys, mountPath: /sys}}]
"""
    )
    ran = manyhost("check", str(path))
    assert ran.code == 3
    refused = [
        line.rpartition(" is not allowed")[0] for line in ran.out.splitlines() if "not allowed" in line
    ]
    assert sorted(line.split(": ")[-1] for line in refused) == [
        "hostNetwork",
        *errors,
        "privileged container load",
    ]


def test_check_with_an_unknown_engine_or_environment(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    ran = manyhost("check", "--engine", "v9", str(path))
    assert (ran.code, "unknown engine version 'v9'" in ran.err) == (3, True)
    ran = manyhost("check", "--env", "nope", str(path))
    assert (ran.code, "unknown environment 'nope'" in ran.err) == (3, True)


# ------------------------------------------------------------------- as a program of its own
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("render",), 2, "Missing argument 'RECIPE'"),
        (("render", "nope"), 3, "unknown environment 'nope'"),
        (("render", "a3mega", "--set", "context=x"), 3, "--set: context: expected a whole number, got text"),
        (("render", "a3mega", "--out", "/dev/null/x"), 1, "cannot be written"),
    ],
)
def test_as_a_program(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manyhost", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == {}


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m manyhost list | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
