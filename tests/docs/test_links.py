"""No link of any Markdown file in the repository leads to a file or a heading that is not there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.helm import ROOT

_AWAY = ("http://", "https://", "mailto:")


def documents() -> list[Path]:
    """Every Markdown file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*.md")]
    return sorted(ROOT / name for name in names if (ROOT / name).exists())


def prose(path: Path) -> str:
    """A document without its code."""
    text = re.sub(r"^( *)(```+).*?^ *\2", "", path.read_text(), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", lambda match: match[0].replace("[", "(").replace("]", ")"), text)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(path), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def dead(path: Path) -> list[str]:
    """The links of a document that lead nowhere."""
    found = []
    text = prose(path)
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.M):
        if target.startswith(_AWAY):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            found.append(target)
    return found


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert dead(path) == []


def test_there_are_documents_and_links() -> None:
    assert len(documents()) > 30
    assert sum(prose(path).count("](") for path in documents()) > 100


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# What `--nnodes` costs\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n")
    page.write_text(
        "[a](other.md) [b](other.md#what---nnodes-costs) [c](other.md#twice-1) ![d](https://example.com/x)\n"
        "`[code](not.a.link)` [e](gone.md) [f](other.md#thrice) [g](other.md#no-heading) [h](#here)\n"
        "![i](gone.svg)\n\n[j]: gone.md\n"
    )
    assert dead(page) == ["gone.md", "other.md#thrice", "other.md#no-heading", "#here", "gone.svg", "gone.md"]


def test_no_picture_of_a_page_comes_from_the_network() -> None:
    assert not [path for path in documents() if re.search(r"!\[[^\]]*\]\(https?:|<img\b", path.read_text())]


def test_every_decision_is_in_the_list_of_decisions() -> None:
    listed = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/adr/README.md").read_text())
    assert listed == sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))
