"""Runs each test of the bats files as a test of its own: most of its time is waiting, and others run."""

import pathlib
import re
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
TESTS = [
    (path.name, name)
    for path in sorted(HERE.glob("*.bats"))
    for name in re.findall('^@test "(.*)" {$', path.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_bats(file: str, name: str) -> None:
    bats = shutil.which("bats")
    if bats is None:
        pytest.skip("bats is not installed (Debian: apt-get install bats)")
    only = re.sub(r"[][\\.|*+?(){}^$]", r"\\\g<0>", name)  # as bash's [[ =~ ]] reads it
    done = subprocess.run(
        [bats, "--filter", f"^{only}$", str(HERE / file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("1..1\n"), done.stdout
