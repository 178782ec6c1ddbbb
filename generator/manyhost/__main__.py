"""Where the program begins, `manyhost` and `python -m manyhost`: a signal waits until it can be answered.

Until then it would end in Python's own traceback. Nothing is imported before that Python has not loaded
itself: `signal` alone takes half as long as the start of Python.
"""

import _signal
import os

_came: list[int] = []


def _note(number: int, _frame: object) -> None:
    """Remember a signal; a second one ends the program at once."""
    if _came:
        os.write(2, b"manyhost: interrupted\n")
        os._exit(130)  # errors.Interrupted
    _came.append(number)


for _number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    if _signal.getsignal(_number) != _signal.SIG_IGN:  # as nohup and a shell's background have it
        _signal.signal(_number, _note)


def main() -> None:
    """Run the command line."""
    from manyhost import interrupts  # noqa: PLC0415

    interrupts.adopt(_came)
    from manyhost import cli  # noqa: PLC0415

    cli.entry()


if __name__ == "__main__":
    main()
