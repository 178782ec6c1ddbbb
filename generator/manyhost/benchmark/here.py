"""Measuring from this machine, with the same client as the Job's."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from manyhost.benchmark.bench import Measured
from manyhost.benchmark.evidence import PROGRESS, unpack
from manyhost.errors import Failed, NotReady

_TAIL_LINES = 5


def program() -> tuple[str, ...]:
    """Return what starts vLLM's command line here.

    Raises:
        NotReady: There is none.
    """
    found = shutil.which("vllm")
    if not found:
        raise NotReady(
            "there is no vllm on this machine to send the load with",
            where="PATH",
            fix="leave --runner out",
        )
    return (found,)


class Here:
    """This machine.

    Args:
        client: Folder of the client's scripts.
        url: Of the service.
        metrics: Of each of its engines; those of the URL when empty.
    """

    place: Literal["here"] = "here"

    def __init__(self, client: Path, url: str, metrics: list[str] | None = None) -> None:
        self._client = client
        self.url = url.rstrip("/")
        self.metrics = metrics or [f"{self.url}/metrics"]

    def measure(self, spec: dict[str, Any], report: Callable[[str], None]) -> Measured:
        """Run the client once.

        Raises:
            Failed: It ends without evidence.
        """
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "spec.json")
            path.write_bytes(msgspec.json.encode(spec))
            words = [sys.executable, str(self._client / "measure.py"), str(path)]
            with subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as client:
                try:
                    lines = _follow(client, report)
                except BaseException:
                    client.send_signal(signal.SIGTERM)  # it ends the tool too
                    raise
        evidence = unpack(lines)
        if not evidence:
            said = " / ".join(line.strip() for line in lines[-_TAIL_LINES:])
            raise Failed(f"the client ended with exit code {client.returncode} and no result: {said[:1000]}")
        return Measured(evidence=evidence, deployed=(), node=platform.node())


def _follow(client: subprocess.Popen[str], report: Callable[[str], None]) -> list[str]:
    lines = []
    for line in client.stdout or ():
        lines.append(line)
        if line.startswith(PROGRESS):
            report(line.removeprefix(PROGRESS).rstrip())
    client.wait()
    return lines
