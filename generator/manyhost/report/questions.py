"""What runs say about choices: one host or several, mp or Ray, one place or another. Pure.

An answer stands on two runs of the same model that differ in this choice, at loads that both have measured;
what else they differ in stands beside it. Where there are no such runs there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import msgspec

from manyhost.benchmark.result import Deployment
from manyhost.report.compare import Line, compare
from manyhost.report.runs import Results


class Question(msgspec.Struct, frozen=True):
    """A choice that somebody who deploys has to make.

    Attributes:
        what: The fact about a run that is chosen.
        title: The choice.
        brings: Facts that are others because this one is.
    """

    what: str
    title: str
    brings: tuple[str, ...] = ()


QUESTIONS = (
    Question("hosts", "One host or several", ("GPUs", "layout", "interconnect")),
    Question("roles", "Prefill and decode together or apart", ("layout",)),
    Question("layout", "How the model lies on the same hosts"),
    Question("executor", "vLLM's own multi-node or Ray", ("image",)),
    Question("environment", "One place or another", ("machine", "interconnect", "image")),
    Question("engine", "One version of the engine or another", ("image",)),
)


_CONTEXT = "max-model-len"  # the argument that is the context, which is a fact of its own


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What two runs say to a question.

    Attributes:
        question: Its title.
        what: The fact that is chosen.
        base: Place of the run that the other is held against, among the runs.
        run: Place of the other.
        choices: What each has chosen.
        others: What else they differ in, that the choice does not bring: name, first, second.
        lines: What differs, as `manyhost compare` says it.
    """

    question: str
    what: str
    base: int
    run: int
    choices: tuple[str, str]
    others: list[tuple[str, str, str]]
    lines: list[Line]


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A question that these runs do not answer.

    Attributes:
        question: Its title.
        reason: Why not.
    """

    question: str
    reason: str


def answers(runs: Sequence[Results]) -> tuple[list[Answer], list[Open]]:
    """Return what runs say to each question, and the questions to which they say nothing.

    Of several pairs those count that differ in the fewest other things.
    """
    known = [facts(run) for run in runs]
    told: list[Answer] = []
    still: list[Open] = []
    for question in QUESTIONS:
        found, reasons = [], []
        for one, two in combinations(range(len(runs)), 2):
            if not _asks(question, known[one], known[two]):
                continue
            held = compare([runs[one], runs[two]])
            if not held.lines:
                reasons += held.left_out
                continue
            found.append(
                Answer(
                    question=question.title,
                    what=question.what,
                    base=one,
                    run=two,
                    choices=(known[one][question.what], known[two][question.what]),
                    others=list(_others(question, known[one], known[two])),
                    lines=held.lines,
                )
            )
        if found:
            fewest = min(len(each.others) for each in found)
            told += [each for each in found if len(each.others) == fewest]
        else:
            still.append(
                Open(question=question.title, reason=reasons[0] if reasons else _alike(question, known))
            )
    return told, still


def facts(run: Results) -> dict[str, str]:
    """Return what is known of a run that can make its numbers others, by name."""
    of = run.run.deployment
    arguments: dict[str, list[str]] = {}
    for role in of.roles:
        for name, value in role.arguments.items():
            if name != _CONTEXT:
                arguments.setdefault(f"--{name}", []).append(str(value))
    return {
        "model": of.model,
        "environment": of.environment,
        "machine": of.machine_type,
        "hosts": str(of.hosts),
        "GPUs": str(of.gpus),
        "GPU": of.gpu,
        "roles": " and ".join(role.name for role in of.roles),
        "layout": layout(of),
        "interconnect": of.interconnect,
        "engine": of.engine,
        "image": of.image,
        "executor": of.executor,
        "context": str(of.context),
        "client": client(run),
        **{name: ", ".join(dict.fromkeys(values)) for name, values in arguments.items()},
    }


def layout(of: Deployment) -> str:
    """Return how the model lies on the GPUs, for people."""
    kinds = ("tensor", "pipeline", "data")
    return "; ".join(
        ", ".join(
            [
                f"{_many(role.groups, 'group')} of {_many(role.hosts, 'host')}",
                *(f"{kind} {getattr(role, kind)}" for kind in kinds if getattr(role, kind) != 1),
            ]
        )
        for role in of.roles
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def client(run: Results) -> str:
    """Return what sent the load, and from where; empty where nothing was measured."""
    places = {"job": "in the cluster", "pod": "in the data center", "here": "from outside"}
    senders = dict.fromkeys(
        f"{each.client.tool} {each.client.version}, {places[each.client.place]}"
        for point in run.points
        for each in point.passed or point.measured
    )
    return " and ".join(senders)


def _asks(question: Question, one: dict[str, str], two: dict[str, str]) -> bool:
    """Whether two runs make different choices, and not only since another choice brings this one."""
    if one["model"] != two["model"] or one[question.what] == two[question.what]:
        return False
    return not any(
        question.what in other.brings and one[other.what] != two[other.what] for other in QUESTIONS
    )


def _alike(question: Question, known: Sequence[dict[str, str]]) -> str:
    values = {each[question.what] for each in known}
    if len(values) == 1:
        return f"{question.what} is the same in all runs: {values.pop()}"
    return f"no two runs of one model differ in {question.what} by a choice of its own"


def _others(question: Question, one: dict[str, str], two: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*one, *two]):
        first, second = one.get(name, "not set"), two.get(name, "not set")
        if first != second and name != question.what and name not in question.brings:
            yield name, first, second
