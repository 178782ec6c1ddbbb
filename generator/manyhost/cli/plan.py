"""manyhost plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.cli.options import here, local_file, output_option, recipe_place, written_to
from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput, WrongUsage

if TYPE_CHECKING:
    from manyhost.plan.choices import Choice

RESULT = {
    "choices": "what works, the best first: layout, memory, seats, speed and its error, time to start, price",
    "rejected": "environment, layout and reason of what does not",
    "picture": "the file that --picture has made; empty without it",
    "written": "the recipe that --write has made, <environment>/<recipe>; empty without it",
}
_SORTS = ("usd-per-mtok", "usd-per-hour", "tok-s", "tpot", "ttft")


def _traffic(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Return the tokens of a prompt and of an answer."""
    given, _, made = value.partition("/")
    if not (given.isdecimal() and made.isdecimal() and int(given) and int(made)):
        raise click.BadParameter(f"{value[:80]!r} is not of the form IN/OUT, as in 1000/1000")
    return int(given), int(made)


@click.command(name="plan")
@click.argument("model")
@click.option("--env", "environments", multiple=True, metavar="NAME", help="Only this environment.")
@click.option(
    "--context", type=click.IntRange(1), default=32768, show_default=True, help="Longest request in tokens."
)
@click.option(
    "--traffic",
    default="1000/1000",
    callback=_traffic,
    metavar="IN/OUT",
    show_default=True,
    help="Tokens of a typical request.",
)
@click.option("--concurrency", type=click.IntRange(1), help="Requests in flight; as many as there are seats.")
@click.option("--ttft", type=click.IntRange(1), metavar="MS", help="Longest mean time to the first token.")
@click.option("--tpot", type=click.IntRange(1), metavar="MS", help="Longest mean time per output token.")
@click.option("--hosts", type=click.IntRange(1, 16), default=4, show_default=True, help="Most of a group.")
@click.option("--sort", type=click.Choice(_SORTS), default=_SORTS[0], show_default=True, help="Best first.")
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--rejected", "why", is_flag=True, help="Say why each other layout does not work.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    callback=here,
    help="Draw tokens a second of a host against those of one user, a line for each environment.",
)
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make a recipe of the best row: recipes/<environment>/<name>.",
)
@click.option("--row", type=click.IntRange(1), help="Make it of this row instead.")
@output_option
def command(
    model: str,
    environments: tuple[str, ...],
    context: int,
    traffic: tuple[int, int],
    concurrency: int | None,
    ttft: int | None,
    tpot: int | None,
    hosts: int,
    sort: str,
    given: tuple[str, ...],
    why: bool,
    markdown: bool,
    picture: Path | None,
    folder: Path | None,
    row: int | None,
    output: Printer,
) -> None:
    """List every way to serve a model, with memory, speed and price; the best first.

    Reads nothing but the catalog, and costs nothing. Speeds are predictions, each with its error.

    Example: manyhost plan deepseek-r1-671b --env a3mega --tpot 60
    """
    import msgspec

    from manyhost.catalog.recipe import Traffic
    from manyhost.output import write_files
    from manyhost.plan import choice_table, choices

    catalog = Catalog()
    wanted = choices.Wanted(
        model=model,
        context=context,
        traffic=Traffic(input_tokens=traffic[0], output_tokens=traffic[1]),
        concurrency=concurrency or 0,
        ttft_ms=ttft or 0,
        tpot_ms=tpot or 0,
        hosts=hosts,
    )
    most = catalog.model(model).max_context_tokens
    if sum(traffic) > most:
        raise InvalidInput(
            f"requests of {sum(traffic):,} tokens are longer than the {most:,} of {model}", where="--traffic"
        )
    if not sum(traffic) <= context <= most:
        raise InvalidInput(
            f"{context:,} tokens hold no request of {sum(traffic):,}"
            if context < sum(traffic)
            else f"{context:,} tokens is more than the {most:,} of {model}",
            where="--context",
            fix=f"choose one from {sum(traffic)} to {most}",
        )
    if picture and picture.suffix != ".svg":
        raise WrongUsage(f"{picture.name[:80]} is drawn as SVG: name it so", where="--picture")
    if row and not folder:
        raise WrongUsage("has no effect without --write", where="--row")
    settings = local_file(catalog)

    def resolved(recipe: str, changes: dict[str, Any]) -> Resolved:
        texts = (*given, *choices.assignments(changes))
        return resolve(catalog, recipe, variables=os.environ, assignments=texts, local_file=settings)

    for text in given:
        key = text.partition("=")[0].strip()
        if key in choices.OWN:
            instead = choices.OWN[key]
            raise InvalidInput(
                "plan tries every layout by itself"
                if not instead
                else "plan has an option of its own for it",
                where=f"--set: {key}",
                fix=f"use {instead}" if instead else "leave it out, and look for its row",
            )
    names = list(dict.fromkeys(environments)) or catalog.names("environments")
    found, rejected = choices.choices(catalog, resolved, wanted, names, sort)
    reasons = list(choice_table.reasons(rejected))
    if not found:
        output.text(*reasons)
        raise InvalidInput(
            f"no layout of up to {hosts} hosts serves {model} so", where="plan", fix=choices.fix(rejected)
        )

    def within(longest_ms: int) -> list[Choice]:
        faster = msgspec.structs.replace(wanted, tpot_ms=longest_ms)
        return choices.choices(catalog, resolved, faster, names)[0]

    drawn = b""
    if picture:
        from manyhost.report import trade

        drawn = trade.picture(model, trade.trade(within, tpot or 0)).encode()
    written = _write(catalog, found, folder, row, given) if folder else ""
    if picture:
        write_files(picture.parent, {picture.name: drawn})
    output.result(
        {"choices": found, "rejected": rejected, "picture": str(picture or ""), "written": written},
        choice_table.markdown(found) if markdown else choice_table.lines(found),
    )
    output.text("", *choice_table.NOTES)
    output.text(*_anchors(catalog, found))
    if why:
        output.text("", "Rejected:", *(f"  {reason}" for reason in reasons))
    elif rejected:
        output.text(f"{len(rejected)} layouts more do not work: --rejected says why")
    output.text(*[f"picture: {picture}"] * bool(picture))
    if written:
        from manyhost.commands import manyhost

        output.text(f"written: {folder}/recipe.yaml; check it: {manyhost('render', written)}")


