"""Ctrl-C, a termination and a terminal that goes away: when they break off what is done, and when they wait.

Python raises KeyboardInterrupt between any two of its steps: in an import it would end in a traceback, and
between two files in half of what belongs together.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS: Final = 0.01
_came: list[int] = []


def adopt(came: list[int]) -> None:
    """Take over the signals that the start of the program notes."""
    global _came  # noqa: PLW0603  the very list: signals may still come
    _came = came


def ignore() -> None:
    """Let signals do nothing any more: the program ends within milliseconds."""
    _handle(signal.SIG_IGN)


@contextmanager
def allowed() -> Iterator[None]:
    """Let signals raise KeyboardInterrupt; one that has waited does so now."""
    before = {**_handle(_raise), signal.SIGALRM: signal.signal(signal.SIGALRM, _raise)}
    reported = sys.unraisablehook
    sys.unraisablehook = _later
    try:
        if _came:
            raise KeyboardInterrupt
        yield
    finally:
        _restore(before)
        sys.unraisablehook = reported


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait for the end of what must not be done by halves."""
    noted: list[int] = []
    before = _handle(lambda number, _: noted.append(number))
    try:
        yield
    finally:
        _restore(before)
        if noted:
            signal.raise_signal(noted[0])


@contextmanager
def ignored() -> Iterator[None]:
    """Let signals do nothing, so that the last line is whole."""
    before = _handle(signal.SIG_IGN)
    try:
        yield
    finally:
        _restore(before)


def came() -> bool:
    """Say whether a signal has come, so that what failed after it has failed by it."""
    return bool(_came)


def forget() -> None:
    """Begin anew."""
    _came.clear()


def _handle(handler: Any) -> dict[int, Any]:
    """Set a handler for signals that are not ignored (nohup, a shell's background); return those before."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
    except ValueError:  # only the main thread may, and only it is interrupted
        return {}
    return before


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def _raise(number: int, _frame: object) -> None:
    _came.append(number)
    raise KeyboardInterrupt


def _later(problem: sys.UnraisableHookArgs) -> None:
    """Come back: an interrupt in a destructor or a callback is lost, and Python would print a traceback."""
    if issubclass(problem.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    else:
        sys.__unraisablehook__(problem)
