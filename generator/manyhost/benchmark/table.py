"""The table that vLLM's own benchmark prints: what users of the published recipe look for."""

from __future__ import annotations

from manyhost.benchmark.result import Measurement

_WIDTH = 50
_HEADS = (
    ("ttft_ms", "TTFT", "Time to First Token"),
    ("tpot_ms", "TPOT", "Time per Output Token (excl. 1st token)"),
    ("itl_ms", "ITL", "Inter-token Latency"),
    ("e2e_ms", "E2EL", "End-to-end Latency"),
)


def table(measured: Measurement) -> list[str]:
    """Return the lines of the table, and below it the client's own error; of withheld numbers the reasons."""
    found = measured.metrics
    if not found:
        return ["numbers withheld:", *(f"  {reason.check}: {reason.message}" for reason in measured.reasons)]
    load = measured.load
    lines = [f"{' Serving Benchmark Result ':=^{_WIDTH}}"]
    lines += [_line("Successful requests:", found.completed)]
    lines += [_line("Failed requests:", found.sent - found.completed)]
    lines += [_line("Maximum request concurrency:", load.concurrency)] if load.concurrency else []
    lines += [_line("Request rate configured (RPS):", load.rate)] if load.rate else []
    lines += [
        _line("Benchmark duration (s):", found.seconds),
        _line("Total input tokens:", found.input_tokens),
        _line("Total generated tokens:", found.output_tokens),
        _line("Request throughput (req/s):", found.request_rate),
        _line("Request goodput (req/s):", found.goodput),
        _line("Output token throughput (tok/s):", found.output_token_rate),
        _line("Peak output token throughput (tok/s):", found.peak_output_token_rate),
        _line("Peak concurrent requests:", found.peak_concurrency),
        _line("Total token throughput (tok/s):", found.total_token_rate),
    ]
    for name, short, head in _HEADS:
        times = getattr(found.latencies, name)
        if times:
            lines.append(f"{head:-^{_WIDTH}}")
            rows = (
                ("Mean", times.mean),
                ("Median", times.p50),
                ("P50", times.p50),
                ("P90", times.p90),
                ("P99", times.p99),
            )
            lines += [_line(f"{word} {short} (ms):", value) for word, value in rows]
    lines.append("=" * _WIDTH)
    errors = []
    for name, short, _ in _HEADS[:3]:
        error = getattr(measured.client_error, name)
        if error:
            errors.append(f"{short} {error.p50:+.2f} ms (P99 {error.p99:+.2f})")
    lines.append(f"client's own error, median: {', '.join(errors)}")
    if abs(found.tokens_per_chunk - 1) > 0.01:
        lines.append(f"a chunk has {found.tokens_per_chunk:.2f} tokens here: ITL is the gap between chunks")
    return lines


def _line(label: str, value: float | None) -> str:
    text = str(value) if isinstance(value, int) else "withheld" if value is None else f"{value:.2f}"
    return f"{label:<40} {text:<10}"