def _anchors(catalog: Catalog, found: list[Choice]) -> list[str]:
    """Return the measured points behind the rows."""
    used = {choice.anchor for choice in found}
    return [
        f"Measured on {anchor.date} ({anchor.name}): {anchor.tpot_ms:g} ms a token at {anchor.concurrency} "
        f"requests{', without ' * bool(anchor.lacks)}{anchor.lacks}"
        for anchor in catalog.anchors()
        if anchor.name in used
    ]


def _write(
    catalog: Catalog, found: list[Choice], folder: Path, row: int | None, given: tuple[str, ...]
) -> str:
    """Write the recipe of a row, and return its name."""
    import yaml

    from manyhost.catalog.settings import assigned
    from manyhost.output import write_files
    from manyhost.plan import choices

    environment, name = recipe_place(catalog, folder, found[0].environment)
    if row and row > len(found):
        raise WrongUsage(f"there are {len(found)} rows", where="--row")
    best = found[row - 1] if row else next((c for c in found if c.environment == environment), None)
    if best is None or best.environment != environment:
        there = f"row {row} is of {best.environment}" if best else f"no row is of {environment}"
        raise InvalidInput(
            f"{there}: a recipe lies in the folder of its environment",
            where="--write",
            fix=written_to(catalog, (best or found[0]).environment, name),
        )
    if (folder / "recipe.yaml").exists():
        raise InvalidInput("there is a recipe already", where=f"--write {folder}", fix="choose another name")
    settings = [assigned(catalog, text) for text in given]
    document = choices.document(best, catalog.recipe_document(best.recipe), settings)
    head = f"# As planned, on top of recipes/{best.recipe}.\n"
    text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=120)
    write_files(folder, {"recipe.yaml": (head + text).encode()})
    return f"{environment}/{name}"
