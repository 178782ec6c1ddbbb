"""What must hold before a number is shown: a pure function from evidence to reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from manyhost.benchmark.evidence import Attempt, Evidence, Latencies, Statistic
from manyhost.benchmark.result import ClientError, Error, Load, Reason, Truth
from manyhost.catalog.scenario import Question, Questions

BUDGET_MS = 1.0  # what the client may be wrong by, of each metric,
BUDGET_SHARE = 0.02  # or this share of the metric's median, where that is more
JUDGED = ("mean", "p50", "p99")  # what it is spread over more processes for; the median decides over a run
# Statistics that share the calibration's error of one of them: what is nearer to the end is more off than it.
_SAME_ERROR = (
    ("mean", ("mean", "stddev")),
    ("p50", ("p50", "p25", "p75")),
    ("p90", ("p90",)),
    ("p99", ("p95", "p99", "p99p9", "max")),
)
_FAILED_SHARE = (
    0.01  # of the requests; failures are failures and no zeros, but a benchmark of a broken service none
)
_PROMPT_TOKENS_SHARE = 0.001  # between client and server
_SATURATED = 0.9  # of a core: asyncio's loop has no time left to note when things came
_SKEW_SHARE = 0.05  # of the duration: beyond it the client's processes measured different loads
_HITS_SHARE = 0.05  # of prompt tokens that the cache knew, though no prompts have anything in common
_EMPTY_SHARE = 0.01  # of the answers


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod of the release really is, read back from the cluster.

    Attributes:
        pod: Its name.
        differences: What of it is not as planned, each "what: is X, planned Y".
    """

    pod: str
    differences: tuple[str, ...]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan says that the server and the load should be.

    Attributes:
        key: Of the point.
        load: What was to be sent.
        engine: vLLM's version, as its server says it (0.26.0); empty where the image is one's own.
        model: The name that clients use.
        context: Longest request, tokens.
        cache: Parts of vLLM's cache configuration that the plan sets, by its own names.
        trained: Whether the model's answers can be right.
        questions: What it was asked.
        deployed: The release's pods; empty when a URL is measured.
    """

    key: str
    load: Load
    engine: str
    model: str
    context: int
    cache: dict[str, str]
    trained: bool
    questions: Questions
    deployed: tuple[Deployed, ...]


def judge(evidence: Evidence, expected: Expected) -> list[Reason]:
    """Return why the numbers of a measurement must not be shown; an empty list lets them through."""
    checks = (
        ("run", _run),
        ("deployment", _deployment),
        ("answers", _answers),
        ("warm-up", _warm_up),
        ("requests", _requests),
        ("content", _content),
        ("tokens", _tokens),
        ("finish", _finish),
        ("cache", _cache),
        ("client", _client),
    )
    return [Reason(name, text) for name, check in checks for text in check(evidence, expected)]


def client_error(evidence: Evidence) -> ClientError:
    """Return how far the client is from the truth, beside the medians that it measured."""
    if not evidence.calibration or not evidence.calibration.attempts:
        return ClientError()
    chosen = evidence.calibration.attempts[evidence.calibration.chosen]
    return ClientError(**{name: _error(chosen, evidence, name) for name in ("ttft_ms", "tpot_ms", "itl_ms")})


def believed(found: Latencies, error: ClientError) -> Latencies:
    """Return distributions without the statistics in which the client's own error is beyond its budget."""

    def kept(statistic: Statistic | None, off: Error | None) -> Statistic | None:
        if statistic is None or off is None:
            return statistic
        lost = [
            name for which, names in _SAME_ERROR for name in names if abs(getattr(off, which)) > off.budget
        ]
        return msgspec.structs.replace(statistic, **dict.fromkeys(lost))

    return Latencies(
        ttft_ms=kept(found.ttft_ms, error.ttft_ms),
        tpot_ms=kept(found.tpot_ms, error.tpot_ms),
        itl_ms=kept(found.itl_ms, error.itl_ms),
        e2e_ms=found.e2e_ms,
    )


def truth(evidence: Evidence, expected: Expected) -> Truth:
    """Return what became of the fixed questions."""
    asked = evidence.answers
    if expected.trained:
        questions = [*expected.questions.facts, *expected.questions.graded]
        right = sum(_right(q, a.answer) for q, a in zip(questions, asked, strict=False))
        count = len(asked)
    else:
        count = len(asked) // 2
        right = sum(_same(asked[i], asked[i + count]) for i in range(count))
    return Truth(
        trained=expected.trained,
        asked=count,
        right=right,
        floor=expected.questions.floor if expected.trained else 1.0,
        answers=asked,
    )


