"""The GPU comparison page is what its generator makes of the raw results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_up_to_date():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_raw_results_name_no_machine_paths():
    for path in (ROOT / "benchmarks" / "gpu" / "results").glob("*.jsonl"):
        assert "/tmp/" not in path.read_text()
