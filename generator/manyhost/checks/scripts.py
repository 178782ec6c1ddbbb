"""Shell and Python inside the manifests parse.

Scripts that the chart ships are linted by its own tests and accepted here as they are. Anything
else is given to the shell's parser and to shellcheck, once per text and process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, place

if TYPE_CHECKING:
    import subprocess

SHELLS = frozenset({"sh", "bash", "dash"})

_SECONDS = 30


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each script that does not parse or that shellcheck warns about."""
    for item in context.of_kind("ConfigMap"):
        for name, text in (item.get("data") or {}).items():
            if text in context.shipped_scripts:
                continue
            where = f"{place(item)} data[{name}]"
            if name.endswith(".sh"):
                yield from _found(where, shell_problems(text, _shell_of(text)))
            elif name.endswith(".py"):
                yield from _found(where, python_problems(text))
    for pod in context.pods:
        for container in pod.containers:
            yield from _check_inline(container)


def _check_inline(container: Container) -> Iterator[Finding]:
    commands = {"args": [*(container.body.get("command") or []), *container.arguments]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        commands[probe] = ((container.body.get(probe) or {}).get("exec") or {}).get("command") or []
    hook = ((container.body.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}
    commands["lifecycle.preStop"] = hook.get("command") or []
    for field, words in commands.items():
        shell = words[0].rsplit("/", 1)[-1] if words else ""
        if shell not in SHELLS:
            continue
        for index, word in enumerate(words[1:-1], 1):
            if not word.startswith("-"):
                break
            if word.endswith("c"):
                problems = shell_problems(words[index + 1], shell)
                yield from _found(f"{container.where}.{field}", problems)
                break


def _found(where: str, problems: tuple[str, ...]) -> Iterator[Finding]:
    for problem in problems:
        yield Finding("script", where, problem, "correct the script")


def _shell_of(text: str) -> str:
    first = text.partition("\n")[0]
    shell = first.rstrip().replace("/", " ").split(" ")[-1] if first.startswith("#!") else "bash"
    return shell if shell in SHELLS else "bash"


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


@cache
def python_problems(text: str) -> tuple[str, ...]:
    """Return why a Python script does not compile, nothing if it does."""
    try:
        compile(text, "<script>", "exec")
    except (SyntaxError, ValueError) as error:
        return (f"does not compile: {error}",)
    return ()
