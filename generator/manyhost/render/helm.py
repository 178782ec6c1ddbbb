"""Chart + values → manifests, by Helm in process or by its binary, behind one interface."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Protocol

import msgspec

from manyhost.errors import InvalidInput, NotReady
from manyhost.render.refusal import ChartRefusal

_RELEASE = re.compile(r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
_NAMESPACE = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")  # an RFC 1123 label
_TIMEOUT_SECONDS = 60
_SENTENCE_LIMIT = 1500
_TESTS = "/templates/tests/"  # for `helm test`, which makes them itself: no part of what is installed


class HelmEngine(Protocol):
    """What renders a chart."""

    def render(self, values: dict[str, Any], *, release: str, namespace: str) -> str:
        """Return the manifests as one YAML stream, in the order of their template names."""
        ...


def check_names(name: str, namespace: str, limit: int) -> None:
    """Check a release name and a namespace before anything uses them.

    Args:
        name: The release name.
        namespace: Its namespace.
        limit: Most characters that the chart leaves to a release name.

    Raises:
        InvalidInput: When Kubernetes would refuse the namespace, or the names built from the release.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"{namespace[:80]!r} must be at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
            where="namespace",
        )
    if len(name) > limit or not _RELEASE.fullmatch(name):
        plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
        valid = (f"r-{plain}" if plain[:1].isdecimal() else plain)[:limit].strip("-")
        raise InvalidInput(
            f"{name[:80]!r} must be at most {limit} of a-z, 0-9 and -, starting with a letter",
            where="release name",
            fix=f"use {valid or 'llm'!r}",
        )


class InProcess:
    """Helm 4 as a library."""

    def __init__(self, chart: Path) -> None:
        import helm_python  # noqa: PLC0415  80 MB of library, for whoever renders in process

        self._errors = helm_python.HelmError
        try:
            self._chart = helm_python.Chart.load(str(chart))
        except helm_python.HelmError as error:
            raise InvalidInput("; ".join(_problems(str(error))), where=str(chart)) from None

    def render(self, values: dict[str, Any], *, release: str, namespace: str) -> str:
        """Render; InvalidInput carries the chart's own sentence when it refuses the values."""
        try:
            files = self._chart.render(values, name=release, namespace=namespace)
        except self._errors as error:
            raise ChartRefusal(_problems(str(error))) from None
        return _stream(files)


class Binary:
    """A helm binary, version 3 or 4."""

    def __init__(self, chart: Path, binary: str | None = None) -> None:
        self.chart = chart
        self.binary = binary or os.environ.get("HELM", "helm")

    def render(self, values: dict[str, Any], *, release: str, namespace: str) -> str:
        """Render with `helm template`; NotReady when there is no such program or it hangs."""
        import subprocess  # noqa: PLC0415  rendering in process does not pay for these two
        import tempfile  # noqa: PLC0415

        with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
            file.write(msgspec.json.encode(values))
            file.flush()
            command = [self.binary, "template", release, str(self.chart), "-f", file.name, "--skip-tests"]
            try:
                done = subprocess.run(
                    [*command, "--namespace", namespace],
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT_SECONDS,
                    check=False,
                )
            except FileNotFoundError:
                raise NotReady(
                    f"program {self.binary!r} not found", where="helm", fix="install Helm or set HELM"
                ) from None
            except OSError as error:
                raise NotReady(f"cannot be run: {error.strerror}", where=self.binary) from None
            except subprocess.TimeoutExpired:
                raise NotReady(f"no answer within {_TIMEOUT_SECONDS} s", where=self.binary) from None
        if done.returncode:
            raise ChartRefusal(_problems(done.stderr))
        documents = done.stdout.split("\n---\n")
        return _stream(dict(enumerate_documents(documents)))


def enumerate_documents(documents: list[str]) -> list[tuple[str, str]]:
    """Pair each document of a `helm template` stream with the template that its comment names."""
    named = []
    for number, document in enumerate(documents):
        text = document.removeprefix("---\n")
        match = re.match(r"# Source: (\S+)\n", text)
        if match:
            named.append((f"{match.group(1)}#{number:03}", text[match.end() :]))
    return named


def _stream(files: dict[str, str]) -> str:
    """Join rendered files, sorted by name, without notes, tests and empty ones."""
    parts = []
    for name in sorted(files):
        # A template that loops begins each object with a separator: the first would make an empty document.
        text = files[name].strip("\n").removeprefix("---\n")
        path = name.split("#")[0]
        if path.endswith((".yaml", ".yml")) and _TESTS not in path and text.strip():
            parts.append(f"---\n# Source: {path}\n{text}\n")
    return "".join(parts)


def _problems(message: str) -> list[str]:
    """Cut Helm's call chain off: what the chart's own `fail` or the schema said is enough, one text each."""
    message = message.strip()
    if len(message) > _SENTENCE_LIMIT:  # it quotes a value that nobody meant
        message = message[:_SENTENCE_LIMIT] + "..."
    if "error calling fail: " in message:
        return message.rsplit("error calling fail: ", 1)[1].strip().splitlines()
    lines = [line.strip(" ") for line in message.splitlines() if line.strip()]
    if any("the specifications of the schema" in line for line in lines):
        return [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    lines = [line for line in lines if not line.startswith(("Use --debug", "level="))]
    lines = [re.sub(r"^(Error: )?(execution error at \([^)]*\): )?", "", line) for line in lines]
    return lines or ["Helm fails and does not say why"]
