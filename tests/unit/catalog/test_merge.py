"""The rule by which values are laid over each other: Helm's own, on what a chart knows."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helm_python import Chart
from hypothesis import given
from hypothesis import strategies as st
from manyhost.catalog import Catalog
from manyhost.catalog.merge import merge
from manyhost.catalog.passthrough import CHART

from tests.helpers.cli import ROOT

DEFAULTS = Catalog(ROOT).chart(CHART).defaults


@cache
def probe() -> Chart:
    """A chart with the defaults of ours, without its schema, that prints the values its templates see."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probe"
        (path / "templates").mkdir(parents=True)
        (path / "Chart.yaml").write_text("apiVersion: v2\nname: probe\nversion: 0.1.0\n")
        (path / "values.yaml").write_text(json.dumps(DEFAULTS))
        (path / "templates/values.yaml").write_text("{{ toRawJson .Values }}")
        return Chart.load(str(path))


def by_helm(values: dict[str, Any]) -> dict[str, Any]:
    files = probe().render(values, name="r", namespace="n")
    found: dict[str, Any] = json.loads(files["probe/templates/values.yaml"])
    found.pop("global", None)
    return found


def set_only(values: Any) -> Any:
    """Leave out null defaults: to templates they are what is not there."""
    if not isinstance(values, dict):
        return values
    return {key: set_only(value) for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"vllm": {"replicaCount": 3, "serverArgs": {"seed": 1}}},
        {"vllm": {"env": [{"name": "A", "value": "b"}]}},
        {"vllm": None},
        {"vllm": {"service": None}},
        {"vllm": {"service": {"ports": {"http": None}}}},
        {"vllm": {}},
        {"vllm": "text"},
        {"volumes": {"hostMounts": None, "shmSize": "1Gi"}},
        {"network": {"subnetworks": []}},
        {"podAnnotations": {"example.com/a.b": "c"}},
    ],
)
def test_it_is_what_helm_does(values: dict[str, Any]) -> None:
    assert set_only(merge(DEFAULTS, values)) == by_helm(values)


def overlays(defaults: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for keys that the chart knows: other ones, nulls, and blocks of some of their keys."""
    other = st.none() | st.booleans() | st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            key: st.none() | overlays(value) if isinstance(value, dict) and value else other
            for key, value in defaults.items()
            if value is not None and value != {}
        },
    )


@given(overlays(DEFAULTS))
def test_it_is_what_helm_does_with_any_values(values: dict[str, Any]) -> None:
    before = copy.deepcopy(DEFAULTS)
    assert set_only(merge(DEFAULTS, values)) == by_helm(values)
    assert before == DEFAULTS


def test_null_takes_away_what_is_there_and_nothing_else() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": None}}) == {"a": {"c": 2}}
