"""README.md: what it says has run is what the raw results say."""

from __future__ import annotations

import json

import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.environment import Gke

from tests.docs.markdown import table
from tests.helpers.helm import ROOT

ROWS = table(ROOT / "README.md", "What has run, and where")


@pytest.mark.parametrize(("folder", "gpu"), [("results", "NVIDIA H200"), ("results/answers", "NVIDIA H100")])
def test_the_gpus_are_those_of_the_raw_results(folder: str, gpu: str) -> None:
    (ran,) = (row for row in ROWS if row[0].startswith(f"two {gpu} "))
    files = sorted((ROOT / "benchmarks/gpu" / folder).glob("*.jsonl"))
    for path in files:
        machine = json.loads(path.read_text().partition("\n")[0])
        names = [name.partition(",")[0].removesuffix(" 80GB HBM3") for name in machine["gpus"]]
        assert names == [gpu] * 2
        assert f"vLLM {machine['vllm']}," in ran[1]
        assert path.name[:10] in ran[1]
    assert files


def test_the_comparison_says_that_its_model_is_a_part() -> None:
    (ran,) = (row for row in ROWS if "gpu-comparison" in row[1])
    assert "9 of its 61 layers" in ran[1]
    assert "9 of its 61 layers" in (ROOT / "docs/reference/gpu-comparison.md").read_text()


def test_no_machine_type_of_google_has_been_seen() -> None:
    """Whoever runs one takes it out of the last row, with the results beside it."""
    catalog = Catalog(ROOT)
    (never,) = (row[1] for row in ROWS if row[0] == "never yet")
    for name in catalog.names("environments"):
        environment = catalog.environment(name)
        if isinstance(environment.platform, Gke):
            short = environment.description.split(", ")[1].split(" ")[0]  # a3-megagpu-8g
            family = {"a3-highgpu-8g": "A3 High", "a3-megagpu-8g": "A3 Mega", "a3-ultragpu-8g": "A3 Ultra"}
            told = family.get(short, short.partition("-")[0].upper())
            assert told in never, told
