"""Shell and Python inside the manifests parse.

Scripts that the chart ships are linted by its own tests and accepted here as they are. Anything
else is compiled if it is Python, or given to the shell check of the caller: this package runs no
program itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Container, Context, ShellCheck, place

SHELLS = frozenset({"sh", "bash", "dash"})


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each script that does not parse or that shellcheck warns about."""
    for item in context.of_kind("ConfigMap"):
        for name, text in (item.get("data") or {}).items():
            if text in context.shipped_scripts:
                continue
            where = f"{place(item)} data[{name}]"
            if name.endswith(".sh") and context.shell:
                yield from _found(where, context.shell(text, _shell_of(text)))
            elif name.endswith(".py"):
                yield from _found(where, python_problems(text))
    if context.shell is None:
        return
    for pod in context.pods:
        for container in pod.containers:
            yield from _check_inline(container, context.shell)


def _check_inline(container: Container, shell_check: ShellCheck) -> Iterator[Finding]:
    commands = {"args": [*(container.body.get("command") or []), *container.arguments]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        commands[probe] = ((container.body.get(probe) or {}).get("exec") or {}).get("command") or []
    for name, hook in (container.body.get("lifecycle") or {}).items():
        commands[f"lifecycle.{name}"] = (hook.get("exec") or {}).get("command") or []
    for field, words in commands.items():
        shell = words[0].rsplit("/", 1)[-1] if words else ""
        if shell not in SHELLS:
            continue
        for index, word in enumerate(words[1:-1], 1):
            if not word.startswith("-"):
                break
            if word.endswith("c"):
                problems = shell_check(words[index + 1], shell)
                yield from _found(f"{container.where}.{field}", problems)
                break


def _found(where: str, problems: Sequence[str]) -> Iterator[Finding]:
    for problem in problems:
        yield Finding("script", where, problem, "correct the script")


def _shell_of(text: str) -> str:
    first = text.partition("\n")[0]
    shell = first.rstrip().replace("/", " ").split(" ")[-1] if first.startswith("#!") else "bash"
    return shell if shell in SHELLS else "bash"


@cache
def python_problems(text: str) -> tuple[str, ...]:
    """Return why a Python script does not compile, nothing if it does."""
    try:
        compile(text, "<script>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return (f"does not compile: {error}",)
    return ()
