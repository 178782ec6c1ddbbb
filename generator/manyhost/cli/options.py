"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput

# A release has the recipe's name (Helm's charts, releaseName), and a label has both names.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,43}[a-z0-9])?")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/")
F = TypeVar("F", bound=Callable[..., Any])
P = TypeVar("P", str, Path, Path | None)


class _Recipe(click.types.StringParamType):
    """A text; who leaves it out is told what there is."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Return the names of all recipes."""
        return f"Choose one of: {', '.join(Catalog().recipes())}"


def recipe_argument(function: F) -> F:
    """Add the argument RECIPE: an environment (its default recipe) or <environment>/<recipe>."""
    return click.argument("recipe", metavar="RECIPE", type=_Recipe())(function)


def settings_options(function: F) -> F:
    """Add --model and --set; the command receives model (text) and assignments (texts)."""
    function = click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a setting."
    )(function)
    return click.option(
        "--model", default="", metavar="NAME", help="Take the environment's recipe for this model."
    )(function)


def output_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add --output text|json; the command receives the Printer as output."""

    @functools.wraps(function)
    def command(*args: Any, output_format: str, **given: Any) -> None:
        output: Printer = click.get_current_context().obj
        output.begin(as_json=output_format == "json")
        function(*args, output=output, **given)

    return click.option(
        "--output",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Text for people, JSON for programs.",
    )(command)


def here(ctx: click.Context, param: click.Parameter, value: P) -> P:
    """Return the place of an option that writes files on this machine: gs://BUCKET would make a folder gs:.

    Raises:
        InvalidInput: It is an address.
    """
    if _ADDRESS.match(str(value)):
        raise InvalidInput(
            f"{str(value)[:200]} cannot be written", where=param.opts[0], fix="name a place on this machine"
        )
    return value


def here_or_bucket(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Return the place of an option that writes files here or into a bucket.

    Raises:
        InvalidInput: It is another address.
    """
    if _ADDRESS.match(value) and not value.startswith("gs://"):
        raise InvalidInput(
            f"{value[:200]} cannot be written", where=param.opts[0], fix="gs://BUCKET/FOLDER or a folder"
        )
    return value


def pick(catalog: Catalog, recipe: str, model: str, assignments: tuple[str, ...]) -> Resolved:
    """Resolve RECIPE with values/local.yaml, the environment variables and --set."""
    environment, name = catalog.asked_for(recipe)
    return resolve(
        catalog,
        catalog.recipe_name(environment, model, name),
        variables=os.environ,
        assignments=assignments,
        local_file=local_file(catalog),
    )


def local_file(catalog: Catalog) -> Path:
    """Return where the site's settings file is; MANYHOST_LOCAL names another one, which must exist.

    Raises:
        InvalidInput: When MANYHOST_LOCAL names no file.
    """
    other = os.environ.get("MANYHOST_LOCAL")
    if not other:
        return catalog.settings_file()
    if not os.path.exists(other):  # noqa: PTH110  Path.exists raises for a name that is too long
        raise InvalidInput("file not found", where=f"MANYHOST_LOCAL: {other[:200]}")
    return Path(other)


def recipe_place(catalog: Catalog, folder: Path, environment: str) -> tuple[str, str]:
    """Return the environment and the name of the recipe that a folder would hold.

    Args:
        catalog: Where recipes are looked for.
        folder: As the user has named it.
        environment: One that would do.

    Raises:
        InvalidInput: No recipe is looked for there, or none can have this name.
    """
    place = Path(os.path.abspath(folder))  # noqa: PTH100  ../a4/x is a place too
    homes = {root.resolve() / "recipes" for root in (catalog.own_folder(), *catalog.roots)}
    if place.parent.parent not in homes or place.parent.name not in catalog.names("environments"):
        raise InvalidInput(
            f"{str(folder)[:200]} is no place for a recipe",
            where="--write",
            fix=written_to(catalog, environment, "planned"),
        )
    if not _NAME.fullmatch(place.name):
        raise InvalidInput(
            f"{place.name[:80]!r} is no name of a recipe",
            where="--write",
            fix="use a-z, 0-9 and -, 45 at the most, a letter first",
        )
    return place.parent.name, place.name


def written_to(catalog: Catalog, environment: str, name: str) -> str:
    """Return the option that writes a recipe, as it stands in the current folder."""
    import shlex

    return f"--write {shlex.quote(os.path.relpath(catalog.own_folder() / 'recipes' / environment / name))}"
