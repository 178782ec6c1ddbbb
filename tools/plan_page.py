"""docs/reference/plan-deepseek-r1-671b.md: what `manyhost plan` says, as a page with a picture."""

from __future__ import annotations

from typing import Any

from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.catalog.recipe import Traffic
from manyhost.plan.choice_table import NOTES, markdown, reasons
from manyhost.plan.choices import Choice, Wanted, assignments, choices
from manyhost.report import trade

MODEL = "deepseek-r1-671b"
_HEAD = f"""# Every way to serve {MODEL}

Generated from `values/` by `make generate`: what `manyhost plan {MODEL}` says of requests of 1000 + 1000
tokens, a context of 32,768 and as many requests as have a seat. Speeds are predictions:
[how right they are](../../benchmarks/plan/README.md), [how to ask for your own](../how-to/plan.md).

"""


def page(catalog: Catalog) -> str:
    """Return the page."""
    found, rejected = _choices(catalog, 0)
    lines = [*markdown(found), "", *NOTES, "", "## The trade", "", f"![Output tokens]({MODEL}-plan.svg)", ""]
    lines += [
        "The best layout of each environment at each time per token: further up takes fewer hosts.",
        "A host of A4X has four GPUs. `manyhost plan MODEL --picture FILE.svg` draws it for any model.",
        "",
    ]
    lines += ["## What does not work", "", *(f"- {reason}" for reason in reasons(rejected))]
    return _HEAD + "\n".join(lines) + "\n"


def _choices(catalog: Catalog, tpot_ms: int) -> tuple[list[Choice], list[Any]]:
    def resolved(recipe: str, changes: dict[str, Any]) -> Resolved:
        return resolve(catalog, recipe, assignments=assignments(changes))

    traffic = Traffic(input_tokens=1000, output_tokens=1000)
    wanted = Wanted(model=MODEL, context=32768, traffic=traffic, tpot_ms=tpot_ms)
    return choices(catalog, resolved, wanted, catalog.names("environments"))


def picture(catalog: Catalog) -> str:
    """Return the picture of the page."""
    return trade.picture(MODEL, trade.trade(lambda tpot_ms: _choices(catalog, tpot_ms)[0]))
