"""manyhost weights."""

from __future__ import annotations

import click

from manyhost.catalog import Catalog
from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer

RESULT = {
    "model": "its name on the hub",
    "revision": "the commit that was looked at",
    "files": "files that serving needs",
    "bytes": "their bytes",
    "shards": "weight files among them",
    "tensor_bytes": "bytes of all tensors",
    "seconds": "how long the look took",
    "findings": "of each check: check, status (ok, warning, failed), text, fix",
}
_SIGNS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL"}


@click.command(name="weights")
@click.argument("verb", type=click.Choice(["verify"]))
@click.argument("model")
@click.option("--revision", default="", metavar="COMMIT", help="Commit to look at; the catalog's by default.")
@output_option
def command(verb: str, model: str, revision: str, output: Printer) -> None:
    """Compare a model on the hub with the catalog, before anything is paid.

    Reads the hub's lists and the headers of the weight files, not the weights: it takes seconds. HF_TOKEN
    gives access to gated models, HF_ENDPOINT names a mirror.

    Example: manyhost weights verify deepseek-r1-671b
    """
    from manyhost.errors import Failed
    from manyhost.weights.hub import Hub
    from manyhost.weights.verify import verify

    found, _ = verify(Hub(), Catalog().model(model), revision)
    lines = [f"{found.model}@{found.revision}: {found.files} files, {found.bytes / 1e9:.3f} GB"]
    for finding in found.findings:
        lines.append(f"{_SIGNS[finding.status]} {finding.check:<10} {finding.text}")
        if finding.fix:
            lines.append(f"                fix: {finding.fix}")
    output.result(found, [*lines, f"{found.seconds:.1f} s"])
    if found.failed:
        names = ", ".join(finding.check for finding in found.failed)
        raise Failed(f"is not what the catalog says: {names}", where=f"{found.model}@{found.revision[:12]}")
