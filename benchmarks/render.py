"""Rendering against `helm template` of the same chart and values, as ratios (make bench-render).

One process each: `manyhost render` against `helm template`, in alternating pairs, median of the ratios.
500 recipes: one process with varied settings, against a loop over the binary for a sample of them.
Memory: resident size after 50 recipes against after 500.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "llm-multihost"
RECIPE = "a3mega/deepseek-r1-671b"
RELEASE = "deepseek-r1-671b"
RECIPES, SAMPLE, WARM = 500, 20, 50


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def one_process(helm: Path, pairs: int, folder: Path) -> tuple[float, float, float]:
    """Return the median milliseconds of both programs and the median ratio of pairs."""
    # Installed programs have their bytecode: what the first run writes, the others use.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    program = str(Path(sys.executable).with_name("manyhost"))
    ours = [program, "render", RECIPE, "--out", str(folder / "out")]
    theirs = [str(helm), "template", RELEASE, str(CHART), "-f", str(folder / "out" / "values.yaml")]
    for command in (ours, theirs):
        _seconds(command, environment)
    rows = []
    for number in range(pairs):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        times = {id(command): _seconds(command, environment) for command in (first, second)}
        rows.append((times[id(ours)], times[id(theirs)]))
    return (
        statistics.median(a for a, _ in rows) * 1e3,
        statistics.median(b for _, b in rows) * 1e3,
        statistics.median(a / b for a, b in rows),
    )


def settings(number: int) -> list[str]:
    """Return the settings of one of many different recipes."""
    return [
        f"context={4096 + 32 * number}",
        f"groups={1 + number % 7}",
        f"arguments.max-num-seqs={16 + number % 512}",
        f"arguments.enable-prefix-caching={'true' if number % 2 else 'false'}",
        f"variables.RUN=number {number}",
        f"site.gcs_bucket={'' if number % 3 else f'weights-{number}'}",
        f"parallelism.pipeline={2 + number % 3}",
    ]


def many(helm: Path, folder: Path) -> tuple[float, float, float, float]:
    """Return median milliseconds in process and by the binary, and MiB after WARM and after all recipes."""
    from manyhost.catalog import Catalog, resolve
    from manyhost.render import Renderer

    renderer = Renderer(Catalog(ROOT))

    def render(number: int) -> str:
        resolved = resolve(renderer.catalog, RECIPE, assignments=settings(number))
        rendered = renderer.render(resolved, release=RELEASE)
        rendered.files()
        return rendered.values_text

    texts = [render(number) for number in range(WARM)]
    gc.collect()
    before = _resident_mib()
    ours = []
    for number in range(RECIPES):
        start = time.perf_counter()
        render(number)
        ours.append(time.perf_counter() - start)
    gc.collect()
    after = _resident_mib()
    paths = []
    for number in range(SAMPLE):
        path = folder / f"values-{number}.yaml"
        path.write_text(texts[number])
        paths.append(path)
    environment = dict(os.environ)
    times = [_seconds([str(helm), "template", RELEASE, str(CHART), "-f", str(p)], environment) for p in paths]
    return statistics.median(ours) * 1e3, statistics.median(times) * 1e3, before, after


def main() -> int:
    """Measure, print a table, and fail when a goal is missed and --strict was given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11, help="pairs of single renders (default 11)")
    parser.add_argument(
        "--helm", type=Path, default=ROOT / ".tools" / "helm4", help="program to compare with"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single, template, ratio = one_process(options.helm, max(options.pairs, 7), folder)
        each, binary, before, after = many(options.helm, folder)
    growth = after - before
    goals: list[tuple[str, str, str, bool]] = [
        (
            "one render in a process of its own",
            f"{single:.0f} ms against {template:.0f} ms: {ratio:.2f}x",
            "<= 3x helm template",
            ratio <= 3,
        ),
        (f"{RECIPES} recipes in process, each", f"{each:.2f} ms", "<= 5 ms", each <= 5),
        (
            f"a loop over the binary, each (of {SAMPLE})",
            f"{binary:.0f} ms: {binary / each:.0f}x",
            ">= 10x",
            binary / each >= 10,
        ),
        (
            f"memory after {WARM} and after {WARM + RECIPES} recipes",
            f"{before:.0f} and {after:.0f} MiB: {growth:+.1f}",
            "<= 8 MiB more",
            growth <= 8,
        ),
    ]

    def row(*cells: str) -> str:
        return "{:<44} {:<34} {:<20} {}".format(*cells)

    print(row("what", "measured", "goal", ""))
    for what, measured, goal, met in goals:
        print(row(what, measured, goal, "met" if met else "MISSED"))
    print(f"load of this machine while measuring: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(options.strict and not all(met for *_, met in goals))


if __name__ == "__main__":
    sys.exit(main())
