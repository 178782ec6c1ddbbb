"""The chart's refusals in the words of settings: people wrote those, not Helm values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from manyhost.catalog.written import WRITTEN
from manyhost.errors import InvalidInput, first

SETTINGS = {value: settings for value, settings in WRITTEN.items() if settings}
_PAIRS = ("network.ncclSettings", "vllm.env")  # lists of {name, value} there, maps in settings
_MAPS = (
    *_PAIRS,
    "vllm.serverArgs",
    "roles.prefill.serverArgs",
    "roles.decode.serverArgs",
    "host.nodeSelector",
)
_POINTER = re.compile(r"^at '(?P<pointer>/[^']*)': (?P<text>.*)$", re.S)
_DOTTED = re.compile(r"^(?P<key>[A-Za-z][\w./\[\]-]*): (?P<text>.*)$", re.S)
_MENTION = (  # a text: compiled, it would cost each render 2 ms
    rf"(?<![\w./-])(?:{'|'.join(sorted(map(re.escape, SETTINGS), key=len, reverse=True))})"
    r"(?:\[\d+\])?(?:\.[A-Za-z]\w*)*(?![\w/-])"
)


class ChartRefusal(InvalidInput):
    """The chart does not take the values.

    Attributes:
        problems: One text each: "key: what is wrong; what to do", or a schema's "at '/key': what is wrong".
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), where="chart")
        self.problems = problems


def in_settings(refusal: ChartRefusal, values: dict[str, Any], origin: Callable[[str], str]) -> InvalidInput:
    """Return the same refusal, naming the setting and its origin wherever a value comes from one.

    Args:
        refusal: What the chart said.
        values: The Helm values that it refused.
        origin: Says where the value of a setting came from; "default" when nobody set it.
    """
    return first([_in_settings(*_split(problem), values, origin) for problem in refusal.problems])


def _in_settings(key: str, text: str, values: dict[str, Any], origin: Callable[[str], str]) -> InvalidInput:
    text = re.sub(_MENTION, lambda match: " or ".join(_names(match[0], values, origin)), text)
    what, fix = _parted(text)
    names = _names(key, values, origin)
    if key not in _MAPS:  # their entries come from several places
        names = [f"{origin(name.partition('[')[0])}: {name}" for name in names]
    return InvalidInput(
        what,
        where=" and ".join(names) or (f"chart: {key}" if key else "chart"),
        fix=fix,
    )


def _parted(text: str) -> tuple[str, str]:
    """Return what is wrong and what to do, parted by "; ": not by one of a value in quotes."""
    for found in re.finditer("; ", text):
        what, fix = text[: found.start()], text[found.end() :]
        if what.count("'") % 2 == 0 or fix.count("'") % 2 == 0:
            return what, fix
    return text, ""


def _split(problem: str) -> tuple[str, str]:
    """Return the Helm value that a problem is about, written a.b[0].c, and the rest of the text."""
    if match := _POINTER.match(problem):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in match["pointer"][1:].split("/")]
        key = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts).lstrip(".")
        return key, match["text"]
    if match := _DOTTED.match(problem):
        return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", match["key"]), match["text"]  # Helm 3 writes list.0
    return "", problem


def _names(key: str, values: dict[str, Any], origin: Callable[[str], str]) -> list[str]:
    """Return the settings behind a Helm value, those that somebody set when there are several; or none."""
    whole = next((item for item in SETTINGS if re.match(rf"{re.escape(item)}($|[.\[])", key)), "")
    if not whole:
        passed = f"chart.{key.partition('[')[0]}"
        return [f"chart.{key}"] if key and origin(passed) != "default" else []
    found = SETTINGS[whole]
    if len(found) > 1:
        return [name for name in found if origin(name) != "default"] or [found[0]]
    below = key[len(whole) :]
    if whole == "volumes.gcsMounts":
        below = ""
    elif whole == "volumes.hostMounts":
        below = re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", below)
    elif whole in _PAIRS and (index := re.match(r"\[(\d+)\]", below)):
        group, _, name = whole.partition(".")
        below = f".{values[group][name][int(index[1])]['name']}"
    return [f"{found[0]}{below}"]
