"""A document for a terminal, without its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manyhost.report.document import Block, Code, Figure, Heading, Items, Paragraph, Table


def text(blocks: Sequence[Block]) -> Iterator[str]:
    """Yield the lines."""
    for place, block in enumerate(blocks):
        if place and not isinstance(block, Figure):
            yield ""
        match block:
            case Heading(_, words):
                yield words
            case Paragraph(words, _):
                yield words
            case Items(texts):
                yield from (f"  {words}" for words in texts)
            case Code(_, lines):
                yield from lines
            case Table(head, rows):
                widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
                for row in (head, *rows):
                    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                    yield f"  {'  '.join(cells)}".rstrip()
            case Figure():
                pass
