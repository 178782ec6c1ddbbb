"""Planted faults: no number, and the reason named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from manyhost.benchmark import gate
from manyhost.benchmark.gate import Deployed
from manyhost.benchmark.measurement import measurement
from manyhost.benchmark.table import table

from tests.unit.benchmark import sample

POINT = sample.point()
Document = dict[str, Any]


def judged(found: Document, **changes: Any) -> dict[str, str]:
    """Reasons by check."""
    wanted = msgspec.structs.replace(sample.wanted(POINT), **changes)
    reasons: dict[str, str] = {}
    for reason in gate.judge(sample.evidence(found), wanted):
        before = f"{reasons[reason.check]}\n" if reason.check in reasons else ""
        reasons[reason.check] = before + reason.message
    return reasons


def test_what_is_right_passes() -> None:
    assert judged(sample.document(POINT)) == {}
    trained = {"trained": True}
    assert judged(sample.document(POINT, trained=True), **trained) == {}


def half_fail(found: Document) -> None:
    rows = found["requests"]
    for number in range(0, len(rows["ok"]), 2):
        rows["ok"][number] = rows["output"][number] = rows["chunks"][number] = 0
    done = sum(rows["ok"])
    found["after"]["generation_tokens"] = 900.0 + sum(rows["output"])
    found["after"]["finished"]["length"] = 10.0 + done
    found["errors"] = ["Service Unavailable"]


def no_text(found: Document) -> None:
    found["requests"]["empty"] = [1] * len(found["requests"]["empty"])


def stopped_early(found: Document) -> None:
    rows = found["requests"]
    rows["output"] = [9] * len(rows["output"])
    found["after"]["generation_tokens"] = 900.0 + 9 * len(rows["output"])


def slower(name: str, by: float) -> Callable[[Document], None]:
    """The client sees every time of the calibration so much later than it was."""

    def change(found: Document) -> None:
        attempt = found["calibration"]["attempts"][0]
        shifted = {
            key: value + (key not in ("count", "stddev")) * by
            for key, value in attempt["truth"][name].items()
        }
        attempt["measured"] = {**attempt["measured"], name: shifted}

    return change


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Set one field."""

    def change(found: Document) -> None:
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        place: Any = found
        for step in steps:
            place = place[step]
        place[last] = value

    return change


NOTHING = {**sample.ANSWER, "prompt": "?", "answer": " ", "reasoning": 0}
CUT_OFF = {**sample.ANSWER, "prompt": "?", "answer": "x", "finish_reason": "abort"}
FEWER = {"length": 11.0, "stop": 10.0}
ABORTED = {"length": 34.0, "stop": 10.0, "abort": 9.0}


def other_answer(found: Document) -> None:
    found["answers"][5] = {**found["answers"][5], "answer": "another"}


