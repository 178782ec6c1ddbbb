"""Recipes as the operator of NVIDIA Dynamo takes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.render import Renderer
from manyhost.render.graph import dynamo_yaml

from tests.helpers.cli import ROOT, manyhost, tree
from tests.helpers.recipes import on_kubernetes
from tests.helpers.shared import shared_dir
from tools.extract_kubernetes_schemas import strict

CATALOG = Catalog(ROOT)
DYNAMO = CATALOG.dynamo()
# The newest version of the engine that a release of Dynamo serves with and that ran on GPUs.
PAIRED = "engine.version=v0.26.0"
APART = ("a3ultra/deepseek-r1-671b", PAIRED, "roles.prefill.groups=2")
BUCKET = ("a3ultra/deepseek-r1-671b", PAIRED, "site.gcs_bucket=my-bucket", "weights.source=bucket")
NEWEST = [
    name
    for name in on_kubernetes(CATALOG)
    if CATALOG.recipe_document(name)["engine"] == {"version": "v0.33.0", "executor": "mp"}
]
CASES = [*((name, PAIRED) for name in NEWEST), APART, BUCKET]
Graph = dict[str, Any]


@cache
def render(recipe: str, *assignments: str) -> str:
    rendered = Renderer(CATALOG).render(resolve(CATALOG, recipe, assignments=list(assignments)))
    return dynamo_yaml(rendered, DYNAMO, CATALOG.names("engines/vllm")).decode()


def graph(*case: str) -> Graph:
    *_, found = yaml.safe_load_all(render(*case))
    return found  # type: ignore[no-any-return]


def components(*case: str) -> dict[str, Graph]:
    return {component["name"]: component for component in graph(*case)["spec"]["components"]}


def main(component: Graph) -> Graph:
    first, *_ = component["podTemplate"]["spec"]["containers"]
    assert first["name"] == "main"
    return first  # type: ignore[no-any-return]


@cache
def pod_template() -> Any:
    known = json.loads((ROOT / "generator/manyhost/checks/kubernetes.json").read_text())
    return jsonschema_rs.validator_for({"$ref": "#/$defs/core.v1.PodTemplateSpec", "$defs": known["$defs"]})


@cache
def custom_resource() -> Any:
    """The operator's own schema, closed: the API server would drop a field that it does not know."""
    shared = shared_dir()
    if not shared:
        pytest.skip("../shared is not here")
    (path,) = shared.glob("crds/dynamographdeployments.nvidia.com.dynamo-2026-*.yaml")
    crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    (version,) = (each for each in crd["spec"]["versions"] if each["storage"])
    assert version["name"] == "v1beta1"
    schema = strict(version["schema"]["openAPIV3Schema"], set())
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_kubernetes_and_the_operator_know_every_field(case: tuple[str, ...]) -> None:
    for component in graph(*case)["spec"]["components"]:
        pod_template().validate(component["podTemplate"])
    custom_resource().validate(graph(*case))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_hosts_gpus_and_sizes_are_the_plans(case: tuple[str, ...]) -> None:
    plan = Renderer(CATALOG).plan(resolve(CATALOG, case[0], assignments=list(case[1:])))
    found = components(*case)
    assert list(found) == ["Frontend", *(role.name for role in plan.roles)]
    for role in plan.roles:
        component = found[role.name]
        assert component["replicas"] == role.groups
        assert component.get("multinode", {"nodeCount": 1}) == {"nodeCount": role.hosts}
        limits = main(component)["resources"]["limits"]
        assert limits["nvidia.com/gpu"] * role.hosts == role.ranks
        words = " ".join([*main(component)["command"], *main(component)["args"]])
        assert "python3 -m dynamo.vllm --model " in words
        assert f" --tensor-parallel-size {role.parallelism.tensor} " in words
        assert f" --max-model-len {plan.settings.context} " in words
        assert component["sharedMemorySize"] == f"{plan.environment.host.shm_gib}Gi"


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_nothing_of_the_launcher_and_nothing_secret_is_left(case: tuple[str, ...]) -> None:
    text = render(*case)
    assert "launch.sh" not in text
    assert "control" not in text.replace("controller", "")
    for component in graph(*case)["spec"]["components"]:
        container = main(component)
        names = [entry["name"] for entry in container["env"]]
        assert len(set(names)) == len(names)
        assert not [name for name in names if name.startswith("MANYHOST_") and "_SET_" not in name]
        assert not {"readinessProbe", "livenessProbe", "startupProbe"} & container.keys(), "the operator's"
        assert container["image"] == f"{DYNAMO.image}:1.4.1"
        pod = component["podTemplate"]["spec"]
        mounted = {
            mount["name"]
            for each in [*pod["containers"], *pod.get("initContainers", [])]
            for mount in each.get("volumeMounts", [])
        }
        assert {volume["name"] for volume in pod.get("volumes", [])} == mounted


def test_prefill_and_decode_are_components_of_their_own() -> None:
    found = components(*APART)
    assert [component["type"] for component in found.values()] == ["frontend", "prefill", "decode"]
    for name, role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        words = main(found[name])["args"]
        assert words[words.index("--disaggregation-mode") + 1] == name
        transfer = json.loads(words[words.index("--kv-transfer-config") + 1])
        assert (transfer["kv_connector"], transfer["kv_role"]) == ("NixlConnector", role)
        assert words[words.index("--dyn-reasoning-parser") + 1] == "deepseek_r1"
        assert "--reasoning-parser" not in words


