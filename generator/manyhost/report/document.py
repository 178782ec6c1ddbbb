"""A document as blocks, whatever it is written as."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Heading(msgspec.Struct, frozen=True):
    """A heading; level 1 is the title."""

    level: int
    text: str


class Paragraph(msgspec.Struct, frozen=True):
    """A paragraph; `warns` when nobody should miss it."""

    text: str
    warns: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table of texts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Items(msgspec.Struct, frozen=True):
    """A list."""

    texts: Sequence[str]


class Code(msgspec.Struct, frozen=True):
    """Lines of fixed width, with what they are."""

    about: str
    lines: Sequence[str]


class Figure(msgspec.Struct, frozen=True):
    """A picture.

    Attributes:
        name: Plain file name without its ending.
        caption: What it shows, for people who do not see it too.
        svg: The picture.
    """

    name: str
    caption: str
    svg: str


Block = Heading | Paragraph | Table | Items | Code | Figure