FAULTS: list[tuple[str, Callable[[Document], None], str, str]] = [
    ("tool failed", put("error", "vllm ended with exit code 1"), "run", "exit code 1"),
    ("other point", put("key", "0123"), "run", "0123"),
    ("no counters", put("after", None), "run", "counters"),
    ("other engine", put("server.version", "0.31.0"), "deployment", "vLLM 0.31.0, planned 0.32.0"),
    ("other model", put("server.model", "gpt2"), "deployment", "gpt2"),
    ("other context", put("server.context", 4096), "deployment", "4096 tokens, planned 2048"),
    ("no questions", put("answers", []), "answers", "no question"),
    ("empty answer", put("answers.2", NOTHING), "answers", "empty"),
    ("aborted answer", put("answers.2", CUT_OFF), "answers", "abort"),
    ("unsteady answers", other_answer, "answers", "they differ"),
    ("no warm-up", put("warm_up", None), "warm-up", "no warm-up"),
    ("warm-up failed", put("warm_up.failed", 2), "warm-up", "2 of 4"),
    ("somebody else", put("before.running", 3.0), "warm-up", "somebody else"),
    ("half the requests fail", half_fail, "requests", "12 of 24 requests failed: Service Unavailable"),
    ("garbage: no text", no_text, "content", "24 of 24 answers have no text"),
    ("answers end early", stopped_early, "content", "length that was asked for"),
    ("server counts more", put("after.generation_tokens", 9e5), "tokens", "the engine 899100"),
    ("server counts fewer", put("after.prompt_tokens", 5001.0), "tokens", "the engine 1"),
    ("engine started anew", put("after.generation_tokens", 12.0), "tokens", "started anew"),
    ("aborted on the engine", put("after.finished", ABORTED), "finish", "9 requests ended with abort"),
    ("engine finished fewer", put("after.finished", FEWER), "finish", "has finished 1"),
    ("warm cache", put("after.prefix_cache_hits", 9000.0), "cache", "the same ones were sent before"),
    ("not calibrated", put("calibration", None), "client", "not calibrated"),
    ("calibration failed", put("calibration.attempts.0.error", "no port"), "client", "no port"),
    ("slow client", slower("ttft_ms", 9.0), "client", "median TTFT is +9.00 ms"),
    ("client misses chunks", slower("itl_ms", 1.5), "client", "median ITL is +1.50 ms"),
    ("saturated client", put("cpu", 0.97), "client", "saturated"),
    ("processes apart", put("skew", 30.0), "client", "30.0 s apart"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "check", "words"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_withholds_every_number(fault: Callable[[Document], None], check: str, words: str) -> None:
    found = sample.document(POINT)
    fault(found)
    reasons = judged(found)
    assert words in reasons.get(check, ""), reasons
    result = measurement(
        POINT, 0, sample.evidence(found), sample.wanted(POINT), tool="vllm", place="here", node="x"
    )
    assert not result.passed
    assert result.metrics is None
    assert words in "\n".join(table(result))


def test_another_flag_in_the_pod_than_in_the_recipe() -> None:
    pods = (Deployed(pod="tiny-r1-0", differences=("arguments have 8, planned 16",)),)
    reasons = judged(sample.document(POINT), deployed=pods)
    assert reasons == {"deployment": "pod tiny-r1-0 is not as planned: arguments have 8, planned 16"}


def test_another_cache_setting_than_planned() -> None:
    reasons = judged(sample.document(POINT), cache={"enable_prefix_caching": "False"})
    assert "enable_prefix_caching is True, planned False" in reasons["deployment"]


def test_a_trained_model_must_be_right() -> None:
    wrong = sample.document(POINT, trained=True)
    wrong["answers"][1]["answer"] = "It has 365 days."
    assert "365 days. is wrong" in judged(wrong, trained=True)["answers"]
    half = sample.document(POINT, trained=True)
    for answer in half["answers"][5:9]:
        answer["answer"] = "I do not know"
    assert judged(half, trained=True)["answers"] == "4 of 8 graded answers are right, 75% must be"


def test_the_number_that_counts_is_the_last_one() -> None:
    question = sample.CATALOG.questions().graded[0]
    assert gate._right(question, "12 * 15 = 180, and 7 more: **187**")
    assert gate._right(question, "They are 187.0 rolls, or 187")
    assert not gate._right(question, "187 is wrong, it is 180")


def test_known_prompts_are_no_fault_where_they_are_meant() -> None:
    of = sample.point("multi-turn")
    found = sample.document(of)
    found["after"]["prefix_cache_hits"] = found["after"]["prefix_cache_queries"] * 0.8
    assert gate.judge(sample.evidence(found), sample.wanted(of)) == []


def test_the_launchers_own_request_is_no_difference() -> None:
    """A group that was started anew before the load has answered one question of its launcher's."""
    found = sample.document(POINT)
    found["after"]["generation_tokens"] += 1
    found["after"]["prompt_tokens"] += 1
    found["after"]["finished"]["length"] += 1
    assert judged(found) == {}


def test_a_statistic_in_which_the_client_is_off_is_withheld_alone() -> None:
    found = sample.document(POINT)
    attempt = found["calibration"]["attempts"][0]
    measured = {**attempt["truth"]["ttft_ms"], "p99": 260.0, "mean": 205.0}
    attempt["measured"] = {**attempt["measured"], "ttft_ms": measured}
    result = measurement(
        POINT, 0, sample.evidence(found), sample.wanted(POINT), tool="vllm", place="here", node="x"
    )
    assert result.passed
    assert result.metrics
    times = result.metrics.latencies.ttft_ms
    assert times
    assert (times.p50, times.p90) == (200.0, 200.0)
    assert (times.mean, times.p99, times.max) == (None, None, None)
    assert "Mean TTFT (ms):                          withheld" in "\n".join(table(result))
    assert result.client_error.ttft_ms
    assert result.client_error.ttft_ms.p99 == pytest.approx(60.0)


def test_the_budget_is_one_millisecond_or_two_percent_of_the_median() -> None:
    found = sample.document(POINT)
    slower("ttft_ms", 3.9)(found)
    slower("tpot_ms", 0.9)(found)
    assert judged(found) == {}, "2 % of 200 ms, and 1 ms"
    slower("tpot_ms", 1.1)(found)
    assert "1.00 ms are allowed" in judged(found)["client"]
