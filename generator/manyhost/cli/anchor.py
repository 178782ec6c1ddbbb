"""manyhost anchor."""

from __future__ import annotations

import os
from pathlib import Path

import click

from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer
from manyhost.commands import manyhost

RESULT = {"file": "what was written", "anchor": "the measured point, as the file has it"}


@click.command(name="anchor")
@click.argument("verb", metavar="add", type=click.Choice(["add"]))
@click.argument("run")
@output_option
def command(verb: str, run: str, output: Printer) -> None:
    """Let the planner go by what you have measured.

    add writes the point of most throughput of a run to values/anchors: manyhost plan predicts the same model
    on the same GPUs and link from it. A run is a folder, or gs://BUCKET/FOLDER/RUN.

    Example: manyhost anchor add build/runs/a3mega__deepseek-r1-671b-published-0123456789ab
    """
    import msgspec
    import yaml

    from manyhost.catalog import Catalog
    from manyhost.output import write_files
    from manyhost.report.anchor import anchor
    from manyhost.report.read import read_all

    (results,) = read_all([run])
    catalog = Catalog()
    models = {catalog.model(name).served_name: name for name in catalog.names("models")}
    found = anchor(results, models, catalog.performance().gpus)
    values = msgspec.to_builtins(found)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    folder, name = Path(os.path.relpath(catalog.own_folder() / "values/anchors")), f"{found.name}.yaml"
    write_files(folder, {name: text.encode()})
    again = manyhost("plan", found.model)
    output.result(
        {"file": str(folder / name), "anchor": values}, [f"{folder / name}: {again} goes by it from now on"]
    )
