"""manyhost migrate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhost.catalog import Catalog
from manyhost.catalog.engine import TITLES
from manyhost.cli.options import output_option, recipe_argument, recipe_place, written_to
from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput

if TYPE_CHECKING:
    from manyhost.catalog import Engine
    from manyhost.render.migration import Change, Step

RESULT = {
    "recipe": "the recipe's name",
    "engine": "the version it is moved to",
    "steps": "key, value, action (kept, replaced, dropped), became, becomes, reason of each flag",
    "changes": "what, before, after: the lines of the plan that are not the same",
    "written": "the new recipe's folder; empty without --write",
}


@click.command(name="migrate")
@recipe_argument
@click.option("--engine", required=True, metavar="VERSION", help="Version of the engine to move to: v0.33.0.")
@click.option("--write", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the new recipe.")
@output_option
def command(recipe: str, engine: str, write: Path | None, output: Printer) -> None:
    """Move a recipe to another version of the engine: its flags rewritten, its plan made anew.

    Reads the recipe alone, without values/local.yaml and environment variables. The new one is rendered
    and checked before anything is said of it.

    Example: manyhost migrate a3mega/deepseek-r1-671b-published --engine v0.26.0
    """
    from manyhost.catalog import resolve, yaml_reader
    from manyhost.commands import manyhost
    from manyhost.output import write_files
    from manyhost.render import Renderer, migration

    catalog = Catalog()
    renderer = Renderer(catalog)
    environment, name = catalog.asked_for(recipe)
    name = catalog.recipe_name(environment, recipe=name)
    document = catalog.recipe_document(name)
    before = renderer.plan(resolve(catalog, name))
    target = _target(catalog, engine, before.engine)
    new_name = _new_name(catalog, write, document["environment"]) if write else name
    path, where = catalog.recipe_file(name)
    steps = list(
        migration.steps(
            document,
            target,
            renderer.flag_table(target),
            catalog.gone_flags() if target.name == "vllm" else {},
            before.environment,
        )
    )
    text = migration.rewritten(path.read_text(), steps, where)
    moved = yaml_reader.convert(yaml_reader.parse(text, where), dict, where)
    chosen = f"--engine {target.version}", migration.chosen(steps, moved)
    after = renderer.render(resolve(catalog, name, document=moved, changes=chosen)).plan
    changes = migration.changes(before, after)
    if write:
        files = {"recipe.yaml": text.encode()}
        measured = path.with_name("benchmark.yaml")
        write_files(write, files | ({measured.name: measured.read_bytes()} if measured.exists() else {}))
    result = {
        "recipe": name,
        "engine": engine,
        "steps": steps,
        "changes": changes,
        "written": str(write.absolute()) if write else "",
    }
    output.result(result, _lines(steps, changes))
    for warning in after.warnings:
        output.warn(warning)
    if write:
        output.text(f"written: {write}/recipe.yaml; next: {manyhost('render', new_name)}")


def _target(catalog: Catalog, version: str, current: Engine) -> Engine:
    """Return the engine to move to; InvalidInput for one of another name, whose flags mean other things."""
    if version in catalog.names(f"engines/{current.name}"):
        return catalog.engine(version, current.name)
    for other in catalog.engines():
        if other.version == version:
            raise InvalidInput(
                f"{other} is no version of {TITLES[current.name]}: its flags mean other things",
                where="--engine",
                fix=f"one of: {', '.join(catalog.names(f'engines/{current.name}'))}",
            )
    return catalog.engine(version, current.name)


def _new_name(catalog: Catalog, folder: Path, environment: str) -> str:
    """Return the name of the recipe that a folder would hold; InvalidInput where no recipe can be."""
    place, name = recipe_place(catalog, folder, environment)
    if place != environment:
        raise InvalidInput(
            f"the recipe is of environment {environment}",
            where=f"--write {folder}",
            fix=written_to(catalog, environment, name),
        )
    if folder.exists():
        raise InvalidInput("exists already", where=f"--write {str(folder)[:200]}", fix="name another folder")
    return f"{environment}/{name}"


def _lines(steps: list[Step], changes: list[Change]) -> Iterator[str]:
    import msgspec

    def shown(value: object) -> str:
        return msgspec.json.encode(value).decode()

    for step in steps:
        line = f"{step.action:<9} {step.key}: {shown(step.value)}"
        if step.action == "replaced":
            line += f" -> {'' if step.became == step.key else f'{step.became}: '}{shown(step.becomes)}"
        yield line + (f"  ({step.reason})" if step.reason else "")
    width = max((len(change.what) for change in changes), default=0)
    for change in changes:
        yield f"{change.what:<{width}}  {change.before} -> {change.after}"
    if not changes:
        yield "the plan is the same"
