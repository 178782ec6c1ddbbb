"""Scenarios: loads to measure a service with (values/scenarios/), and what a recipe makes of them.

recipes/<environment>/<recipe>/benchmark.yaml says which scenarios `manyhost bench` runs, in order, with the
keys that are the recipe's own.
"""

from typing import Annotated, Any

from msgspec import Meta

from manyhost.catalog.recipe import DAY_SECONDS, INT32
from manyhost.catalog.struct import Name, Positive, Struct

STREAMS = 10_000  # of one client; beyond it a machine runs out of ports and memory before the engine does
REQUESTS = 200_000  # of one measurement: their times have to leave the pod through its log


class Length(Struct, frozen=True):
    """Tokens of a prompt or of an answer: a number, a share of the context, or the recipe's own traffic."""

    tokens: Annotated[int, Meta(ge=0, le=INT32, description="Tokens; 0 for a share or the traffic.")] = 0
    share: Annotated[float, Meta(ge=0, lt=1, description="Share of the recipe's context.")] = 0.0


class Prefix(Struct, frozen=True):
    """Beginnings that prompts have in common, as turns of one conversation have."""

    count: Annotated[int, Meta(ge=1, le=REQUESTS, description="Different beginnings: conversations.")]
    share: Annotated[float, Meta(gt=0, lt=1, description="Share of the prompt that is common.")]


class Repetitions(Struct, frozen=True):
    """How often a point is measured: until the interval is narrow enough, or most often."""

    least: Annotated[int, Meta(ge=1, le=100)] = 1
    most: Annotated[int, Meta(ge=1, le=1000)] = 1
    width: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Half width of the 95 % interval of the output throughput, as a share of its mean, "
            "from which on no further repetition is needed.",
        ),
    ] = 0.05


class Slo(Struct, frozen=True):
    """What a request must keep to count as good; 0 leaves it to the recipe's objectives, or out (e2e_ms)."""

    ttft_ms: Annotated[int, Meta(ge=0, le=DAY_SECONDS * 1000)] = 0
    tpot_ms: Annotated[int, Meta(ge=0, le=DAY_SECONDS * 1000)] = 0
    e2e_ms: Annotated[int, Meta(ge=0, le=DAY_SECONDS * 1000)] = 0


class Scenario(Struct, frozen=True):
    """A load.

    Attributes:
        name: Its file's name.
        description: One line for people.
        input: Prompt tokens.
        output: Answer tokens.
        spread: Lengths vary evenly by this share around these.
        ignore_eos: Answers end at their length and not where the model would end them.
        concurrency: Requests in flight, a point each; 0 sends all at once.
        rates: Requests a second that arrive by chance (Poisson), a point each; concurrency is left out then.
        requests: Requests of one measurement.
        requests_per_stream: The same for each request in flight, where that makes more.
        prefix: What prompts have in common; left out they share nothing.
        repetitions: How often each point is measured.
        seconds: A point is measured again and again for so long; 0 is `repetitions` alone.
        until_saturated: Leave the points out that come after throughput has stopped growing.
        limit_seconds: Time limit of one measurement.
        slo: For goodput.
    """

    name: Name
    description: str
    requests: Annotated[int, Meta(ge=1, le=REQUESTS)]
    input: Length = Length()
    output: Length = Length()
    spread: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    ignore_eos: bool = True
    concurrency: Annotated[list[Annotated[int, Meta(ge=0, le=STREAMS)]], Meta(max_length=100)] = []
    rates: Annotated[list[Annotated[float, Meta(gt=0, le=STREAMS)]], Meta(max_length=100)] = []
    requests_per_stream: Annotated[int, Meta(ge=0, le=1000)] = 0
    prefix: Prefix | None = None
    repetitions: Repetitions = Repetitions()
    seconds: Annotated[int, Meta(ge=0, le=7 * DAY_SECONDS)] = 0
    until_saturated: bool = False
    limit_seconds: Annotated[int, Meta(ge=1, le=DAY_SECONDS)] = 3600
    slo: Slo = Slo()


class Benchmark(Struct, frozen=True):
    """A recipe's benchmark.yaml.

    Attributes:
        scenarios: By name, in the order in which they run; each with the scenario's keys that it changes.
    """

    scenarios: Annotated[dict[str, dict[str, Any] | None], Meta(min_length=1)]


class Question(Struct, frozen=True):
    """A prompt whose answer can be checked.

    Attributes:
        prompt: What is asked, in a chat.
        answer: A regular expression that must match somewhere in what is said, its case aside; or a number,
            which the last number of what is said must equal.
    """

    prompt: str
    answer: str | int


class Questions(Struct, frozen=True):
    """What a trained model is asked before any number is shown (values/questions.yaml).

    Attributes:
        floor: Least share of the graded questions that must be right.
        facts: Questions that must all be right.
        graded: Questions of which that share must be.
        most_tokens: Limit of an answer, its reasoning included.
    """

    floor: Annotated[float, Meta(ge=0, le=1)]
    facts: list[Question]
    graded: list[Question]
    most_tokens: Positive


def scenario_problem(scenario: Scenario) -> tuple[str, str]:  # noqa: PLR0911  one return a contradiction
    """Return the key of a scenario that contradicts another one, and why; empty texts when none does."""
    if bool(scenario.concurrency) == bool(scenario.rates):
        return "concurrency and rates", "a scenario has one of the two"
    for key, length in (("input", scenario.input), ("output", scenario.output)):
        if length.tokens and length.share:
            return f"{key}.share", "tokens are given as well"
    if scenario.prefix and scenario.spread:
        return "spread", "the runner's prompts with a common beginning are all of one length"
    if scenario.repetitions.least > scenario.repetitions.most:
        return "repetitions.least", f"is more than the most, {scenario.repetitions.most}"
    if scenario.until_saturated and (scenario.rates or 0 in scenario.concurrency):
        return "until_saturated", "needs points with ascending concurrency"
    if scenario.until_saturated and scenario.concurrency != sorted(set(scenario.concurrency)):
        return "concurrency", "must ascend, for until_saturated"
    return "", ""
