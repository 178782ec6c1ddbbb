"""manyhost render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhost.catalog import Catalog
from manyhost.cli.options import here, output_option, pick, recipe_argument, settings_options
from manyhost.cli.printer import Printer

if TYPE_CHECKING:
    from manyhost.render import Rendered

RESULT = {
    "plan": "what plan.json holds",
    "folder": "where the files were written",
    "files": "their names",
}


@click.command(name="render")
@recipe_argument
@settings_options
@click.option("--release", default="", metavar="NAME", help="Release name; the recipe's by default.")
@click.option("--namespace", default="default", show_default=True, help="Namespace of the release.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=here,
    help="Folder; build/<env>/<recipe> by default.",
)
@click.option("--helm", is_flag=True, help="Render with the helm program ($HELM) instead of in process.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["helm", "dynamo"]),
    default="helm",
    show_default=True,
    help="For Helm, or for the operator of NVIDIA Dynamo.",
)
@output_option
def command(
    recipe: str,
    model: str,
    assignments: tuple[str, ...],
    release: str,
    namespace: str,
    out: Path | None,
    helm: bool,
    form: str,
    output: Printer,
) -> None:
    """Turn a recipe into checked values and manifests.

    Writes values.yaml, manifests.yaml, plan.json and topology.svg, all or none; with --as dynamo
    dynamo.yaml in place of the first two.

    Example: manyhost render a3mega --set context=65536
    """
    import msgspec

    from manyhost.output import write_files
    from manyhost.plan import table
    from manyhost.render import Renderer
    from manyhost.render.helm import Binary

    catalog = Catalog()
    resolved = pick(catalog, recipe, model, assignments)
    renderer = Renderer(catalog)
    if helm:
        renderer = Renderer(catalog, Binary(renderer.chart.path))
    rendered = renderer.render(resolved, release=release, namespace=namespace)
    folder = out or Path("build", resolved.name)
    files = rendered.files() if form == "helm" else _for_dynamo(catalog, rendered, output)
    write_files(folder, files)
    for name in {"values.yaml", "manifests.yaml", "launch.json", "dynamo.yaml"} - set(files):
        (folder / name).unlink(missing_ok=True)  # of a render for another platform or operator
    output.result(
        {
            "plan": msgspec.json.decode(files["plan.json"]),
            "folder": str(folder.absolute()),
            "files": list(files),
        },
        (f"{label:<13} {text}" for label, text in table.rows(rendered.plan)),
    )
    for warning in rendered.plan.warnings:
        output.warn(warning)
    for finding in rendered.findings:
        output.warn(f"{finding.message} [{finding.check}]", where=finding.where, fix=finding.fix)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    output.text(f"{'written':<13} {shown}/{{{','.join(files)}}}")


def _for_dynamo(catalog: Catalog, rendered: Rendered, output: Printer) -> dict[str, bytes]:
    """Return the files for Dynamo's operator."""
    from manyhost.render.graph import dynamo_yaml

    files = rendered.files()
    text = dynamo_yaml(rendered, catalog.dynamo(), catalog.names("engines/vllm"))
    if rendered.plan.image.repository != rendered.plan.engine.image:
        output.warn(
            f"the image {rendered.plan.image.repository} is not used: Dynamo serves with its own",
            where=f"{rendered.plan.origin('engine.image')}: engine.image",
        )
    return {"dynamo.yaml": text} | {name: files[name] for name in ("plan.json", "topology.svg")}
