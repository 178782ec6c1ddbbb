"""manyhost check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhost.catalog import Catalog, Engine
from manyhost.catalog.engine import TITLES, known_version, version_in
from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.errors import Failed, InvalidInput

if TYPE_CHECKING:
    from manyhost.checks import Allowance

RESULT = {
    "files": "the files that were checked",
    "findings": "file, check, severity (error or warning), where, message, fix and flag of each",
}

ENGINE_NAME = "MANYHOST_ENGINE_NAME"  # the chart's, of an engine other than vLLM


@click.command(name="check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--engine", "version", default="", metavar="VERSION", help="Check flags of this version of the engine."
)
@click.option(
    "--env", "environment", default="", metavar="NAME", help="Allow pods what this environment allows."
)
@output_option
def command(files: tuple[Path, ...], version: str, environment: str, output: Printer) -> None:
    """Check rendered manifests: schemas, GPU arithmetic, flags, names, references, secrets, pod security.

    The engine version and the environment are read from the manifests when not given; where they
    name no environment, pods are held to the Pod Security baseline.

    Example: manyhost check build/a3mega/deepseek-r1-671b/manifests.yaml
    """
    import msgspec

    from manyhost import checks
    from manyhost.render import Renderer
    from manyhost.render.shell import shell_problems

    catalog = Catalog()
    renderer = Renderer(catalog)
    findings: list[tuple[Path, checks.Finding]] = []
    for path in files:
        text, objects = _read(path)
        name, image, tag = _image(objects)
        known = catalog.names(f"engines/{name}")
        engine = version or known_version(tag, known)
        place = environment or _environment(objects)
        allowed = _allowed(catalog, place, objects) if place else checks.Allowance("baseline")
        if version:
            catalog.engine(version, name)
        found = checks.run(
            objects,
            flags=renderer.flag_table(catalog.engine(engine, name)) if engine else None,
            environment_level=allowed,
            shell=shell_problems,
            shipped_scripts=renderer.shipped_scripts(),
            manifests_text=text,
        )
        if version and (other := _other_version(tag, catalog.engine(version, name), image)):
            found.insert(0, checks.Finding("engine-version", f"image {image}:{tag}", *other))
        findings += [(path, finding) for finding in found]
        if tag and not engine:
            output.warn(
                f"flags and executor are not checked: nobody here knows which {TITLES[name]} {tag[:80]!r} is",
                where=str(path),
                fix=f"add --engine and one of {', '.join(known)}",
            )
    output.result(
        {
            "files": [str(path) for path in files],
            "findings": [
                {"file": str(path), **msgspec.structs.asdict(finding)} for path, finding in findings
            ],
        },
        (f"{path}: {finding.severity}: {finding}" for path, finding in findings),
    )
    errors = [
        InvalidInput(finding.message, where=f"{path}: {finding.where}", fix=finding.fix)
        for path, finding in findings
        if finding.severity == "error"
    ]
    if errors:
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''} found"
        # People have read them above.
        raise InvalidInput(count, where="check", more=errors if output.as_json else ())
    output.text(f"{len(files)} file{'s' if len(files) > 1 else ''} checked: nothing wrong")


def _read(path: Path) -> tuple[str, list[dict[str, Any]]]:
    from manyhost.catalog.yaml_reader import parse_stream

    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InvalidInput("file not found", where=str(path)) from None
    except UnicodeDecodeError:
        raise InvalidInput("not a UTF-8 text file", where=str(path)) from None
    except OSError as error:
        raise Failed(f"cannot be read: {error.strerror}", where=str(path)) from None
    objects = parse_stream(text, str(path))
    if not objects:
        raise InvalidInput("holds no Kubernetes object", where=str(path))
    return text, objects


def _find(objects: list[dict[str, Any]], *keys: str) -> Any:
    """Return what lies under the keys in the first LeaderWorkerSet; None when there is nothing."""
    sets = [item for item in objects if item.get("kind") == "LeaderWorkerSet"]
    return _below(sets[0], *keys) if sets else None


def _below(item: Any, *keys: str) -> Any:
    for key in keys:
        item = item.get(key) if isinstance(item, dict) else None
    return item


def _environment(objects: list[dict[str, Any]]) -> str:
    """Return the first environment that an object is labelled with, an empty string for none."""
    named = (_below(item, "metadata", "labels", "manyhost.dev/environment") for item in objects)
    return next((value for value in named if isinstance(value, str)), "")


def _allowed(catalog: Catalog, name: str, objects: list[dict[str, Any]]) -> Allowance:
    """Return what an environment allows over any interconnect, with the settings that the pods show."""
    from manyhost.plan import security
    from manyhost.render import allowance

    spec = _find(objects, "spec", "leaderWorkerTemplate", "workerTemplate", "spec")
    pod = spec if isinstance(spec, dict) else {}
    volumes = pod.get("volumes") if isinstance(pod.get("volumes"), list) else []
    names = [str(volume.get("name")) for volume in volumes or [] if isinstance(volume, dict)]
    environment = catalog.environment(name)
    found = [
        security.allowed(
            environment,
            catalog.interconnect(fabric),
            on={"ssd_host_path"} | ({"network.host_network"} if pod.get("hostNetwork") else set()),
            mounts=[volume.removeprefix("host-") for volume in names if volume.startswith("host-")],
            exemptions=catalog.exemptions(),
        )
        for fabric in environment.interconnects
    ]
    return allowance(security.either(found))


def _other_version(tag: str, engine: Engine, image: str) -> tuple[str, str] | None:
    """Say that a stock image is another version than was asked for; nobody knows that of one's own."""
    found = version_in(tag)
    if image.removeprefix("docker.io/") != engine.image or found in ("", version_in(engine.version)):
        return None
    return (
        f"is {TITLES[engine.name]} {found}, not {engine.version}",
        "leave --engine out, or render for that version",
    )


def _image(objects: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Return the engine's name, its image without tag, and its tag."""
    containers = _find(objects, "spec", "leaderWorkerTemplate", "workerTemplate", "spec", "containers")
    for container in containers if isinstance(containers, list) else []:
        if isinstance(container, dict) and container.get("name") == "vllm":
            told = container.get("env")
            variables = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
            engine = next((one.get("value") for one in variables if one.get("name") == ENGINE_NAME), "vllm")
            image, _, tag = str(container.get("image", "")).partition("@")[0].rpartition(":")
            known = engine if engine in TITLES else "vllm"
            return (known, image, tag) if "/" not in tag else (known, "", "")
    return "vllm", "", ""
