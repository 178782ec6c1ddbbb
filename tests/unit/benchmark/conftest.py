"""The client's scripts lie in the chart; a test imports them as they import each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from manyhost.benchmark import gate, spec

from tests.helpers.helm import ROOT

CLIENT = ROOT / "charts/llm-benchmark/client"
sys.path.insert(0, str(CLIENT))
FAKES = Path(__file__).parent / "fakes"


@pytest.fixture
def fake_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{FAKES}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other checks are the subject; how exact this busy machine is, is not."""
    monkeypatch.setattr(gate, "BUDGET_MS", 1000.0)
    monkeypatch.setattr(gate, "_SATURATED", 100.0)
    monkeypatch.setattr(spec, "_CALIBRATION_REQUESTS", 2)
