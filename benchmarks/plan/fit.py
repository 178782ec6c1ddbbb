"""Fits the performance model (generator/manyhost/plan/performance.py) to rows.csv, and holds it against them.

Non-negative least squares of relative errors, in which rows that are off by more than a tenth count less
(Huber's loss): some hide a slow version or setting. Reading takes no less than at peak, so experts, dense and
kv are 1 at least. Nothing here is needed to plan: values/performance.yaml has what comes out.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

import msgspec
from manyhost.catalog import Model
from manyhost.catalog.performance import Coefficients, GpuSpeed
from manyhost.plan.performance import (
    Calibration,
    Load,
    calibrated,
    first_seconds,
    load_prompt_seconds,
    terms,
    tpot_seconds,
)

ROWS = Path(__file__).with_name("rows.csv")
ENGINES = ("sglang", "trtllm", "vllm")
KV_BYTES = 1152  # bfloat16, 512 + 64 values of a token and layer (MLA)
GPUS_PER_HOST = 8
_MICRO = 1e-6
_TENTH, _ROUNDS, _TINY = 0.1, 12, 1e-9


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One published or measured result; see rows.csv."""

    id: str
    engine: str
    gpu: str
    load: Load
    concurrency: int
    ttft: float
    tpot: float
    rate: float

    @property
    def workload(self) -> str:
        """The shape of its requests, in thousands of tokens."""
        return f"{round(self.load.input_tokens / 1000)}k/{round(self.load.output_tokens / 1000)}k"

    @property
    def deployment(self) -> str:
        """What ran where: rows of one deployment differ in their requests alone."""
        load = self.load
        sizes = f"TP{load.tensor} PP{load.pipeline} DP{load.data}"
        return f"{self.engine} {self.gpu} {sizes}{' decode' if load.decodes_only else ''}"


