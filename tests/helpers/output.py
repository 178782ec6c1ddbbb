"""Reads what a command prints with --output json, and holds it to docs/reference/output.schema.json."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
from manyhost.cli import COMMANDS

from tests.helpers import fixes

ROOT = Path(__file__).resolve().parents[2]


class Output(NamedTuple):
    """What a command has printed.

    Attributes:
        envelope: The last line.
        events: The events before it.
    """

    envelope: Any
    events: list[Any]

    @property
    def result(self) -> Any:
        """What the command has found or done."""
        return self.envelope["result"]

    def of_kind(self, kind: str) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if event["kind"] == kind]


@cache
def _validator() -> Any:
    text = (ROOT / "docs/reference/output.schema.json").read_text()
    return jsonschema_rs.validator_for(json.loads(text))


def read(out: str) -> Output:
    """Return a command's output: every line is valid and documented, and the last one is the envelope."""
    assert out.endswith("\n"), out
    documents = [json.loads(line) for line in out.removesuffix("\n").split("\n")]
    for document in documents:
        _validator().validate(document)
        for fix in fixes.in_document(document):
            fixes.check(fix)
    *lines, envelope = documents
    events = [line["event"] for line in lines]
    assert (envelope["status"] == "ok") == (envelope["exit_code"] == 0) == (not envelope["errors"]), envelope
    if envelope["command"]:
        module = importlib.import_module(f"manyhost.cli.{COMMANDS[envelope['command']][0]}")
        assert {event["kind"] for event in events} <= set(getattr(module, "EVENTS", {})), events
        if envelope["result"] is not None:
            assert list(envelope["result"]) == list(module.RESULT), envelope
    return Output(envelope, events)
