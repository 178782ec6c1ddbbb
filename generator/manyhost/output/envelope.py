"""The JSON of every command: lines of events while it works, and one envelope as the last line.

docs/reference/output.md and output.schema.json are generated from these types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

SCHEMA = "manyhost/v1"
Status = Literal["ok", "failed"]


class Notice(msgspec.Struct, frozen=True):
    """A warning or an error."""

    message: Annotated[str, Meta(description="What is wrong, one sentence.")]
    where: Annotated[str, Meta(description="The file, key or object it is about; may be empty.")]
    fix: Annotated[str, Meta(description="What to do: a command alone cures it; may be empty.")]


class Envelope(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """How a command ended, and what it has found or done; always the last line."""

    command: Annotated[str, Meta(description="The command; empty when the command line names none.")]
    status: Annotated[Status, Meta(description="ok when the exit code is 0.")]
    exit_code: Annotated[int, Meta(description="The exit code of the process.")]
    result: Annotated[
        Any, Meta(description="What the command has found or done; null when it did not get that far.")
    ]
    warnings: Annotated[list[Notice], Meta(description="What may go wrong.")]
    errors: Annotated[list[Notice], Meta(description="Why the command failed; empty when it did not.")]


class Event(msgspec.Struct, frozen=True):
    """A step of a command that takes its time."""

    kind: Annotated[str, Meta(description="What has happened; each command has its own kinds.")]
    text: Annotated[str, Meta(description="The same for people; may be empty.")]
    data: Annotated[Any, Meta(description="More about it, by kind; may be null.")]


class EventLine(msgspec.Struct, frozen=True, tag_field="schema", tag=SCHEMA):
    """A line before the last one."""

    event: Event


def to_line(document: Envelope | EventLine) -> bytes:
    """Return a document as one line of UTF-8, whatever bytes the names in it were made of."""
    try:
        return msgspec.json.encode(document) + b"\n"
    except UnicodeEncodeError:  # a file name that is no UTF-8 (PEP 383)
        import json  # noqa: PLC0415  for such names only

        text = json.dumps(msgspec.to_builtins(document), ensure_ascii=False)
        return text.encode(errors="replace") + b"\n"
