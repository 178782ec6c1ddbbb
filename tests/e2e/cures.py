"""What cures each fault that is planted: the commands that doctor, deploy, status and teardown print are run.

A fix that is a command alone is run as it stands, and afterwards nothing may be wrong. All others need a
person: where the decision of one is a command in the fix, it is run too, and a look must show something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from testbed import gpu_hosts
from tests.e2e.place import Place
from tests.helpers import fixes
from tests.helpers.helm import helm_binaries

How = Literal["command", "person", "tried", "look", "cloud", "words"]

# How each fault of test_doctor.py is cured:
#   command  by the fix, a command alone, which a program may run
#   person   by the first command in the fix, once somebody has decided that it may be run
#   tried    so too, or by a setting that the fix names: test_the_fix_cures has what that takes
#   look     by somebody else; its commands show where to look
#   cloud    by what costs money, or is on the internet: its commands are parsed and not run
#   words    by what no command can do
BY_FAULT: dict[str, How] = {
    "a network is missing": "look",
    "a parameter set is missing": "look",
    "a network in the wrong mode": "look",
    "a network of the wrong type": "look",
    "no multi-networking": "cloud",
    "a gVNIC that takes a GPU's slot": "look",
    "hosts cordoned": "person",
    "hosts tainted": "look",
    "hosts with lost GPUs": "look",
    "hosts with unhealthy GPUs": "look",
    "hosts that are not attached to a network": "cloud",
    "parameters of a network that are not ready": "look",
    "a network that is not ready": "look",
    "a network of which nothing is known": "look",
    "hosts in different zones": "look",
    "hosts in different blocks": "look",
    "a driver older than the image's CUDA": "tried",
    "a LimitRange with a low maximum": "tried",
    "a LimitRange with a high minimum": "person",
    "a LimitRange with a ratio": "tried",
    "a quota of objects": "tried",
    "a mutating webhook that is down": "look",
    "a validating webhook that is down": "look",
    "a policy that denies everything": "tried",
    "an LWS that Helm's next upgrade would take away": "tried",
    "an old LWS of Helm": "cloud",
    "hosts occupied": "look",
    "hosts of another type": "words",
    "the injector is not there": "person",
    "the installer waits": "look",
    "plugin and daemon apart": "person",
    "an old LWS": "cloud",
    "no LWS controller": "person",
    "a webhook that does not answer": "look",
}
# The manifest at the address in the fix is not to be had in tests; the test cluster has one of its own.
_MANIFESTS = {"the injector is not there": "device-injector"}
_LOOKS = re.compile(
    r"kubectl (get|describe|logs|auth can-i|cluster-info)\b|\S*manyhost (status|doctor|logs|explain) "
)


class Shell:
    """A shell with the programs that fixes name, on the cluster of $KUBECONFIG.

    Args:
        place: The cluster.
        folder: An empty one, for PATH.
    """

    def __init__(self, place: Place, folder: Path) -> None:
        programs = {
            "kubectl": Path(place.kubectl),
            "manyhost": Path(sys.executable).with_name("manyhost"),
            "helm": next(iter(helm_binaries().values()), None),
        }
        for name, program in programs.items():
            if program:
                (folder / name).symlink_to(program)
        self._path = f"{folder}:{os.environ['PATH']}"

    def __call__(self, command: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command line, say yes when it asks, and return what it prints.

        Args:
            command: The line.
            codes: The exit codes that it may have.
        """
        done = subprocess.run(
            ["bash", "-c", command], input="y\n", capture_output=True, text=True, check=False, timeout=180,
            env={**os.environ, "PATH": self._path, "HF_TOKEN": "hf_of_the_tests"},
        )  # fmt: skip
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def looks(self, fix: str) -> str:
        """Run the commands of a fix that only look; return what they show."""
        looks = [command for command in fixes.commands(fix) if _LOOKS.match(command)]
        assert looks, f"nothing to look at: {fix}"
        shown = [self(command, codes=(0, 4) if "manyhost " in command else (0,)) for command in looks]
        assert all(text.strip() for text in shown), looks
        return "\n".join(shown)


def cure(name: str, fix: str, shell: Shell, well: Callable[[], None], folder: Path) -> None:
    """Do what a fix says as far as a command can, and hold the fix to the table.

    Args:
        name: The fault.
        fix: What doctor says about it.
        shell: Runs commands.
        well: Asserts that nothing is wrong any more.
        folder: For a manifest.
    """
    assert name in BY_FAULT, "say in BY_FAULT what cures it"
    how, commands = BY_FAULT[name], fixes.commands(fix)
    assert fixes.cures(fix) is (how == "command"), fix
    assert bool(commands) is (how != "words"), fix
    if how in {"command", "person"}:
        command = commands[0]
        if name in _MANIFESTS:
            manifest = folder / "manifest.json"
            items = gpu_hosts.system_objects()
            (item,) = (item for item in items if item["metadata"]["name"] == _MANIFESTS[name])
            manifest.write_text(json.dumps(item))
            command = re.sub(r"https://\S+", str(manifest), command)
        shell(command)
        well()
    elif how == "look":
        shell.looks(fix)
    elif how == "cloud":
        assert any("gcloud " in command or "https://" in command for command in commands), fix
