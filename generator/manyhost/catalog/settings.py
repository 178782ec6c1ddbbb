"""Merges a recipe with the settings of a site, and remembers where each value came from.

Precedence: --set, then environment variables, then values/local.yaml, then the recipe.
All four address the same keys, those of catalog.recipe.Recipe. In values/local.yaml a key that is the name of
an environment holds settings for its recipes alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from manyhost.catalog import mistakes, passthrough, yaml_reader
from manyhost.catalog.engine import TITLES
from manyhost.catalog.keys import OPEN, Key, Layer, keys, known_keys
from manyhost.catalog.loader import LOCAL_FILE, Catalog
from manyhost.catalog.merge import merge
from manyhost.catalog.paths import at, nested
from manyhost.catalog.recipe import Recipe
from manyhost.errors import InvalidInput, WrongUsage, first, nearest

# The names of the published recipe (AI-Hypercomputer/gpu-recipes, inference/a3mega/deepseek-r1-671b).
VARIABLES = {
    "PROJECT_ID": "site.project_id",
    "REGION": "site.region",
    "CLUSTER_REGION": "site.cluster_region",
    "CLUSTER_NAME": "site.cluster_name",
    "GCS_BUCKET": "site.gcs_bucket",
    "ARTIFACT_REGISTRY": "site.artifact_registry",
    "VLLM_IMAGE": "engine.image",
    "VLLM_VERSION": "engine.version",
}
__all__ = ["VARIABLES", "Key", "Origins", "Resolved", "keys", "known_keys", "resolve"]

Origins = dict[str, list[tuple[str, Any]]]


class Resolved(msgspec.Struct, frozen=True):
    """A recipe with all settings applied.

    Attributes:
        name: <environment>/<recipe>.
        recipe: The merged, validated recipe.
        origins: For every dotted key, its (origin, value) pairs, weakest first; the last one is in force.
    """

    name: str
    recipe: Recipe
    origins: Origins

    def origin(self, key: str) -> str:
        """Return where the value of a dotted key came from; "default" when nobody set it."""
        for candidate in (key, *(k for k in self.origins if k.startswith(f"{key}."))):
            if candidate in self.origins:
                return self.origins[candidate][-1][0]
        return "default"

    def blamed(self, keys: Iterable[str]) -> str:
        """Return the one of several keys that contradict each other that was set last, by the precedence."""
        return max(keys, key=lambda key: _rank(self.origin(key)))


def _rank(origin: str) -> int:
    """Return how strong an origin is: a recipe and what lies below it are the weakest."""
    stronger = ("--engine ", LOCAL_FILE, "environment variable ", "--set")
    return next((rank for rank, start in enumerate(stronger, 1) if origin.startswith(start)), 0)


def resolve(
    catalog: Catalog,
    name: str,
    *,
    variables: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    local_file: Path | None = None,
    document: dict[str, Any] | None = None,
    changes: Layer | None = None,
) -> Resolved:
    """Merge a recipe with values/local.yaml, environment variables and --set assignments.

    Args:
        catalog: Where the recipe is read from.
        name: <environment>/<recipe>.
        variables: Environment variables; only the names in VARIABLES are looked at.
        assignments: Texts "key=value"; the value is read as YAML, null removes the key.
        local_file: The site's settings file; a missing one is no error.
        document: The recipe itself, where it is not the catalog's.
        changes: What a command sets in the recipe by itself, with how errors name the command.

    Raises:
        InvalidInput: When a key is unknown or a value has the wrong type.
        WrongUsage: When an assignment is not of the form key=value.
    """
    document = catalog.recipe_document(name) if document is None else document
    over = [("--set", assigned(catalog, text)) for text in assignments]
    layers: list[Layer] = [(f"recipes/{name}/recipe.yaml", document), *([changes] if changes else [])]
    if local_file is not None and os.path.lexists(local_file):
        environment = next((layer["environment"] for _, layer in over[::-1] if "environment" in layer), "")
        layers += _local_layers(catalog, local_file, environment or document.get("environment", ""))
    for variable, key in VARIABLES.items():
        if value := (variables or {}).get(variable, ""):
            yaml_reader.check_plain(value, f"environment variable {variable}")
            layers.append((f"environment variable {variable}", _nest(key, value)))
    layers += over
    if unknown := mistakes.unknown(layers, catalog):
        raise first(unknown)
    layers = _defaults(catalog, layers) + layers

    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = merge(merged, layer)
    _keep_removals(merged, layers)
    recipe = _converted(merged, layers)
    resolved = Resolved(name=name, recipe=recipe, origins=_origins(layers))
    _check_placeholders(resolved)
    passthrough.check(recipe.chart, resolved.origin, catalog)
    return resolved


def _check_placeholders(resolved: Resolved) -> None:
    """Refuse <CLUSTER_NAME> and the like: commands of a documentation, pasted as they are."""
    given = {f"site.{name}": value for name, value in msgspec.structs.asdict(resolved.recipe.site).items()}
    given["engine.image"] = resolved.recipe.engine.image
    for key, value in given.items():
        if value.strip().startswith("<") and value.strip().endswith(">"):
            origin = resolved.origin(key)
            variable = origin.rpartition("environment variable ")[2]
            fix = f"set what it stands for, or unset {variable}" if variable in VARIABLES else ""
            raise InvalidInput(f"{value[:80]!r} is a placeholder", where=f"{origin}: {key}", fix=fix)


def _converted(merged: dict[str, Any], layers: list[Layer]) -> Recipe:
    """Return the recipe; InvalidInput with every value of a wrong type, in the words of who wrote it."""
    try:
        return msgspec.convert(merged, Recipe)
    except msgspec.ValidationError as error:
        if wrong := mistakes.wrong(layers):
            raise first(wrong) from None
        key, message = yaml_reader.explain(error)
        plain = re.sub(r"\[[^\]]*\]", "", key)
        raise InvalidInput(message, where=f"{_set_by(layers, plain)}: {key[:200]}") from None


def _keep_removals(merged: dict[str, Any], layers: list[Layer]) -> None:
    """Put back the nulls of a role's own arguments: each takes away a flag that all groups have."""
    for role in ("prefill", "decode"):
        found: dict[str, Any] = {}
        for layer in [*(layer for _, layer in layers), merged]:
            below = at(layer, f"roles.{role}.arguments")
            if isinstance(below, dict):
                found |= below
        if found and isinstance(below, dict):
            below |= {name: None for name, value in found.items() if value is None}


