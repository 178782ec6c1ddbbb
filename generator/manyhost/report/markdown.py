"""A document as Markdown, its pictures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from manyhost.report.document import Block, Code, Figure, Heading, Items, Paragraph, Table

# What Markdown and HTML would take for theirs; a number with its sign or an identifier is left readable.
_SPECIAL = re.compile(r"([\\`*\[\]<>|]|(?<!\w)_|_(?!\w))")


def markdown(blocks: Sequence[Block], name: str = "report") -> dict[str, bytes]:
    """Return the files: <name>.md and its pictures."""
    files = {f"{block.name}.svg": block.svg.encode() for block in blocks if isinstance(block, Figure)}
    text = "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"
    return {f"{name}.md": text.encode(), **files}


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(level, text):
            yield f"{'#' * level} {_plain(text)}"
        case Paragraph(text, warns):
            yield f"> **{_plain(text)}**" if warns else _plain(text)
        case Items(texts):
            yield from (f"* {_plain(text)}" for text in texts)
        case Table(head, rows):
            yield f"| {' | '.join(map(_plain, head))} |"
            yield f"|{'---|' * len(head)}"
            yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)
        case Code(about, lines):
            fence = "```"
            while any(fence in line for line in lines):
                fence += "`"
            yield from (f"{_plain(about)}:", "", f"{fence}text", *lines, fence)
        case Figure(name, caption, _):
            yield f"![{_plain(caption)}]({name}.svg)"


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
