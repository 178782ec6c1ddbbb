"""Tests of reports take the client's own modules for the statistics of their sample results."""

from __future__ import annotations

import sys

from tests.helpers.helm import ROOT

sys.path.insert(0, str(ROOT / "charts/llm-benchmark/client"))
