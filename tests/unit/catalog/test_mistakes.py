"""Mistakes in settings: all at once, each with the key and the file of whoever made it."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhost.errors import InvalidInput
from manyhost.render import build

from tests.helpers.cli import RECIPE, manyhost

FILE = "values/local.yaml"


def refused(*assignments: str, local: Path | None = None) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        build(RECIPE, assignments=assignments, local_file=local)
    return [str(error) for error in (caught.value, *caught.value.more)]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        (
            "model.tp_size=16",
            "model.tp_size: is a value of the Helm chart\n  fix: set parallelism.tensor",
        ),
        ("vllm.serverArgs.max-num-seqs=5", "a value of the Helm chart\n  fix: set arguments.max-num-seqs"),
        ("job.image.tag=v1", "--set: job.image.tag: is a value of the Helm chart\n  fix: set engine.tag"),
        ("volumes.gcsMounts[0].bucketName=b", "a value of the Helm chart\n  fix: set site.gcs_bucket"),
        ("clusterName=c", "--set: clusterName: is a value of the Helm chart\n  fix: set site.cluster_name"),
        ("autoscaling.enabled=true", "Helm chart\n  fix: set chart.autoscaling.enabled"),
        ("variables.X=1", "--set: variables.X: expected text, got a whole number\n  fix: quote it"),
        ("node_selector.a/b=true", "--set: node_selector.a/b: expected text, got true or false"),
        ("contxt=", "--set: contxt: unknown key\n  fix: did you mean context?"),
        ("arguments.--max-num-seqs=3", "fix: write arguments.max-num-seqs"),
        ("arguments.nope=1", "--set: arguments.nope: --nope is no flag of vLLM v0.33.0"),
        ("arguments.seed=x", "--set: arguments.seed: --seed takes a whole number, 'x' was given"),
        ("arguments.enforce-eager=5", "--set: arguments.enforce-eager: --enforce-eager takes no value"),
        ("arguments.disable-log-stats=true", "arguments.disable-log-stats: reserved\n  fix: leave it out"),
        ("ssd_host_path=relative", "--set: ssd_host_path: must be an absolute path"),
    ],
)
def test_the_users_own_key_and_words(assignment: str, words: str) -> None:
    (error,) = refused(assignment)
    assert words in error
    assert len(error.splitlines()) <= 2


def test_flags_of_another_file_name_it(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("arguments: {nope: 1}\n")
    assert refused(local=local)[0].startswith("values/local.yaml: arguments.nope: --nope is no flag")


def test_dotted_keys_of_a_file_blame_that_file(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("site.cluster_name: c\nengine.tag: x\n")
    assert refused(local=local) == [
        f"{FILE}: site.cluster_name: unknown key\n  fix: write it nested: site: {{cluster_name: ...}}",
        f"{FILE}: engine.tag: unknown key\n  fix: write it nested: engine: {{tag: ...}}",
    ]


def test_all_unknown_keys_then_all_wrong_types_then_all_that_cannot_work() -> None:
    assert len(refused("contxt=1", "grups=2", "site.regoin=x")) == 3
    assert len(refused("context=x", "groups=0", "variables.A=1", "weights.source=nfs")) == 4
    found = refused("engine.tag=latest", "context=1")
    assert [text.split(": ")[1] for text in found] == ["engine.tag", "context"]
    assert len(refused("arguments.nope=1", "arguments.seed=x")) == 2


def test_the_envelope_lists_all_and_people_read_all() -> None:
    options = ("--set", "arguments.nope=1", "--set", "arguments.seed=x", "--set", "arguments.other=2")
    errors = manyhost("render", "a3mega", *options, "--output", "json").output.envelope["errors"]
    wheres = [error["where"] for error in errors]
    assert sorted(wheres) == ["--set: arguments.nope", "--set: arguments.other", "--set: arguments.seed"]
    assert manyhost("render", "a3mega", *options).err.count("manyhost: --set: ") == 3


def test_what_check_finds_is_in_the_envelope(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(build(RECIPE).manifests_text.replace("--max-num-seqs", "--max-num-seqz"))
    summary, *others = manyhost("check", str(path), "--output", "json").output.envelope["errors"]
    assert summary["message"] == f"{len(others)} errors found"
    assert all("--max-num-seqz is no flag" in error["message"] for error in others)