def read(path: Path = ROWS) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that the model can be held against, and why each other one cannot."""
    rows, unused = [], {}
    for r in csv.DictReader(path.read_text().splitlines()):
        if r["unused"]:
            unused[r["id"]] = r["unused"]
            continue
        load = Load(
            tensor=int(r["tensor"]),
            pipeline=int(r["pipeline"]),
            data=int(r["data"]),
            gpus_per_host=GPUS_PER_HOST,
            running=int(r["concurrency"]) / int(r["groups"]),
            input_tokens=int(r["input"]),
            output_tokens=int(r["output"]),
            kv_bytes=KV_BYTES,
            decodes_only=r["apart"] == "yes",
        )
        ttft, tpot = float(r["ttft_ms"] or 0) / 1e3, float(r["tpot_ms"] or 0) / 1e3
        rate = float(r["tok_s"] or 0)
        if not rate and ttft and tpot and not load.decodes_only and load.running > 1:
            # Little's law: nobody waits for a seat where requests in flight are as many as the client's.
            rate = load.running * load.output_tokens / (ttft + load.output_tokens * tpot)
        rows.append(
            Row(
                id=r["id"],
                engine=r["engine"],
                gpu=r["gpu"],
                load=load,
                concurrency=int(r["concurrency"]),
                ttft=ttft,
                tpot=tpot,
                rate=rate,
            )
        )
    return rows, unused


def robust(matrix: list[list[float]], wanted: list[float]) -> list[float]:
    """Return x >= 0 with the least Huber loss of matrix x - wanted, by reweighted least squares."""
    x, weights = [0.0], [1.0] * len(wanted)
    for _ in range(_ROUNDS):
        x = non_negative(
            [[value * w for value in row] for row, w in zip(matrix, weights, strict=True)],
            [value * w for value, w in zip(wanted, weights, strict=True)],
        )
        off = [abs(_dot(row, x) - value) for row, value in zip(matrix, wanted, strict=True)]
        weights = [min(1.0, _TENTH / each) ** 0.5 if each else 1.0 for each in off]
    return x


def non_negative(matrix: list[list[float]], wanted: list[float]) -> list[float]:
    """Return x >= 0 with the least squares of matrix x - wanted (Lawson and Hanson, chapter 23)."""
    columns = range(len(matrix[0]))
    gram = [[sum(row[i] * row[j] for row in matrix) for j in columns] for i in columns]
    right = [sum(row[i] * y for row, y in zip(matrix, wanted, strict=True)) for i in columns]
    x, free = [0.0] * len(columns), list[int]()
    while True:
        gain = {i: right[i] - _dot(gram[i], x) for i in columns if i not in free and gram[i][i]}
        best = max(gain, key=lambda i: gain[i] / gram[i][i] ** 0.5, default=-1)
        if best < 0 or gain[best] <= _TINY * gram[best][best] ** 0.5:
            return x
        free.append(best)
        while True:
            new = dict(
                zip(free, _solved([[gram[i][j] for j in free] + [right[i]] for i in free]), strict=True)
            )
            negative = [i for i in free if new[i] <= 0]
            if not negative:
                x = [new.get(i, 0.0) for i in columns]
                break
            step = min(x[i] / (x[i] - new[i]) for i in negative)
            x = [x[i] + step * (new[i] - x[i]) if i in new else 0.0 for i in columns]
            free = [i for i in free if x[i] > _TINY]


def _solved(rows: list[list[float]]) -> list[float]:
    """Return the solution of linear equations, each with its right side last (Gauss and Jordan)."""
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k, row in enumerate(rows):
            if k != i:
                rows[k] = [a - row[i] * b for a, b in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def fit(rows: Sequence[Row], model: Model, gpus: dict[str, GpuSpeed]) -> Coefficients:
    """Return the coefficients that fit rows best."""
    design, wanted = [], []
    for row in (row for row in rows if row.tpot):
        t = terms(model, gpus[row.gpu], row.load)
        layer = [t.layer * _MICRO * (row.engine == name) for name in ENGINES]
        values = [
            t.experts,
            t.dense,
            t.kv,
            t.token * _MICRO,
            *layer,
            t.hosts * _MICRO,
            t.prefill,
        ]
        design.append([value / row.tpot for value in values])
        wanted.append(1 - (t.experts + t.dense + t.kv) / row.tpot)
    x = robust(design, wanted)
    first, told = [], []
    for row in (row for row in rows if row.ttft and not row.load.decodes_only):
        prompt = load_prompt_seconds(model, gpus[row.gpu], row.load)
        base = [float(row.engine == name) / 1e3 for name in ENGINES]
        first.append([value / row.ttft for value in (*base, prompt, prompt * row.load.running)])
        told.append(1.0)
    y = robust(first, told)
    # An engine without rows counts as the slowest that has some.
    engines = {name: value for name, value in zip(ENGINES, x[4:7], strict=True) if value}
    bases = {name: value for name, value in zip(ENGINES, y[:3], strict=True) if value}
    return Coefficients(
        experts=1 + x[0],
        dense=1 + x[1],
        kv=1 + x[2],
        token_us=x[3],
        layer_us=engines,
        hosts_us=x[7],
        prefill=x[8],
        first_ms=bases,
        first_own=y[3],
        first_others=y[4],
    )


class Errors(msgspec.Struct):
    """Relative errors of predictions, by what was predicted; 0.1 is 10 percent too much."""

    tpot: list[float] = msgspec.field(default_factory=list)
    ttft: list[float] = msgspec.field(default_factory=list)
    rate: list[float] = msgspec.field(default_factory=list)


def pooled(parts: Iterable[Errors]) -> Errors:
    """Return the errors of several parts as one."""
    total = Errors()
    for part in parts:
        total.tpot += part.tpot
        total.ttft += part.ttft
        total.rate += part.rate
    return total


def errors(
    rows: Sequence[Row],
    c: Coefficients,
    model: Model,
    gpus: dict[str, GpuSpeed],
    by: Calibration = Calibration(),  # noqa: B008  frozen
) -> Errors:
    """Return how far predictions for rows are off."""
    found = Errors()
    for row in rows:
        tpot = tpot_seconds(c, row.engine, terms(model, gpus[row.gpu], row.load)) + by.shift
        first = first_seconds(
            c, row.engine, load_prompt_seconds(model, gpus[row.gpu], row.load), row.load.running
        )
        if row.tpot:
            found.tpot.append(tpot / row.tpot - 1)
        if row.ttft and not row.load.decodes_only:
            found.ttft.append(first / row.ttft - 1)
        if row.rate:
            rate = (
                by.rate * row.load.running * row.load.output_tokens / (first + row.load.output_tokens * tpot)
            )
            found.rate.append(rate / row.rate - 1)
    return found


def held_out(
    rows: Sequence[Row],
    key: Callable[[Row], str],
    model: Model,
    gpus: dict[str, GpuSpeed],
    asked: Container[str] = (),
) -> dict[str, Errors]:
    """Return the errors of each part of the rows, predicted by a fit to the others; of those asked if any."""
    found = {}
    for part in dict.fromkeys(key(row) for row in rows):
        c = fit([row for row in rows if key(row) != part], model, gpus)
        own = [row for row in rows if key(row) == part and (not asked or row.id in asked)]
        found[part] = errors(own, c, model, gpus)
    return found


def anchored(rows: Sequence[Row], model: Model, gpus: dict[str, GpuSpeed]) -> dict[str, Errors]:
    """Return the errors of each deployment by a fit to the others and its one row of middle load."""
    found = {}
    for part in dict.fromkeys(row.deployment for row in rows):
        own = sorted(
            (row for row in rows if row.deployment == part and row.tpot), key=lambda row: row.load.running
        )
        if len(own) < 2:
            continue
        c = fit([row for row in rows if row.deployment != part], model, gpus)
        one = own[len(own) // 2]
        by = calibrated(c, gpus[one.gpu], model, one.engine, one.load, tpot=one.tpot, rate=one.rate)
        found[part] = errors([row for row in own if row is not one], c, model, gpus, by)
    return found


def median(values: Sequence[float]) -> float:
    """Return the median of the absolute values."""
    return statistics.median(abs(value) for value in values)


def most(values: Sequence[float]) -> float:
    """Return what nine of ten absolute values stay below."""
    ordered = sorted(abs(value) for value in values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
