"""Shell scripts under the shell's own parser and shellcheck, once per text and process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_SECONDS = 30


@cache
def shell_problems(text: str, shell: str) -> tuple[str, ...]:
    """Return what the shell's parser and shellcheck say about a script, nothing if all is well."""
    import shutil  # noqa: PLC0415 - with subprocess 10 ms that manifests of ours never need

    parser = shutil.which(shell) or shutil.which("bash")
    if parser:
        done = _run([parser, "-n"], text)
        if done.returncode:
            return (f"does not parse: {_first_line(done.stderr)}",)
    linter = shutil.which("shellcheck")
    if not linter:
        return ()
    options = [f"--shell={shell}", "--severity=warning", "--format=gcc", "--norc"]
    done = _run([linter, *options, "-"], text)
    return tuple(line.removeprefix("-:") for line in done.stdout.splitlines())


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    import subprocess  # noqa: PLC0415 - see shell_problems

    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=_SECONDS)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