def prompts(questions: Questions, *, trained: bool) -> list[str]:
    """Return what to ask: every question, or of an untrained model the facts twice."""
    facts = [question.prompt for question in questions.facts]
    return facts + [question.prompt for question in questions.graded] if trained else facts * 2


def _run(evidence: Evidence, expected: Expected) -> Iterator[str]:
    if evidence.error:
        yield evidence.error
    if evidence.key != expected.key:
        yield f"the client measured {evidence.key}, and {expected.key} was asked for"
    if not evidence.before or not evidence.after:
        yield "the engine's counters were not read before and after the load"


def _deployment(evidence: Evidence, expected: Expected) -> Iterator[str]:
    for pod in expected.deployed:
        for text in pod.differences:
            yield f"pod {pod.pod} is not as planned: {text}"
    server = evidence.server
    if not server:
        return
    version = server.version.partition("+")[0]
    if expected.engine and version != expected.engine:
        yield f"the server is vLLM {version}, planned {expected.engine}"
    if server.model != expected.model:
        yield f"the server's model is {server.model}, planned {expected.model}"
    if server.context and server.context != expected.context:
        yield f"the server's longest request is {server.context} tokens, planned {expected.context}"
    for name, wanted in expected.cache.items():
        found = server.cache_config.get(name)
        if found is not None and not _equal(found, wanted):
            yield f"the server's {name} is {found}, planned {wanted}"


def _answers(evidence: Evidence, expected: Expected) -> Iterator[str]:
    answers, questions = evidence.answers, expected.questions
    if not answers:
        yield "no question was asked"
        return
    for answer in answers:
        if answer.error:
            yield f"{_short(answer.prompt)}: {answer.error}"
        elif not answer.answer.strip() and not answer.reasoning:
            yield f"{_short(answer.prompt)}: an empty answer"
        elif answer.finish_reason not in ("stop", "length"):
            yield f"{_short(answer.prompt)}: ended with {answer.finish_reason or 'no reason'}"
    if not expected.trained:
        half = len(answers) // 2
        for first, second in zip(answers[:half], answers[half:], strict=False):
            if not _same(first, second):
                yield f"{_short(first.prompt)}: two answers at temperature 0, and they differ"
        return
    facts = len(questions.facts)
    for question, answer in zip(questions.facts, answers, strict=False):
        if not answer.error and not _right(question, answer.answer):
            yield f"{_short(question.prompt)}: {_short(answer.answer) or 'nothing'} is wrong"
    graded = list(zip(questions.graded, answers[facts:], strict=False))
    right = sum(_right(question, answer.answer) for question, answer in graded)
    if right < questions.floor * len(questions.graded):
        yield f"{right} of {len(questions.graded)} graded answers are right, {questions.floor:.0%} must be"


def _warm_up(evidence: Evidence, _: Expected) -> Iterator[str]:
    warm = evidence.warm_up
    if not warm or not warm.requests:
        yield "there was no warm-up: the first requests would pay for compilation"
    elif warm.failed:
        yield f"{warm.failed} of {warm.requests} requests of the warm-up failed"
    if evidence.before and evidence.before.running + evidence.before.waiting:
        busy = evidence.before.running + evidence.before.waiting
        yield f"{busy:.0f} requests of somebody else were on the engine when the load began"


def _requests(evidence: Evidence, expected: Expected) -> Iterator[str]:
    sent, failed = len(evidence.requests.ok), evidence.requests.ok.count(0)
    if sent != expected.load.requests:
        yield f"{sent} requests were sent, {expected.load.requests} planned"
    if sent and failed > _FAILED_SHARE * sent:
        said = f": {evidence.errors[0]}" if evidence.errors else ""
        yield f"{failed} of {sent} requests failed{said}"


def _content(evidence: Evidence, expected: Expected) -> Iterator[str]:
    requests, load = evidence.requests, expected.load
    completed = sum(requests.ok)
    empty = sum(requests.empty)
    if empty > _EMPTY_SHARE * completed:
        yield f"{empty} of {completed} answers have no text"
    if not load.ignore_eos:
        return
    most = load.output_tokens * (1 + load.spread)
    least = load.output_tokens * (1 - load.spread)
    rows = zip(requests.output, requests.ok, strict=True)
    wrong = sum(1 for tokens, ok in rows if ok and not int(least) <= tokens <= most + 1)
    if wrong:
        yield f"{wrong} of {completed} answers are not of the length that was asked for"


