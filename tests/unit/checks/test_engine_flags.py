"""Flag tables and the check of engine arguments against them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from manyhost.checks import FlagTable
from manyhost.checks.engine_flags import RESERVED

from tests.helpers.helm import CHART, ROOT
from tests.helpers.sample import container, findings, flags, pods, sample
from tests.helpers.shared import shared_dir

VERSIONS = ("0.7.3", "0.26.0", "0.32.0-cpu", "0.33.0")
TYPES = {"int", "float", "str", "bool", "json", "json_or_str", "human_int", "human_int_or_auto"}
KEYS = {"type", "choices", "negatable", "negative", "aliases", "list", "repeat", "optional"}


def messages(*words: str, version: str = "0.26.0") -> list[str]:
    """Return what the check says about these words behind the flags of the sample."""
    from manyhost.checks import run

    objects = sample()
    for template in pods(objects):
        container(template)["args"] = ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"]
        container(template)["args"] += words
    found = run(objects, flags=flags(version))
    return sorted(
        {
            f"{f.message}; {f.fix}".removesuffix(f"; see vLLM {version}")
            for f in found
            if f.check == "engine-flag"
        }
    )


# ------------------------------------------------------------------------------ tables
@pytest.mark.parametrize("version", VERSIONS)
def test_tables_are_well_formed_and_small(version: str) -> None:
    source = ROOT / "values" / "engines" / "vllm" / f"{version}.flags.yaml"
    text = source.read_text()
    assert len(text) < 40_000
    assert f"=={version.removesuffix('-cpu')}." in text.splitlines()[1]
    table = flags(version).flags
    assert len(table) > 100
    for name, flag in table.items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name), name
        assert flag["type"] in TYPES, name
        assert set(flag) <= KEYS, name


@pytest.mark.parametrize("version", VERSIONS)
def test_no_spelling_means_two_flags(version: str) -> None:
    table = flags(version)
    count = sum(
        1 + bool(flag.get("negatable")) + len(flag.get("negative", ())) + len(flag.get("aliases", ()))
        for flag in table.flags.values()
    )
    assert len(table.spellings) == count


@pytest.mark.parametrize("version", ["0.7.3", "0.33.0"])
def test_tables_hold_every_flag_of_an_independent_listing(version: str) -> None:
    folder = shared_dir()
    listing = folder / "data" / f"vllm_flags_{version}.txt" if folder else Path("/nonexistent")
    if not listing.exists():
        pytest.skip("no reference data beside the checkout")
    wanted = set()
    for line in listing.read_text().splitlines():
        if line.startswith("-"):
            wanted |= {word for word in line.split("|")[0].split() if word.startswith("--")}
    wanted.discard("--help")
    spellings = set(flags(version).spellings)
    assert wanted <= spellings
    # The listing leaves out spellings that the parser hides from its help.
    hidden = {s for s in spellings - wanted if s.startswith("--") and not s.startswith("--no-")}
    assert hidden == set()


def test_facts_about_versions() -> None:
    old, current = flags("0.7.3").flags, flags("0.26.0").flags
    assert "nnodes" not in old
    assert current["nnodes"]["type"] == "int"
    assert old["enable-prefix-caching"] == {"type": "bool", "negatable": True}
    assert old["load-format"]["choices"][:2] == ["auto", "pt"]
    assert current["max-model-len"]["type"] == "human_int_or_auto"
    assert current["gpu-memory-utilization"]["type"] == "float"
    assert "-tp" in current["tensor-parallel-size"]["aliases"]


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "0.7.3"])
def test_engines_know_the_flags_of_the_launch_script(version: str) -> None:
    script = (CHART / "launcher" / "launch.sh").read_text()
    for name in RESERVED - {"model"}:
        assert f"--{name} " in script.replace("\n", " ").replace(")", " "), name
        assert name in flags(version).flags


# ------------------------------------------------------------------------------- check
@pytest.mark.parametrize(
    "words",
    [
        ["--max-model-len", "32k"],
        ["--max-model-len", "auto"],
        ["--max-model-len=32768"],
        ["--gpu-memory-utilization", "0.9"],
        ["--trust-remote-code"],
        ["--no-enable-prefix-caching"],
        ["--served-model-name", "a", "b"],
        ["--hf-overrides", '{"a": [1, 2]}'],
        ["--hf-overrides", '{"a": "$$HOME"}'],
        ["--hf-overrides.rope_theta", "10000"],
        ["--kv-cache-dtype", "fp8"],
        ["--api-server-count", "2"],
        ["-q", "fp8"],
    ],
    ids=" ".join,
)
def test_accepted(words: list[str]) -> None:
    assert messages(*words) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sed", "1"], "--sed is no flag of vLLM 0.26.0; did you mean --seed?"),
        (["--zzz"], "--zzz is no flag of vLLM 0.26.0; remove it"),
        (
            ["--no-disable-log-stats"],
            "--disable-log-stats cannot be switched off with --no-disable-log-stats in vLLM 0.26.0;"
            " leave the flag out",
        ),
        (["--seed", "1.5"], "--seed takes a whole number, '1.5' was given"),
        (["--seed", "1e+06"], "--seed takes a whole number, '1e+06' was given"),
        (["--seed"], "--seed needs a value (int)"),
        (["--seed", "1", "2"], "--seed takes one value, 2 were given"),
        (
            ["--max-model-len", "1.5K"],
            "--max-model-len takes a whole number such as 32768 or 32k, or auto, '1.5K' was given",
        ),
        (["--gpu-memory-utilization", "most"], "--gpu-memory-utilization takes a number, 'most' was given"),
        (["--trust-remote-code", "false"], "--trust-remote-code takes no value, 'false' was given"),
        (["--no-trust-remote-code=x"], "--no-trust-remote-code takes no value, 'x' was given"),
        (["--hf-overrides", "{a: 1}"], "--hf-overrides takes JSON or a word, '{a: 1}' was given"),
        (["--compilation-config", "fast"], "--compilation-config takes JSON, 'fast' was given"),
        (["--seed.x", "1"], "--seed.x is no flag of vLLM 0.26.0; did you mean --seed?"),
        (["--port", "1"], "--port is set by the launch script; remove it"),
        (["--seed", "1", "--seed", "2"], "--seed is given twice; keep one of them"),
        (["-tp", "8"], "--tensor-parallel-size is given twice; keep one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_refused(words: list[str], message: str) -> None:
    assert messages(*words) == [message]


def test_a_choice_is_named_when_it_is_near() -> None:
    (message,) = messages("--dtype", "bfloat61")
    assert message.startswith("--dtype cannot be 'bfloat61': did you mean bfloat16?")


def test_a_switch_of_0_7_3_takes_true_and_false() -> None:
    assert messages("--enable-chunked-prefill=False", version="0.7.3") == []
    assert messages("--enable-chunked-prefill", version="0.7.3") == []
    assert messages("--enable-chunked-prefill=maybe", version="0.7.3") != []
    assert messages("--no-enable-chunked-prefill", version="0.7.3") != []


def test_a_hand_written_serve_command_is_checked_too() -> None:
    objects = sample()
    for template in pods(objects):
        body = container(template)
        flags_given = body["args"]
        body["command"] = ["vllm", "serve"]
        body["args"] = ["deepseek-ai/DeepSeek-R1", "--port", "8000", *flags_given]
    assert findings(objects) == []
    for template in pods(objects):
        container(template)["args"].append("--prot")
    assert {f.check for f in findings(objects)} == {"engine-flag"}


def test_arguments_of_an_unknown_command_are_left_alone() -> None:
    objects = sample()
    for template in pods(objects):
        container(template)["command"] = ["/opt/other-engine"]
        container(template)["args"] = ["--anything", "goes"]
    assert "engine-flag" not in {f.check for f in findings(objects)}


def test_table_accepts_a_plain_mapping() -> None:
    table = FlagTable("1", {"x": {"type": "bool", "negatable": True, "negative": ["disable-x"]}})
    assert table.spellings == {
        "--x": ("x", False),
        "--no-x": ("x", True),
        "--disable-x": ("x", True),
    }
