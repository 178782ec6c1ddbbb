"""The engine's image, and whether it can start the recipe's executor on these hosts."""

from __future__ import annotations

import re

import msgspec

from manyhost.catalog import Engine, Recipe
from manyhost.catalog.engine import ImageLock, known_version, version_in
from manyhost.catalog.environment import RunPod
from manyhost.errors import InvalidInput
from manyhost.plan.facts import Facts

# A host with its port, then the path (distribution/reference, regexp.go).
_HOST = r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_HOST}{_PATH}(?:/{_PATH})*")
# Tags that move: hosts that start on different days would run different engines.
_MOVING = re.compile(r"(latest|nightly|main|master|edge|dev)(-(x86_64|aarch64|amd64|arm64))?")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image reference.

    Attributes:
        repository: Without tag.
        tag: What it is called there.
        digest: What it is; it replaces the tag when it is not empty.
    """

    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        """Return the reference that a runtime pulls."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def rented(platform: RunPod) -> Image:
    """Return the image that pods of RunPod start from."""
    repository, _, tag = platform.image.rpartition(":")
    return Image(repository=repository, tag=tag, digest="")


def image(recipe: Recipe, engine: Engine) -> Image:
    """Return the image of a recipe; a registry with a bare image name is the published form."""
    name = recipe.engine.image
    registry = recipe.site.artifact_registry.rstrip("/")
    if registry and "/" not in name:
        usual = "vllm-openai" if engine.name == "vllm" else engine.image.rpartition("/")[2]
        name = f"{registry}/{name or usual}"
    return Image(
        repository=name or engine.image, tag=recipe.engine.tag or engine.tag, digest=recipe.engine.digest
    )


def lock(recipe: Recipe, engine: Engine) -> ImageLock:
    """Return what is known of the inside of a recipe's image: by its digest, or by the stock image's tag."""
    settings = recipe.engine
    if settings.digest:  # the same bytes, from whichever registry
        return next((k for k in engine.image_lock.values() if k.digest == settings.digest), ImageLock())
    if settings.image or recipe.site.artifact_registry:
        return ImageLock()
    return engine.image_lock.get(settings.tag or engine.tag, ImageLock())


def check(recipe: Recipe, facts: Facts) -> None:
    """Check that the image is what the recipe says, can start its executor, and was built for the hosts.

    Raises:
        InvalidInput: Naming the key.
    """
    executor, engine, host = recipe.engine.executor, facts.engine, facts.environment.host
    if (engine.device == "cuda") != (host.gpus > 0):
        device = "GPUs" if engine.device == "cuda" else "CPUs"
        raise InvalidInput(
            f"{engine} computes on {device}, and a host has {host.gpus or 'no'} GPUs",
            where="engine.version",
        )
    if executor not in engine.executors:
        able = facts.recipes.get(engine.version)
        raise InvalidInput(
            f"{engine} starts several hosts with {' or '.join(engine.executors)}, not with {executor}",
            where="engine.executor and engine.version",
            fix=f"set engine.executor to {engine.executors[0]}"
            + (f", or use the recipe {able}" if able else ""),
        )
    if isinstance(facts.environment.platform, RunPod):
        if engine.name != "vllm":
            raise InvalidInput(
                f"the engine's environment at RunPod is vLLM's; there is none of {engine}",
                where="engine.name",
                fix="set it to vllm, and engine.version to one of vLLM",
            )
        _check_no_image(recipe)
        return  # Ray is part of the engine's environment there
    _check_reference(recipe, engine)
    _check_tag(recipe, facts)
    if recipe.engine.image or recipe.site.artifact_registry:
        return  # nobody here knows what is in it
    if executor not in engine.stock_image_executors:
        raise InvalidInput(
            f"the stock image {engine.image}:{engine.tag} does not contain Ray",
            where="engine.executor",
            fix="use executor mp, or name an image that has Ray (engine.image)",
        )
    architectures = lock(recipe, engine).architectures
    if architectures and host.architecture not in architectures:
        raise InvalidInput(
            f"the stock image {image(recipe, engine)} is built for {', '.join(architectures)}, "
            f"{host.machine_type} is {host.architecture}",
            where="engine.version",
            fix="use a newer engine.version, or name an image of that architecture (engine.image)",
        )


