"""manyhost stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from manyhost.catalog import Catalog
from manyhost.cli.options import output_option
from manyhost.cli.printer import Printer

if TYPE_CHECKING:
    from manyhost.catalog import Model
    from manyhost.errors import InvalidInput
    from manyhost.weights.estimate import Estimate
    from manyhost.weights.verify import Verified

RESULT = {
    "model": "its name on the hub",
    "revision": "the commit",
    "to": "the target",
    "estimate": "bytes, files, seconds, usd_once, usd_per_month, source",
    "staged": "where, complete, files, bytes, downloaded_files, downloaded_bytes, adopted_files, seconds, "
    "phases; null with --dry-run",
}
EVENTS = {"step": "something users should know: a wait, another way, a file that comes once more"}


@click.command(name="stage")
@click.argument("model")
@click.option(
    "--to",
    "address",
    required=True,
    metavar="TARGET",
    help="gs://BUCKET/FOLDER, or a folder of this machine.",
)
@click.option("--revision", default="", metavar="COMMIT", help="Commit to stage; the catalog's by default.")
@click.option(
    "--streams",
    type=click.IntRange(1, 32),
    default=8,
    show_default=True,
    help="Files at once; each takes some 30 MB of memory.",
)
@click.option("--dry-run", is_flag=True, help="Verify the model and print time and money only.")
@output_option
def command(address: str, model: str, revision: str, streams: int, dry_run: bool, output: Printer) -> None:
    """Copy a model's weights from the hub into a bucket or a folder, once, proven byte for byte.

    The model is verified first. Nothing is kept on this machine's disk on the way to a bucket. A run that was
    ended goes on where it was, and two at once do not harm each other. Pods serve the weights only when the
    manifest (manyhost-weights.json), written last, is there. HF_TOKEN gives access to gated models.

    Example: manyhost stage deepseek-r1-671b --to gs://my-bucket/models/deepseek-ai/DeepSeek-R1
    """
    from dataclasses import asdict

    from manyhost.errors import Failed, InvalidInput
    from manyhost.weights.bucket import parse
    from manyhost.weights.hub import Hub
    from manyhost.weights.stage import stage
    from manyhost.weights.verify import verify
    from manyhost.weights.worker import open_target, summary

    catalog = Catalog()
    known = catalog.model(model)
    if address.startswith("pvc://"):
        raise _in_cluster(catalog, known, revision or known.revision, address)
    if address.startswith("gs://"):
        parse(address)
    elif "://" in address:
        raise InvalidInput(
            f"{address[:200]} cannot be written",
            where="--to",
            fix="gs://BUCKET/FOLDER, pvc://CLAIM/FOLDER or a folder",
        )
    hub = Hub()
    found, snapshot = verify(hub, known, revision)
    if found.failed:
        first = found.failed[0]
        raise Failed(first.text, where=f"{found.model}: {first.check}", fix=first.fix)
    guess = _estimate(catalog, found, address)
    result = {
        "model": found.model,
        "revision": found.revision,
        "to": address,
        "estimate": guess,
        "staged": None,
    }
    output.result(result, _lines(found, address, guess))
    if dry_run:
        return
    if not address.startswith("gs://"):
        address = os.path.abspath(address)  # noqa: PTH100  Path.resolve would follow links
    done = stage(
        hub,
        snapshot,
        open_target(address),
        workers=streams,
        expected_bytes=known.weights_bytes,
        report=lambda text: output.event("step", text),
    )
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in done.phases.items())
    output.result({**result, "staged": asdict(done)}, [summary(done), f"  {phases}"])


def _in_cluster(catalog: Catalog, model: Model, revision: str, address: str) -> InvalidInput:
    """Return what fills a claim, which only pods can write."""
    from manyhost.commands import line
    from manyhost.errors import InvalidInput

    claim, _, folder = address.removeprefix("pvc://").partition("/")
    if not claim:
        return InvalidInput(f"{address[:200]} names no claim", where="--to", fix="--to pvc://CLAIM/FOLDER")
    values = {
        "to": f"/weights/{folder.strip('/') or model.hub_id}",
        "volume.claimName": claim,
        "workers": "1",
        "model.name": model.hub_id,
        "model.revision": revision or "COMMIT",
        "model.bytes": str(model.weights_bytes),
    }
    chart = str(catalog.chart("model-staging").path)
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return InvalidInput(
        "a claim is filled by pods of the cluster, not from here",
        where="--to",
        fix="in the claim's own namespace: "
        + line("helm", "install", "stage", chart, *words, "--namespace", "default"),
    )


def _estimate(catalog: Catalog, found: Verified, address: str) -> Estimate:
    from manyhost.weights.bucket import parse
    from manyhost.weights.estimate import estimate

    if not address.startswith("gs://"):
        return estimate(found.bytes, found.files, storage=None, region="")
    parse(address)
    return estimate(found.bytes, found.files, storage=catalog.storage(), region=_region(address))


def _region(address: str) -> str:
    """Return where the bucket is, if that can be seen: for its price only."""
    from manyhost.cluster.gcs import bucket_of, open_store
    from manyhost.errors import ManyhostError
    from manyhost.weights.bucket import parse

    try:
        return bucket_of(open_store(), parse(address)[0]).location.lower()
    except ManyhostError:
        return ""


def _lines(found: Verified, address: str, guess: Estimate) -> list[str]:
    lines = [
        f"{found.model}@{found.revision[:12]}: {found.files} files, {found.bytes / 1e9:.3f} GB → {address}",
        f"about {max(1, round(guess.seconds / 60))} min at {found.bytes / guess.seconds / 1e6:.0f} MB/s",
    ]
    if guess.source:
        month = (
            "no price known for its region"
            if guess.usd_per_month is None
            else f"{guess.usd_per_month} USD a month"
        )
        lines.append(f"{guess.usd_once} USD once, {month} ({guess.source})")
    return lines
