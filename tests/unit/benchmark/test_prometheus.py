"""What a real Prometheus says of a release's GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.benchmark.prometheus import expression, figures
from manyhost.errors import RemoteError

from testbed import prometheus
from tests.charts.scraped import Exporter
from tests.helpers.waiting import until

LABELS = 'gpu="{gpu}",{prefix}namespace="{namespace}",{prefix}pod="{pod}"'
# Two GPUs of the release, one of another namespace, one of another release.
GPUS = (
    ("r-0", "n", 40.0), ("r-0-1", "n", 80.0), ("r-0", "other", 1.0), ("r-x-0", "n", 2.0),
)  # fmt: skip


def exposition(prefix: str) -> str:
    lines = []
    for number, (pod, namespace, value) in enumerate(GPUS):
        labels = LABELS.format(gpu=number, prefix=prefix, namespace=namespace, pod=pod)
        lines += [f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} {value}", f"DCGM_FI_DEV_FB_USED{{{labels}}} 2048"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", params=["", "exported_"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that reads an exporter every 200 ms."""
    if prometheus.built() is None:
        pytest.skip("no Prometheus is built: make prometheus")
    text = exposition(request.param)
    exporter = Exporter(lambda _: text)
    target = {"targets": [exporter.address]}
    configuration = {
        "global": {"scrape_interval": "200ms"},
        "scrape_configs": [{"job_name": "dcgm", "static_configs": [target]}],
    }
    with prometheus.Prometheus(tmp_path_factory.mktemp("prometheus"), configuration) as running:
        until("the exporter is read", lambda: running.query("DCGM_FI_DEV_FB_USED"), 30, pause=0.1)
        time.sleep(1)
        yield running.url
    exporter.close()


def test_the_gpus_of_the_release_and_no_others(url: str) -> None:
    now = time.time()
    found = {each.name: each for each in figures(url, "n", "r", now - 5, now)}
    assert set(found) == {"gpu_busy", "gpu_memory_used"}, "what nobody has is left out"
    assert (found["gpu_busy"].mean, found["gpu_busy"].max) == pytest.approx((0.6, 0.6))
    assert (found["gpu_memory_used"].mean, found["gpu_memory_used"].unit) == (2.0, "GiB")
    everything = {each.name: each for each in figures(url, "", "", now - 5, now)}
    assert everything["gpu_busy"].mean == pytest.approx((40 + 80 + 1 + 2) / 400)
    assert figures(url, "n", "absent", now - 5, now) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://127.0.0.1:9/prometheus"])
def test_no_prometheus(address: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="does not answer as a Prometheus") as error:
        figures(address, "n", "r", 0, 60)
    assert address in error.value.where


def test_a_release_is_no_pattern() -> None:
    assert 'pod=~"a\\\\.b(-prefill)?-[0-9].*"' in expression("X", "n", "a.b")
