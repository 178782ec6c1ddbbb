"""A document as one HTML file: no script, no network; for light, dark and narrow screens and for paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from manyhost.report.document import Block, Code, Figure, Heading, Items, Paragraph, Table

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ --ink: #1c2127; --paper: #ffffff; --line: #d0d7de; --soft: #f3f5f7; --alarm: #a40e26; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e4e8ec; --paper: #14181d; --line: #3a424b; --soft: #1e242b; --alarm: #ff8f98; }}
}}
body {{ color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin-top: 2rem; overflow-wrap: anywhere; }}
h3 {{ font-size: 1.05rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .7rem .3rem 0; text-align: left;
  vertical-align: top; }}
pre {{ background: var(--soft); padding: .7rem; overflow-x: auto; font-size: .85rem; line-height: 1.35; }}
figure {{ margin: 1rem 0; }}
figure svg {{ width: 100%; height: auto; max-width: 46rem; }}
figcaption {{ font-size: .9rem; opacity: .8; }}
.warns {{ border-left: .3rem solid var(--alarm); padding-left: .7rem; font-weight: 600; }}
@media print {{
  :root {{ --ink: #000000; --paper: #ffffff; --line: #999999; --soft: #ffffff; --alarm: #000000; }}
  body {{ max-width: none; font-size: 10pt; }}
  figure, table, pre {{ break-inside: avoid; }}
  .wide, pre {{ overflow: visible; white-space: pre-wrap; }}
}}
</style>
</head>
<body>
"""


def html(blocks: Sequence[Block]) -> bytes:
    """Return the file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    return (
        _HEAD.format(title=escape(title)) + "\n".join(map(_element, blocks)) + "\n</body>\n</html>\n"
    ).encode()


def _element(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, warns):
            return f"<p{' class=warns' if warns else ''}>{escape(text)}</p>"
        case Items(texts):
            return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
        case Table(head, rows):
            names = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
            cells = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
            body = "".join(f"<tr>{row}</tr>\n" for row in cells)
            return (
                f'<div class="wide"><table><thead><tr>{names}</tr></thead>\n'
                f"<tbody>{body}</tbody></table></div>"
            )
        case Code(about, lines):
            text = escape("\n".join(lines))
            return f"<details><summary>{escape(about)}</summary><pre>{text}</pre></details>"
        case Figure(_, caption, svg):
            return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