def _check_no_image(recipe: Recipe) -> None:
    for key in ("image", "tag", "digest"):
        if getattr(recipe.engine, key):
            raise InvalidInput(
                "on RunPod the engine comes from the network volume, not from an image",
                where=f"engine.{key}",
                fix="leave it out",
            )


def _check_tag(recipe: Recipe, facts: Facts) -> None:
    """Refuse the tag of another version: flags, memory and executors would be those of engine.version."""
    tag, engine = recipe.engine.tag, facts.engine
    version = version_in(tag)
    if not version or version == version_in(engine.version):
        return
    if recipe.engine.image:
        # A tag of one's own means what one likes; a digest under the very name of a version is that version.
        if recipe.engine.digest and tag in facts.recipes:
            raise InvalidInput(
                f"{tag[:80]} is not {engine}, which engine.version says",
                where="engine.tag",
                fix=f"set engine.version to {tag}, or engine.image, engine.tag and engine.digest to '' "
                "for this recipe",
            )
        return
    other = known_version(tag, facts.recipes)
    able = facts.recipes.get(other)
    fix = f"set engine.version to {other} instead" if other else "name the image as well (engine.image)"
    raise InvalidInput(
        f"{tag[:80]} is not {engine}, which engine.version says",
        where="engine.tag",
        fix=fix + (f", or use the recipe {able}" if able else ""),
    )


def _check_reference(recipe: Recipe, engine: Engine) -> None:
    """Refuse what no runtime can pull, or what it would pull from somewhere else than was meant."""
    name, registry = recipe.engine.image, recipe.site.artifact_registry
    for key, given in (("engine.image", name), ("site.artifact_registry", registry.rstrip("/"))):
        message, fix = _wrong_name(given, key)
        if message:
            raise InvalidInput(message, where=key, fix=fix)
    if name and "/" not in name and not registry:
        raise InvalidInput(
            f"{name} alone is docker.io/library/{name}",
            where="engine.image",
            fix=f"write the whole name, such as vllm/{name}, or set ARTIFACT_REGISTRY",
        )
    if _MOVING.fullmatch(recipe.engine.tag) and not recipe.engine.digest:
        raise InvalidInput(
            f"{recipe.engine.tag} does not pin a version: hosts that start later would run another engine",
            where="engine.tag",
            fix=f"leave it out for the engine's own, {engine.tag}, or set engine.digest",
        )
    if recipe.engine.tag.startswith("nightly") and not (recipe.engine.image or recipe.engine.digest):
        raise InvalidInput(
            f"{recipe.engine.tag[:80]} is none of the versions whose flags and memory are known",
            where="engine.tag",
            fix="leave it out, or name the image as well (engine.image): then it is yours to check",
        )


def _wrong_name(name: str, key: str) -> tuple[str, str]:
    """Return what is wrong with the name of an image or a registry, and what to do."""
    shown = name[:80]
    registry = key == "site.artifact_registry"
    right = bool(_NAME.fullmatch(f"{name}/x" if registry else name))
    if not name or right:
        return "", ""
    if "://" in name:
        return (
            f"{shown!r} is a web address, not the name of an image",
            f"write {name.partition('://')[2][:80]}",
        )
    last = name.rpartition("/")[2]
    if not registry and ("@" in last or ":" in last):
        at = "@" if "@" in last else ":"
        plain, _, rest = name.rpartition(at)
        where = "engine.digest" if at == "@" else "engine.tag"
        return f"{shown!r} ends with a {where[7:]}", f"write {plain[:80]}, and {where}={rest[:80]}"
    if _NAME.fullmatch(f"{name}/x".lower()):
        return f"{shown!r} has upper case, which no registry takes", f"write {name.lower()[:80]}"
    return f"{shown!r} is not written like the name of an image", "write it like vllm/vllm-openai"
