"""Reads the command lines of a document: the lines of its sh blocks."""

from __future__ import annotations

import re
from typing import NamedTuple

_BLOCK = re.compile(r"^( *)```(?:sh|bash)\n(.*?)^\1```", re.M | re.S)
_HEADING = re.compile(r"^#+ +(.+)$", re.M)


class CommandLine(NamedTuple):
    """A command of a document.

    Attributes:
        number: Of the line in the document where it begins, counted from 1.
        heading: The last one above its block; empty where there is none.
        text: The command, with the lines that continue it joined.
    """

    number: int
    heading: str
    text: str


def command_lines(document: str) -> list[CommandLine]:
    """Return the commands of a document's sh blocks in order, without comments."""
    found = []
    headings = [(match.start(), match[1]) for match in _HEADING.finditer(_without_code(document))]
    for block in _BLOCK.finditer(document):
        heading = next((text for start, text in reversed(headings) if start < block.start()), "")
        number = document.count("\n", 0, block.start(2)) + 1
        lines = iter(block[2].splitlines())
        for line in lines:
            text, begins = line.strip(), number
            number += 1
            while text.endswith("\\"):
                text = f"{text[:-1].rstrip()} {next(lines, '').strip()}"
                number += 1
            if text and not text.startswith("#"):
                found.append(CommandLine(begins, heading, text))
    return found


def _without_code(document: str) -> str:
    """A document of the same length, whose code has no lines that look like headings."""
    return re.sub(r"```.*?```", lambda match: match[0].replace("#", " "), document, flags=re.S)