def test_the_frontend_reads_the_tokenizer_where_weights_are_staged() -> None:
    frontend, serve = components(*BUCKET).values()
    (mount,) = main(frontend)["volumeMounts"]
    assert mount["readOnly"]
    words = main(serve)["args"]
    assert words[words.index("--model") + 1].startswith(f"{mount['mountPath']}/")
    assert frontend["podTemplate"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    plain = components("a3ultra/deepseek-r1-671b", PAIRED)["Frontend"]
    assert "volumes" not in plain["podTemplate"]["spec"]
    assert "metadata" not in plain["podTemplate"]


def test_over_tcpxo_the_daemon_and_its_script_come_along() -> None:
    scripts, found = yaml.safe_load_all(render("a3mega/deepseek-r1-671b", PAIRED))
    assert list(scripts["data"]) == ["tcpxo-daemon.sh"]
    _, serve = found["spec"]["components"]
    (daemon,) = serve["podTemplate"]["spec"]["initContainers"]
    assert daemon["restartPolicy"] == "Always"
    assert "networking.gke.io/interfaces" in serve["podTemplate"]["metadata"]["annotations"]
    assert found["metadata"]["annotations"] == {
        "nvidia.com/enable-grove": "false",
        "nvidia.com/vllm-distributed-executor-backend": "mp",
    }


def test_the_engine_starts_with_the_profile_and_the_settings_that_win_over_it(tmp_path: Path) -> None:
    container = main(
        components(
            "a3mega/deepseek-r1-671b", PAIRED, 'network.nccl={"NCCL_DEBUG":"INFO"}', "variables.MINE=a b"
        )["serve"]
    )
    profile = tmp_path / "profile.sh"
    profile.write_text("export NCCL_FROM_PROFILE=1 NCCL_DEBUG=WARN\n")
    (tmp_path / "python3").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$NCCL_FROM_PROFILE" "$NCCL_DEBUG" "$MINE" "$@"\n'
    )
    (tmp_path / "python3").chmod(0o755)
    env = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    words = [
        word.replace("/usr/local/nvidia/lib64/nccl-env-profile.sh", str(profile))
        for word in container["args"]
    ]
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", *words], env=env | own, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[:7] == ["1", "INFO", "a b", "-m", "dynamo.vllm", "--model", "deepseek-ai/DeepSeek-R1"]
    profile.unlink()
    gone = subprocess.run(["bash", *words], env=env | own, capture_output=True, text=True, check=False)
    assert gone.returncode != 0, "slow sockets in silence"


REFUSED: list[tuple[tuple[str, ...], str, str]] = [
    (
        ("a4/deepseek-r1-671b", "engine.version=v0.33.0"),
        r"engine\.version: no Dynamo serves with vLLM v0\.33\.0: the nearest, 1\.6\.1, serves with v0\.31\.0",
        r"^use one of: v0\.31\.0, v0\.26\.0$",
    ),
    (
        ("local/tiny-r1",),
        r"no Dynamo serves with vLLM v0\.32\.0-cpu",
        "v0.26.0",
    ),
    (
        ("a3mega/deepseek-r1-671b", PAIRED, "roles.prefill.groups=1"),
        r"roles\.prefill\.groups: prefill and decode cannot be apart over tcpxo: NIXL has no TCPXO transport",
        "one engine over all hosts",
    ),
    (
        ("a4/deepseek-r1-671b", PAIRED, "arguments.chat-template=x"),
        r"arguments\.chat-template: is a flag of vLLM's own HTTP server",
        "remove it",
    ),
    (
        ("a4/deepseek-r1-671b", PAIRED, 'engine.command=["bash"]'),
        r"engine\.command: Dynamo starts its own engine",
        "leave it out",
    ),
    (
        ("a4/deepseek-r1-671b", PAIRED, "routing=inferencepool", "gateway.name=g", "gateway.picker.name=p"),
        "routing: Dynamo has a router of its own",
        "service",
    ),
    (("runpod-h200/single-host",), "runpod-h200 is no Kubernetes", "leave it out"),
]


@pytest.mark.parametrize(("case", "message", "fix"), REFUSED, ids=[" ".join(case) for case, *_ in REFUSED])
def test_what_dynamo_cannot_serve_is_refused_with_the_reason(
    case: tuple[str, ...], message: str, fix: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        render(*case)
    assert re.search(fix, caught.value.fix)


def test_one_kind_of_files_lies_in_a_folder(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    for form, names in (
        ("dynamo", ["dynamo.yaml", "plan.json", "topology.svg"]),
        ("helm", ["manifests.yaml", "plan.json", "topology.svg", "values.yaml"]),
        ("dynamo", ["dynamo.yaml", "plan.json", "topology.svg"]),
    ):
        assert manyhost("render", "a3mega", "--set", PAIRED, "--as", form, *out).code == 0
        assert sorted(tree(tmp_path)) == names
    own = manyhost(
        "render", "a3mega", "--as", "dynamo", "--set", PAIRED, "--set", "engine.image=example.com/own", *out
    )
    assert "the image example.com/own is not used" in own.err
    refused = manyhost("render", "a4", "--as", "dynamo", *out)
    assert refused.code == 3
    assert sorted(tree(tmp_path)) == ["dynamo.yaml", "plan.json", "topology.svg"]


def test_the_document_has_the_pairs() -> None:
    text = (ROOT / "docs/how-to/dynamo.md").read_text()
    told = [
        tuple(row) for row in re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| (?:up to )?([\d.]+) \|", text, re.M)
    ]
    assert told == [(pair.dynamo, pair.vllm.removeprefix("v"), pair.nixl) for pair in DYNAMO.pairs]
