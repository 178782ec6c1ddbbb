"""manyhost image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhost.catalog import Catalog, Resolved
from manyhost.cli import local_settings
from manyhost.cli.options import local_file, output_option, pick, recipe_argument, settings_options
from manyhost.cli.printer import Printer

if TYPE_CHECKING:
    from manyhost.catalog import Engine, Recipe
    from manyhost.cluster.image_build import CloudBuild, Standing, Wanted

RESULT = {
    "image": "the image: of build the one that is made, of status the one that the recipe runs",
    "registry": "what its registry has: state (absent, there, private, unknown), digest, labels, text",
    "command": "of build: what starts it; empty when the image is there already",
    "build": "of build the build, of status the last one: id, status, created, finished, url, digest, why; "
    "or null",
    "pinned": "of status: where engine.digest comes from; empty when the tag alone decides",
    "lock": "of status: what is known of its inside: digest that it is known of, vllm, executors, cuda, "
    "minimum_driver, nccl, architectures; or null",
    "file": "of build: the settings file",
    "diff": "of build: the change to it; empty when it says the same already",
    "written": "of build: whether it was changed",
}
# Of what a verb does not tell.
_NOTHING: dict[str, Any] = {
    "image": "",
    "registry": None,
    "command": "",
    "build": None,
    "pinned": "",
    "lock": None,
    "file": "",
    "diff": "",
    "written": False,
}
EVENTS = {"step": "something is done on the way", "log": "a line of the build's log"}


@click.command(name="image")
@click.argument("verb", type=click.Choice(["build", "status"]))
@recipe_argument
@settings_options
@click.option("--dry-run", is_flag=True, help="Show what would be built and written only.")
@click.option("--yes", is_flag=True, help="Write values/local.yaml without asking.")
@output_option
def command(
    verb: str,
    recipe: str,
    model: str,
    assignments: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    output: Printer,
) -> None:
    """Build an image of your own in Cloud Build and pin it, or say what is known of the one in use.

    build makes docker/vllm for the recipe's version of vLLM, pushes it to site.artifact_registry and writes
    its digest into values/local.yaml. A tag that is there is never written over: made from the same files it
    is taken as it is. Ctrl-C leaves the build running. status says which image the recipe runs, its digest in
    the registry, who pins it, what is known of its inside, and the last build.

    Example: manyhost image build a3mega --yes
    """
    catalog = Catalog()
    resolved = pick(catalog, recipe, model, assignments)
    if verb == "build":
        _build(catalog, resolved, output, dry_run=dry_run, yes=yes)
    else:
        _status(catalog, resolved, output)


def _build(catalog: Catalog, resolved: Resolved, output: Printer, *, dry_run: bool, yes: bool) -> None:
    from manyhost.cluster.discover import difference, edit
    from manyhost.cluster.image_build import CloudBuild, inputs, is_same, pin, standing, wanted
    from manyhost.commands import line
    from manyhost.errors import InvalidInput, NotReady

    recipe, folder, file = resolved.recipe, catalog.root / "docker/vllm", local_file(catalog)
    image = wanted(recipe, _engine(catalog, recipe), catalog.environment(recipe.environment), folder)
    before = local_settings.read(file)
    edit(
        before, pin(image, recipe.environment, f"sha256:{'0' * 64}")
    )  # fails now rather than after the build
    cloud = CloudBuild(image.project, image.region)
    found = standing(str(image), cloud.token)
    if found.state == "private":
        raise NotReady(
            found.text, where="site.artifact_registry", fix="ask for roles/artifactregistry.writer"
        )
    there = found.state == "there"
    if there and not is_same(found.labels, inputs(folder, image.version), image.base):
        raise InvalidInput(
            f"{image} is there, was made from something else, and is not written over",
            where="engine.image",
            fix="choose another name (VLLM_IMAGE), or delete it first",
        )
    words = () if there else cloud.submission(image, folder)
    result = {
        **_NOTHING,
        "image": str(image),
        "registry": found,
        "command": line(*words).strip("`") if words else "",
        "file": str(file.absolute()),
    }
    if dry_run:
        text = f"would run: {line(*words)}" if words else f"{image} is there, made from the same files"
        output.result(result, [text])
        return
    digest = found.digest
    if there:
        output.event("step", f"{image} is there, made from the same files: {digest}")
    else:
        built, digest = _run(cloud, image, folder, output)
        result |= {"build": built}
    after = edit(before, pin(image, recipe.environment, digest))
    diff = difference(before, after)
    result |= {"diff": diff}
    output.result(result, [f"{image} is {digest}", diff or f"{file.name} says the same already"])
    if before == after:
        return
    local_settings.write(file, after, result, output, yes=yes)


def _run(cloud: CloudBuild, image: Wanted, folder: Path, output: Printer) -> tuple[Any, str]:
    """Build, and return the build and the digest that Cloud Build and registry agree on."""
    from manyhost.cluster.image_build import standing
    from manyhost.errors import RemoteError

    begun = cloud.submit(image, folder)
    output.event("step", f"build {begun.id} of {image}: {begun.url}", begun)
    told = False
    for text in cloud.log(begun.id):
        output.event("log", text)
        told = True
    if not told:
        output.event("step", "its log cannot be shown here; waiting for the build")
    done = cloud.wait(begun.id, str(image))
    found = standing(str(image), cloud.token)
    if not found.digest or done.digest not in ("", found.digest):
        raise RemoteError(
            f"the build pushed {done.digest or 'nothing'}, the registry has {found.digest or 'nothing'}",
            where=str(image),
        )
    return done, found.digest


def _engine(catalog: Catalog, recipe: Recipe) -> Engine:
    """Return vLLM at the recipe's version; InvalidInput for another engine."""
    from manyhost.errors import InvalidInput

    if recipe.engine.name != "vllm":
        raise InvalidInput(
            "docker/vllm is an image of vLLM",
            where="engine.name",
            fix="use the stock image: leave engine.image out",
        )
    return catalog.engine(recipe.engine.version)


