"""Why an engine ended, found in what it has said."""

from __future__ import annotations

import sys

from tests.helpers.cli import ROOT

sys.path.insert(0, str(ROOT / "charts/llm-multihost/launcher"))

from manyhost_child import error_line

ULIMIT = (
    "(MainProcess pid=78) WARNING 11-26 20:50:43 [system_utils.py:255] Found ulimit of 20000 and failed to "
    "automatically increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. "
    "Consider increasing with ulimit -n\n"
)


def test_a_warning_that_names_an_error_is_no_reason() -> None:
    assert "Too many open files" not in error_line([ULIMIT, "Killed by somebody\n"])
    died = "(EngineCore pid=9) ERROR 11-26 20:51:00 [core.py:1] RuntimeError: CUDA error: out of memory\n"
    assert error_line([died, ULIMIT]) == "RuntimeError: CUDA error: out of memory"


def test_colours_are_not_part_of_it() -> None:
    line = (
        "\x1b[0;36m(RustFrontend pid=100)\x1b[0m \x1b[31mERROR\x1b[0m 11-26 20:59:46 [x.rs:1] broken pipe\n"
    )
    assert error_line([line]) == "broken pipe"
