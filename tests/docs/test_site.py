"""The docs site (make docs): what fails its build, and what a page of it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_links import documents
from tests.helpers.helm import ROOT

SPHINX = ROOT / ".tools/docs/bin/sphinx-build"

pytestmark = pytest.mark.skipif(not SPHINX.exists(), reason="needs the site's generator: make docs")


def build(repository: Path, builder: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository into its folder `site`."""
    command = [
        SPHINX,
        "--quiet",
        "--no-color",
        "--keep-going",
        "-b",
        builder,
        *options,
        "-c",
        ROOT / "docs/site",
    ]
    return subprocess.run(
        [*command, repository, repository / "site"], capture_output=True, text=True, check=False
    )


def copy(repository: Path, *names: str) -> None:
    for name in names:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, repository / name)


def test_dead_links_and_a_page_without_a_place_fail_the_build(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "local.yaml")
    for name in {path.relative_to(ROOT).parts[0] for path in documents()} | {"values"}:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            copy(tmp_path, name)
    with (tmp_path / "SECURITY.md").open("a") as page:
        page.write("\n[a](gone.md) [b](README.md#gone) ![c](gone.svg) [d](values/gone.yaml) [e](values/)\n")
    (tmp_path / "docs/how-to/lost.md").write_text("# Lost\n")

    done = build(tmp_path, "dummy", "--fail-on-warning")

    assert done.returncode == 1
    warnings = sorted(re.sub(r":\d+:", ":", line) for line in done.stderr.splitlines() if line)
    page = f"{tmp_path}/SECURITY.md: WARNING: "
    assert warnings == [
        f"{page}'myst' cross-reference target not found: 'gone.md' [myst.xref_missing]",
        f"{page}'myst' cross-reference target not found: 'values/' [myst.xref_missing]",
        f"{page}'myst' cross-reference target not found: 'values/gone.yaml' [myst.xref_missing]",
        f"{page}image file not readable: gone.svg [image.not_readable]",
        f"{page}local id not found in doc 'README': 'gone' [myst.xref_missing]",
        f"{tmp_path}/docs/how-to/lost.md: WARNING: document isn't included in any toctree [toc.not_included]",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a repository with few pages."""
    repository = tmp_path_factory.mktemp("repository")
    recipe = "recipes/a3mega/deepseek-r1-671b/recipe.yaml"
    copy(repository, "README.md", "walkthrough.md", "values/local.yaml.example", recipe)
    done = build(repository, "html")
    assert done.returncode == 0, done.stderr
    return repository / "site"


def test_the_first_page_is_the_readme(site: Path) -> None:
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()


def test_directives_of_cloud_shell_become_what_they_mean(site: Path) -> None:
    page = (site / "walkthrough.html").read_text()
    assert "walkthrough-" not in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "gcloud config set project my-project" in text
    assert "gcloud services enable --project my-project container.googleapis.com storage" in text
    assert '_files/values/local.yaml.example">' in page


def test_files_that_are_no_pages_travel_with_the_site(site: Path) -> None:
    page = (site / "walkthrough.html").read_text()
    found = re.findall(r'href="(_files/[^"]+)"', page)
    assert len(found) == 2
    for name in found:
        assert (site / name).read_bytes() == (ROOT / name.removeprefix("_files/")).read_bytes()


def test_the_browser_is_sent_nowhere_else(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        sources = re.findall(r'\bsrc="([^"]+)"', text) + re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
        assert sources
        assert not [source for source in sources if re.match("(https?:)?//", source)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet.name
