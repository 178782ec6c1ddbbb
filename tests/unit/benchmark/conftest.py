"""The client's scripts lie in the chart; a test imports them as they import each other."""

from __future__ import annotations

import sys

from tests.helpers.helm import ROOT

CLIENT = ROOT / "charts/llm-benchmark/client"
sys.path.insert(0, str(CLIENT))
