"""The Helm in process, Helm 3 and Helm 4 give the same objects and the same errors."""

import subprocess

import helm_python.chart
import pytest

from tests.helpers.helm import CHART, RenderError, fabric, helm_binaries, merge, nest, render

CASES = {
    "defaults": {},
    "everything": merge(
        fabric(),
        nest("gpuPlatformSettings.useHostPlugin", False),
        nest("volumes.gcsMounts", [{"bucketName": "weights", "onlyDir": "r1"}]),
        nest("podDisruptionBudget.enabled", True),
        {"autoscaling": {"enabled": True, "minReplicas": 2}},
        nest("vllm.serverArgs", {"big": 1_000_000, "map": {"x": 1e6, "y": None}, "off": False}),
    ),
    "hosts without GPUs": {"host": {"gpus": 0, "networks": []}, "model": {"tp_size": 1}},
    "empty values": {"clusterName": None, "vllm": {"serverArgs": {"max-model-len": None}}},
}
WRONG = {
    "arithmetic": nest("model.tp_size", 3),
    "unknown key": nest("vllm.what", 1),
    "gone key": nest("network.subnetworks[]", ["a"]),
}
BINARIES = sorted(helm_binaries()) or [
    pytest.param("helm", marks=pytest.mark.skip(reason="no Helm binary, run make tools"))
]


@pytest.mark.parametrize("engine", BINARIES)
@pytest.mark.parametrize("case", CASES)
def test_objects_are_the_same(engine, case):
    assert render(CASES[case], "x", "n", engine) == render(CASES[case], "x", "n")


@pytest.mark.parametrize("engine", BINARIES)
@pytest.mark.parametrize("case", WRONG)
def test_errors_say_the_same(engine, case):
    with pytest.raises(RenderError) as in_process:
        render(WRONG[case])
    with pytest.raises(RenderError) as binary:
        render(WRONG[case], engine=engine)
    last = str(in_process.value).strip().splitlines()[-1].partition("): ")[2]
    assert (last or "what") in str(binary.value)


def test_lint_in_process():
    report = helm_python.chart.lint(CHART, {}, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


COMMITTED = sorted((CHART.parents[1] / "recipes").glob("*/*/values.yaml"))


@pytest.mark.parametrize("engine", BINARIES)
@pytest.mark.parametrize("values", [None, *COMMITTED], ids=lambda p: p.parent.name if p else "defaults")
def test_lint(engine, values):
    command = [str(helm_binaries()[engine]), "lint", "--strict", str(CHART)]
    command += ["-f", str(values)] if values else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
