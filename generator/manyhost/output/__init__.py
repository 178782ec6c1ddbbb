"""What leaves the program: files, whole or not at all, and the JSON that programs read."""

from __future__ import annotations

from manyhost.output.envelope import SCHEMA, Envelope, Event, EventLine, Notice, to_line
from manyhost.output.files import write_files

__all__ = ["SCHEMA", "Envelope", "Event", "EventLine", "Notice", "to_line", "write_files"]
