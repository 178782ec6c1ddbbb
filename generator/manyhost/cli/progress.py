"""Showing the events of a wait: plain lines, or a table that stays in place on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.table import Table

    from manyhost.cluster.rollout import Event


def line(event: Event) -> str:
    """Return an event as one line."""
    at = f"{event.seconds:7.1f} s "
    group = f"{event.role} group {event.group}".strip()
    who = f"{group} host {event.host}" if event.group >= 0 else ""
    if event.event == "phase":
        node = f" on {event.node}" if event.node else ""
        detail = f": {event.text}" if event.text else ""
        return f"{at} {who} ({event.pod}{node}) {event.phase}{detail}"
    if event.event == "recreated":
        return f"{at} {group} starts anew: {event.text}"
    if event.event == "ready":
        return f"{at} every host is ready"
    return f"{at} {event.text}"


def lines(event: Event) -> Iterator[str]:
    """Return an event with what belongs to it: the end of a log, and what to do."""
    yield line(event)
    yield from (f"           | {text}" for text in event.log)
    if event.fix:
        yield f"           fix: {event.fix}"


class Board:
    """A table with one row a host, and below it what went wrong last."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._rows: dict[tuple[str, int, int], Event] = {}
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        for event in self._rows.values():
            self._console.print(line(event), markup=False, highlight=False)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.event == "phase":
            self._rows[event.role, event.group, event.host] = event
            self._live.update(self._table())
            return
        for text in lines(event):
            self._console.print(text, markup=False, highlight=False)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("group", "host", "pod", "node", "phase", "since", "detail", box=None)
        for (role, group, host), event in sorted(self._rows.items())[:60]:  # what a screen can hold
            cells = [
                f"{role} {group}".strip(),
                str(host),
                event.pod,
                event.node,
                event.phase,
                f"{event.seconds:.0f} s",
                event.text,
            ]
            table.add_row(*(Text(cell) for cell in cells))
        return table
