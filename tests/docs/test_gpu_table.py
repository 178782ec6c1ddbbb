"""The pages of GPU results are what their generators make of the raw results."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


PAGES = ["table.py", "answers/page.py", "slice/page.py", "slice/stage_page.py", "disaggregated/page.py"]


@pytest.mark.parametrize("script", PAGES)
def test_page_is_up_to_date(script):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_raw_results_name_no_machine_paths():
    for path in (ROOT / "benchmarks" / "gpu" / "results").rglob("*.jsonl"):
        assert "/tmp/" not in path.read_text()
