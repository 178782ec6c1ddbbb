"""Grafana dashboards of charts/observability, made from dashboards.yaml beside this file (make generate)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).with_suffix(".yaml")
TARGET = Path(__file__).resolve().parents[1] / "charts/observability/dashboards"
_COLUMNS = 3
_WIDTH, _HEIGHT = 24 // _COLUMNS, 8  # Grafana's grid has 24 columns
_QUANTILES = {"P50": 0.5, "P90": 0.9, "P99": 0.99}
_GPU = re.compile(r"@gpu:(\w+)@")
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboards() -> dict[Path, bytes]:
    """Return charts/observability/dashboards/<board>.json."""
    boards = yaml.load(SOURCE.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return {
        TARGET / f"{name}.json": (json.dumps(dashboard(name, panels), indent=1) + "\n").encode()
        for name, panels in boards.items()
    }


def dashboard(name: str, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it; the chart fills in its words between at signs."""
    return {
        "uid": f"manyhost-@key@-{name}",
        "title": f"@release@ in @namespace@: {name}",
        "tags": ["manyhost", "@release@"],
        "schemaVersion": 39,  # Grafana 11; newer ones read it
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "title": "@release@",
                "tags": ["manyhost", "@release@"],
                "asDropdown": True,
            }
        ],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": [_panel(number, each) for number, each in enumerate(panels)],
    }


def queries(panel: dict[str, Any]) -> dict[str, str]:
    """Return the PromQL of a panel by its legend."""
    if "percentiles" in panel:
        buckets = f"sum by (le) (rate({panel['percentiles']}_bucket{{@clients@}}[$__rate_interval]))"
        return {text: f"histogram_quantile({share}, {buckets})" for text, share in _QUANTILES.items()}
    return {text: _GPU.sub(lambda match: _gpu(match[1]), query) for text, query in panel["queries"].items()}


def _gpu(metric: str) -> str:
    own = f"{metric}{{namespace='@namespace@',pod=~'@hosts@'}}"
    exported = f"{metric}{{exported_namespace='@namespace@',exported_pod=~'@hosts@'}}"
    return f"max by (Hostname, gpu) ({own} or {exported})"


def _panel(number: int, panel: dict[str, Any]) -> dict[str, Any]:
    share = {"min": 0, "max": 1} if panel["unit"] == "percentunit" else {"min": 0}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["help"],
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel["unit"], **share}, "overrides": []},
        "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(queries(panel).items())
        ],
    }