def _tokens(evidence: Evidence, _: Expected) -> Iterator[str]:
    before, after, requests = evidence.before, evidence.after, evidence.requests
    if not before or not after or not requests.ok:
        return
    done = sum(requests.ok)
    output = sum(tokens for tokens, ok in zip(requests.output, requests.ok, strict=True) if ok)
    prompt = sum(tokens for tokens, ok in zip(requests.input, requests.ok, strict=True) if ok)
    # The first request of every start of the engine is the launcher's own, one prompt and one answer token.
    others = max(0, _finished(evidence) - done)
    failed = len(requests.ok) - done
    counted = after.generation_tokens - before.generation_tokens
    if counted < 0:
        yield "the engine's counters went back: it was started anew during the load"
        return
    if not failed and counted - output not in range(others + 1):
        yield f"the client counts {output} output tokens, the engine {counted:.0f}"
    counted = after.prompt_tokens - before.prompt_tokens
    # An engine whose prefix cache knew a part of a prompt counts the whole prompt (vllm:prompt_tokens).
    if not failed and abs(counted - prompt) > _PROMPT_TOKENS_SHARE * prompt + others:
        yield f"the client counts {prompt} prompt tokens, the engine {counted:.0f}"


def _finish(evidence: Evidence, expected: Expected) -> Iterator[str]:
    before, after = evidence.before, evidence.after
    if not before or not after:
        return
    allowed = {"length"} if expected.load.ignore_eos else {"length", "stop"}
    for reason, count in sorted(after.finished.items()):
        more = count - before.finished.get(reason, 0.0)
        if more > 0 and reason not in allowed and more > _FAILED_SHARE * expected.load.requests:
            yield f"{more:.0f} requests ended with {reason} on the engine"
    done = sum(evidence.requests.ok)
    if evidence.requests.ok and _finished(evidence) < done:
        yield f"the engine has finished {_finished(evidence)} requests, the client {done}"


def _cache(evidence: Evidence, expected: Expected) -> Iterator[str]:
    before, after = evidence.before, evidence.after
    if not before or not after or expected.load.prefix_tokens:
        return
    queries = after.prefix_cache_queries - before.prefix_cache_queries
    hits = after.prefix_cache_hits - before.prefix_cache_hits
    if queries > 0 and hits > _HITS_SHARE * queries:
        yield (
            f"the prefix cache knew {hits / queries:.0%} of the prompts, though they have nothing in common: "
            "the same ones were sent before"
        )


def _client(evidence: Evidence, _: Expected) -> Iterator[str]:
    calibration = evidence.calibration
    if not calibration or not calibration.attempts:
        yield "the client was not calibrated"
        return
    last = calibration.attempts[calibration.chosen]
    if last.error or last.failed:
        yield f"the client's calibration failed: {last.error or f'{last.failed} requests'}"
        return
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        error = _error(last, evidence, name)
        if error is None:
            continue
        if abs(error.p50) > error.budget:
            yield (
                f"the client's own error in the median {name[:-3].upper()} is {error.p50:+.2f} ms at "
                f"{calibration.streams} streams over {last.processes} processes, "
                f"{error.budget:.2f} ms are allowed"
            )
    if evidence.cpu > _SATURATED:
        yield f"the client was saturated: a process used {evidence.cpu:.0%} of a core"
    if evidence.skew > _SKEW_SHARE * evidence.seconds:
        yield f"the client's processes began {evidence.skew:.1f} s apart, in {evidence.seconds:.1f} s of load"


def _error(attempt: Attempt, evidence: Evidence, name: str) -> Error | None:
    truth, measured = getattr(attempt.truth, name), getattr(attempt.measured, name)
    if truth is None or measured is None:
        return None
    of_load = getattr(evidence.latencies, name)
    median = (of_load or truth).p50
    off = {which: getattr(measured, which) - getattr(truth, which) for which in ("mean", "p50", "p90", "p99")}
    return Error(**off, budget=max(BUDGET_MS, BUDGET_SHARE * median))


def _finished(evidence: Evidence) -> int:
    """Requests that the engine has finished well during the load."""
    if not evidence.before or not evidence.after:
        return 0
    before, after = evidence.before.finished, evidence.after.finished
    return round(sum(after.get(name, 0.0) - before.get(name, 0.0) for name in ("stop", "length")))


def _right(question: Question, answer: str) -> bool:
    if isinstance(question.answer, int):
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
        return bool(numbers) and float(numbers[-1].replace(",", "")) == question.answer
    return re.search(rf"\b{question.answer}\b", answer, re.IGNORECASE) is not None


def _same(first: Any, second: Any) -> bool:
    return bool(first.answer == second.answer and first.tokens == second.tokens and not first.error)


def _equal(found: str, wanted: str) -> bool:
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found.lower() == wanted.lower()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
