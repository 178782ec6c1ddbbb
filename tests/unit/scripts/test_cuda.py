"""The driver is probed before weights are fetched: what is final, what may pass, what is unknown."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.scripts.members import LAUNCHER

DRIVER = """
int cuDriverGetVersion(int *version) { *version = %d; return 0; }
int cuInit(unsigned flags) { return %d; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
"""


def probe(folder: Path, gpus: int, driver: tuple[int, int, int] | None, torch: str = "") -> tuple[int, str]:
    """Exit status and output of the step, with a driver (version, cuInit, GPUs) and a torch of this kind."""
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    if driver:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler")
        source = folder / "driver.c"
        source.write_text(DRIVER % driver)
        subprocess.run([compiler, "-shared", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    if torch:
        (folder / "torch").mkdir()
        (folder / "torch/__init__.py").write_text("raise SystemExit('an import takes seconds')\n")
        (folder / "torch/version.py").write_text(f"__version__ = '2'\ncuda: Optional[str] = '{torch}'\n")
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        ["python3", "-B", str(LAUNCHER / "manyhost_steps.py"), "cuda", str(gpus)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("driver", "torch", "status", "text"),
    [
        ((12090, 0, 8), "12.9", 0, ""),
        ((12020, 0, 8), "12.9", 0, ""),  # a newer minor version runs on an older driver
        ((12020, 0, 8), "13.0", 78, "driver for CUDA 12.2 is too old for this image, which needs CUDA 13.0"),
        ((12090, 0, 7), "", 78, "driver for CUDA 12.9: 7 of 8 GPUs are there"),
        ((12090, 100, 0), "", 78, "no GPU is there (cuInit 100)"),
        ((12090, 803, 0), "", 78, "driver and library do not fit (cuInit 803)"),
        ((12090, 802, 0), "", 1, "driver for CUDA 12.9: cuInit 802"),  # the fabric manager starts
        (None, "", 0, "no libcuda.so.1 in the library path: GPUs were not probed"),
    ],
)
def test_the_driver(
    tmp_path: Path, driver: tuple[int, int, int] | None, torch: str, status: int, text: str
) -> None:
    code, said = probe(tmp_path, 8, driver, torch)
    assert code == status
    assert text in said
    assert len(said.splitlines()) <= 1
