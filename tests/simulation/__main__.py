"""Run many schedules on all processors: python -m tests.simulation [COUNT] [FIRST SEED]."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from tests.simulation.code import current
from tests.simulation.schedule import KINDS, Schedule, make, shrink
from tests.simulation.world import Violation, simulate

CHUNK = 250
MOST_SHOWN = 10


def why(schedule: Schedule) -> str:
    """What a schedule shows, or nothing."""
    try:
        simulate(schedule, current())
    except Violation as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def work(seeds: range) -> tuple[int, list[tuple[int, str]]]:
    """Events of some schedules, and the seeds that fail."""
    events, failed = 0, []
    for seed in seeds:
        try:
            events += simulate(make(seed), current())
        except Exception:
            failed.append((seed, why(make(seed))))
    return events, failed


def chunks(first: int, count: int) -> Iterator[range]:
    for begin in range(first, first + count, CHUNK):
        yield range(begin, min(begin + CHUNK, first + count))


def main(count: int, first: int) -> int:
    begin = time.monotonic()
    events, failed = 0, []
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for some, bad in pool.imap_unordered(work, chunks(first, count)):
            events += some
            failed += bad
    seconds = time.monotonic() - begin
    print(
        f"{count} schedules of {len(KINDS)} kinds of faults, {events} events, in {seconds:.0f} s: "
        f"{count / seconds:.0f} schedules a second on {os.cpu_count()} processors; {len(failed)} failed"
    )
    for seed, text in sorted(failed)[:MOST_SHOWN]:
        small = shrink(make(seed), lambda schedule: bool(why(schedule)))
        print(f"\nseed {seed}: {text}\n  smallest: {small!r}\n  shows: {why(small)}")
    return 1 if failed else 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [100_000, 0][len(numbers) :])))
