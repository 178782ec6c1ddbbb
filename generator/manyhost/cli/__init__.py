"""The command line: one file a command, imported when it is used, so that --help is instant."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from itertools import pairwise

import click

from manyhost import __version__, interrupts, speed
from manyhost.cli.printer import Printer, ReaderGone
from manyhost.commands import program
from manyhost.errors import Interrupted, ManyhostError, RemoteError, no_space

# Command → (module, one line of help). The modules are not imported for `manyhost --help`.
COMMANDS = {
    "render": ("render", "Turn a recipe into checked values and manifests."),
    "check": ("check", "Check rendered manifests."),
    "explain": ("explain", "Say what a key is and where its value came from."),
    "list": ("list_", "List environments, models, engines and recipes."),
    "plan": ("plan", "List every way to serve a model, with memory, speed and price."),
    "migrate": ("migrate", "Move a recipe to another version of the engine."),
    "weights": ("weights", "Compare a model on the hub with the catalog."),
    "stage": ("stage", "Copy a model's weights into a bucket or a folder, once, proven."),
    "image": ("image", "Build an image of your own and pin it, or say what is known of the one in use."),
    "discover": ("discover", "Read a cluster and fill in values/local.yaml."),
    "doctor": ("doctor", "Check that a recipe would work on the cluster; costs nothing."),
    "deploy": ("deploy", "Install or upgrade a recipe and wait until it answers."),
    "status": ("status", "Show the groups of a release and why one is not ready."),
    "logs": ("logs", "Show the engine's logs."),
    "collect": ("collect", "Pack what a bug report needs, without secrets."),
    "chat": ("chat", "Talk to the model."),
    "dashboard": ("dashboard", "Show what a release does: tokens, times, queue, cost."),
    "bench": ("bench", "Measure it under load; numbers that cannot be believed are withheld."),
    "runs": ("runs", "List what was measured, in a folder or a bucket."),
    "report": ("report", "Write what was measured as one page: throughput, latency, limits, cost."),
    "compare": ("compare", "Say what differs between runs by more than chance."),
    "evaluate": ("evaluate", "Write the evaluation of several runs: set-up, results, limits, findings."),
    "anchor": ("anchor", "Let the planner go by what you have measured."),
    "runpod": ("runpod", "Rent hosts at RunPod, serve on them, and give them back."),
    "nccl": ("nccl", "Measure the bandwidth between two hosts."),
    "teardown": ("teardown", "Remove everything a recipe made."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a user's work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"manyhost.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="manyhost")
def main() -> None:
    """From a recipe to a running, checked and measured multi-host LLM service.

    Example: manyhost render a3mega
    """


def entry() -> None:
    """Run the command line; every user's problem becomes one or two lines and a documented exit code."""
    code = run(None)
    interrupts.ignore()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:  # none, when it was closed before the start
                stream.flush()
        except OSError:  # a reader that has gone, or a full disk: Python would try once more and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code == Interrupted.exit_code:  # threads may still wait for a cluster's answer: nobody waits for them
        atexit._run_exitfuncs()
        os._exit(code)
    speed.leave_at_once()
    sys.exit(code)


def run(arguments: list[str] | None) -> int:
    """Run the command line and return the exit code (docs/reference/exit-codes.md)."""
    words = sys.argv[1:] if arguments is None else arguments
    output = Printer(words[0] if words and words[0] in COMMANDS else "", as_json=_asks_for_json(words))
    try:
        code, error = _run(words, output)
        with interrupts.ignored():
            return output.end(code, error)
    except ReaderGone:
        return 0  # there is nobody to tell
    finally:
        interrupts.forget()


def _run(words: list[str], output: Printer) -> tuple[int, ManyhostError | click.ClickException | None]:
    try:
        with interrupts.allowed():
            result = main.main(args=words, prog_name=program(), standalone_mode=False, obj=output)
    except (ManyhostError, click.ClickException) as error:
        return error.exit_code, error
    except (click.Abort, KeyboardInterrupt):
        return Interrupted.exit_code, Interrupted("interrupted")
    except SystemExit:  # click's answer to a broken pipe, whose ever it is
        if output.begun:
            return RemoteError.exit_code, RemoteError("a connection broke off")
        raise ReaderGone from None  # of --help
    except ReaderGone:
        raise
    except Exception as error:
        if interrupts.came():  # in the middle of an import, say
            return Interrupted.exit_code, Interrupted("interrupted")
        if problem := no_space(error):
            return problem.exit_code, problem
        if output.as_json:  # a program gets its last line from a bug too; the traceback goes to stderr
            output.end(1, ManyhostError(f"this is a bug: {type(error).__name__}: {error}"))
        raise
    return result if isinstance(result, int) else 0, None


def _asks_for_json(words: list[str]) -> bool:
    """Say whether a command line wants JSON, also when click finds a mistake before it gets there."""
    found = ""
    for word, following in pairwise([*words, ""]):
        if word == "--":
            break
        if word == "--output":
            found = following
        elif word.startswith("--output="):
            found = word.partition("=")[2]
    return found == "json"
