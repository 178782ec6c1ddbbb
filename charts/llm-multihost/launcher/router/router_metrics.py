"""What the router tells Prometheus: of itself only, engines are scraped where they are. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from router_admission import Admission
from router_backends import Pool

_HELP = {
    "requests_total": ("counter", "Completions by what a prefill group did for them."),
    "refused_total": ("counter", "Requests that no engine saw, by reason."),
    "answers_total": ("counter", "Answers of engines by status."),
    "lost_total": ("counter", "Requests that an engine did not answer to the end."),
    "retries_total": ("counter", "Requests sent to another engine before the first byte of an answer."),
    "prefill_seconds": ("summary", "Time that prefill groups took for their part."),
    "in_flight": ("gauge", "Requests in flight."),
    "body_bytes": ("gauge", "Bytes of request bodies that are held."),
    "backend_in_flight": ("gauge", "Requests in flight at a leader."),
    "backend_open": ("gauge", "Whether the breaker keeps requests away from a leader."),
    "draining": ("gauge", "Whether this router is about to end."),
}
OUTCOMES = ("done", "failed", "skipped")


class Metrics:
    """Counters, and the text that Prometheus reads."""

    def __init__(self) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.prefill_seconds = 0.0
        self.prefills = 0

    def count(self, name: str, label: str = "") -> None:
        """Add one to a counter; `label` as it stands between the braces."""
        self.counts[name, label] += 1

    def took(self, seconds: float) -> None:
        """A prefill group has done its part."""
        self.prefill_seconds += seconds
        self.prefills += 1

    def text(self, admission: Admission, pools: Iterable[Pool], draining: bool) -> str:
        """Return all series."""
        series: dict[str, list[tuple[str, float]]] = {name: [] for name in _HELP}
        series["requests_total"] = [(f'prefill="{key}"', 0) for key in OUTCOMES]
        for (name, label), number in sorted(self.counts.items()):
            series[name] = [item for item in series[name] if item[0] != label] + [(label, number)]
        for name in ("lost_total", "retries_total"):
            series[name] = series[name] or [("", 0)]
        series["in_flight"] = [("", admission.requests)]
        series["body_bytes"] = [("", admission.bytes)]
        series["draining"] = [("", int(draining))]
        for pool in pools:
            for backend in pool.backends.values():
                label = f'role="{pool.role}",backend="{backend.name}"'
                series["backend_in_flight"].append((label, backend.in_flight))
                series["backend_open"].append((label, int(backend.open)))
        lines = []
        for name, (kind, text) in _HELP.items():
            full = f"manyhost_router_{name}"
            lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
            if kind == "summary":
                lines += [f"{full}_sum {self.prefill_seconds:.6f}", f"{full}_count {self.prefills}"]
            for label, value in series[name]:
                lines.append(f"{full}{{{label}}} {value}" if label else f"{full} {value}")
        return "\n".join(lines) + "\n"