def _local_layers(catalog: Catalog, path: Path, environment: str) -> list[Layer]:
    """Return the settings of a site: those for all environments, then those below the name of this one."""
    document = dict(yaml_reader.read_mapping(path, LOCAL_FILE))
    sections = {name: document.pop(name) for name in catalog.names("environments") if name in document}
    own = sections.get(environment)
    if own is not None and not isinstance(own, dict):
        raise InvalidInput("must be a mapping of names to values", where=f"{LOCAL_FILE}: {environment}")
    return [(LOCAL_FILE, document), (f"{LOCAL_FILE}: {environment}", own or {})]


def _origins(layers: list[Layer]) -> Origins:
    """Return who set each dotted key to what, weakest first."""
    found: Origins = {}

    def walk(layer: dict[str, Any], origin: str, prefix: str) -> None:
        for name, value in layer.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict) and value:
                walk(value, origin, f"{key}.")
            elif value != {} or not any(known.startswith(f"{key}.") for known in found):
                found.setdefault(key, []).append((origin, value))

    for origin, layer in layers:
        walk(layer, origin, "")
    return found


def _defaults(catalog: Catalog, layers: list[Layer]) -> list[Layer]:
    """Return the layers below the recipe: arguments that its model and engine version want."""
    version = model = environment = None
    name: object = "vllm"
    for _, layer in layers:
        engine = layer.get("engine")
        if isinstance(engine, dict):
            version, name = engine.get("version", version), engine.get("name", name)
        model = layer.get("model", model)
        environment = layer.get("environment", environment)
    if not isinstance(version, str) or not isinstance(model, str) or not isinstance(environment, str):
        return []  # the conversion says what is wrong
    if not isinstance(name, str) or name not in TITLES:
        return []  # the conversion says what is wrong
    _check_variables(layers, name)
    for key, given, known in (
        ("environment", environment, catalog.names("environments")),
        ("model", model, catalog.names("models")),
        ("engine.version", version, catalog.names(f"engines/{name}")),
    ):
        if given not in known:
            where = f"{_set_by(layers, key)}: {key}"
            raise InvalidInput(f"unknown {key} {given[:80]!r}", where=where, fix=nearest(given, known))
    facts, chosen = catalog.model(model), catalog.engine(version, name)
    parser = facts.sglang_reasoning_parser if name == "sglang" else facts.reasoning_parser
    reasoning = {"reasoning-parser": parser} if parser else {}
    own: dict[str, Any] = {"arguments": chosen.default_arguments}
    if name != "vllm":
        own["engine"] = {"command": chosen.command}
    return [
        (f"values/models/{model}.yaml", {"arguments": reasoning}),
        (f"values/engines/{name}/{version}.yaml", own),
    ]


def _check_variables(layers: list[Layer], engine: str) -> None:
    """Refuse variables of vLLM for another engine: its image or version would be taken for that one's."""
    for origin, _ in layers:
        variable = origin.removeprefix("environment variable ")
        if variable != origin and variable.startswith("VLLM_") and engine != "vllm":
            raise InvalidInput(
                f"it is of vLLM, and engine.name is {engine}", where=origin, fix=f"unset {variable}"
            )


def _has(layer: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(layer, dict) or part not in layer:
            return False
        layer = layer[part]
    return True


def _set_by(layers: list[Layer], key: str) -> str:
    """Return the strongest layer that has a dotted key, or else the nearest block above it."""
    parts = key.split(".")
    while parts:
        for origin, layer in layers[::-1]:
            if _has(layer, parts):
                return origin
        parts.pop()
    return next((origin for origin, _ in layers if origin.startswith("recipes/")), layers[0][0])


def assigned(catalog: Catalog, text: str) -> dict[str, Any]:
    """Return what one --set says, as a recipe would have it.

    Raises:
        WrongUsage: It is not of the form key=value.
        InvalidInput: Its value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise WrongUsage(f"{text[:80]!r} is not of the form key=value", where="--set")
    key = VARIABLES.get(key.strip(), key.strip())
    parsed = yaml_reader.parse(value, f"--set {key}")
    if key.startswith("chart."):
        return {"chart": passthrough.nest(key.removeprefix("chart."), parsed, catalog)}
    return _nest(key, parsed)


def _nest(key: str, value: Any) -> dict[str, Any]:
    """Turn a dotted key into nested mappings; the name below an open mapping stays whole."""
    prefix = next((p for p in OPEN if key.startswith(f"{p}.")), None)
    parts = [*prefix.split("."), key[len(prefix) + 1 :]] if prefix else key.split(".")
    return nested(parts, value)
