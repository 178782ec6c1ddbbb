"""Command lines that messages advise: whole, for the cluster and the release in question, quoted for a shell.

In a fix commands stand in backticks. A fix that is one command and nothing else cures as it stands and
changes no more than the user's own release, namespace and settings; anything else needs a person
(docs/reference/output.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# These render the recipe, so they must get its settings; to the others only where it runs matters.
_RENDERING = {"bench", "deploy", "doctor", "nccl"}


class Commands(NamedTuple):
    """Builds the commands about one release.

    Attributes:
        context: kubeconfig context to name; empty for the current one.
        namespace: Namespace of the release; empty when none is chosen yet.
        recipe: RECIPE as the user has named it.
        release: Its name; empty for the recipe's own.
        settings: The settings on the command line, KEY=VALUE.
    """

    context: str = ""
    namespace: str = ""
    recipe: str = ""
    release: str = ""
    settings: tuple[str, ...] = ()

    def kubectl(self, *words: str, namespace: str | None = None, shell: str = "") -> str:
        """Return a kubectl command.

        Args:
            words: Its words.
            namespace: Another than the release's; empty for what is in none.
            shell: More of the line, taken as it is: variables and pipes.
        """
        inside = self.namespace if namespace is None else namespace
        return line("kubectl", *words, *_option("namespace", inside), *self._context(), shell=shell)

    def helm(self, *words: str) -> str:
        """Return a helm command in the release's namespace."""
        where = (*_option("namespace", self.namespace), *_option("kube-context", self.context))
        return line("helm", *words, *where)

    def manyhost(self, command: str, *words: str) -> str:
        """Return a command of this program about the release.

        Args:
            command: One that takes RECIPE.
            words: Its own options.
        """
        settings = [one for one in self.settings if command in _RENDERING or one.startswith("site.")]
        return manyhost(
            command,
            self.recipe,
            *(word for setting in settings for word in ("--set", setting)),
            *_option("release", self.release),
            *_option("namespace", self.namespace),
            *self._context(),
            *words,
        )

    def discover(self, environment: str) -> str:
        """Return the command that reads the cluster's names into values/local.yaml."""
        return manyhost("discover", environment, *self._context(), "--yes")

    def _context(self) -> tuple[str, ...]:
        return _option("context", self.context)


def manyhost(*words: str) -> str:
    """Return a command of this program, called as the user has called it."""
    return line(program(), *words)


def line(name: str, *words: str, shell: str = "") -> str:
    """Return the command line of a program.

    Args:
        name: The program.
        words: Its words.
        shell: More of the line, taken as it is.
    """
    return f"`{' '.join(part for part in (name, _quoted(words), shell) if part)}`"


def both(first: str, second: str) -> str:
    """Return two commands as one, of which the second runs when the first has done its work."""
    return f"{first[:-1]} && {second[1:]}"


def program() -> str:
    """Return what calls this program again from the same folder: its name, or its path as it was typed."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("manyhost", "__main__.py"):
        return f"{_quoted([sys.executable])} -m manyhost"
    if called.name != "manyhost":
        return "manyhost"  # used as a library
    named = (Path(folder, "manyhost") for folder in os.get_exec_path())
    first = next((path for path in named if os.access(path, os.X_OK)), None)
    return "manyhost" if first and called.exists() and called.samefile(first) else _quoted([sys.argv[0]])


def _option(name: str, value: str) -> tuple[str, ...]:
    return (f"--{name}", value) if value else ()


def _quoted(words: Iterable[str]) -> str:
    import shlex  # noqa: PLC0415  for messages only

    return shlex.join(words)
