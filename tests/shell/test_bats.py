"""Runs the bats files, all at once: most of their time is waiting."""

import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.timeout(180)
def test_bats() -> None:
    bats = shutil.which("bats")
    if bats is None:
        pytest.skip("bats is not installed (Debian: apt-get install bats)")
    runs = {
        path.name: subprocess.Popen(
            [bats, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for path in sorted(HERE.glob("*.bats"))
    }
    output = {name: run.communicate()[0] for name, run in runs.items()}
    failed = [output[name] for name, run in runs.items() if run.returncode]
    assert not failed, "\n".join(failed)