def _status(catalog: Catalog, resolved: Resolved, output: Printer) -> None:
    from manyhost.cluster.image_build import CloudBuild, Standing, known, standing
    from manyhost.errors import ManyhostError
    from manyhost.plan.image import image as image_of
    from manyhost.plan.image import lock as lock_of

    recipe = resolved.recipe
    engine = _engine(catalog, recipe)
    image = image_of(recipe, engine)
    cloud = CloudBuild(recipe.site.project_id, recipe.site.region)
    try:
        found = standing(str(image), cloud.token)
    except ManyhostError as error:  # the rest can be said without it
        found = Standing(state="unknown", text=f"not known: {error.message}")
    lock = lock_of(recipe, engine)
    if not lock.digest and not lock.architectures:
        lock = known(engine, found.digest, found.labels) or lock
    stock = image.repository == engine.image
    told = (lock.digest or lock.architectures or lock.cuda) and {
        "digest": lock.digest,
        "vllm": engine.version,
        "executors": engine.stock_image_executors if stock else engine.executors,
        "cuda": lock.cuda,
        "minimum_driver": lock.minimum_driver,
        "nccl": lock.nccl,
        "architectures": lock.architectures,
    }
    build, unread = None, ""
    if not stock:
        try:
            build = cloud.last(f"{image.repository}:{image.tag}")
        except ManyhostError as error:
            unread = error.message
    pinned = resolved.origin("engine.digest") if image.digest else ""
    result = {
        **_NOTHING,
        "image": str(image),
        "registry": found,
        "build": build,
        "pinned": pinned,
        "lock": told or None,
    }
    output.result(result, _lines(result, found, unread, stock=stock))


def _lines(result: dict[str, Any], found: Standing, unread: str, *, stock: bool) -> list[str]:
    lock, build = result["lock"], result["build"]
    inside = "nobody has read what is in it"
    if lock:
        parts = [f"vLLM {lock['vllm']}", f"executors {', '.join(lock['executors'])}"]
        parts += [f"CUDA {lock['cuda']}"] if lock["cuda"] else []
        parts += [f"driver R{lock['minimum_driver']} or newer"] if lock["minimum_driver"] else []
        parts += [f"NCCL {lock['nccl']}"] if lock["nccl"] else []
        parts += [", ".join(lock["architectures"])] if lock["architectures"] else []
        inside = "; ".join(parts)
        if stock and found.digest and lock["digest"] not in ("", found.digest):
            inside = f"not known: the tag has moved, and the image lock knows {lock['digest']}"
    if stock:
        last = "none: it is the stock image"
    elif build:
        last = f"{build.id} {build.status} {build.finished or build.created} {build.url}".rstrip()
    else:
        last = f"not known: {unread}" if unread else "none among the last ones"
    return [
        f"image     {result['image']}",
        f"registry  {found.text}",
        f"pinned    {result['pinned'] or 'no: the tag decides'}",
        f"inside    {inside}",
        f"build     {last}",
    ]
