"""The docs site: every Markdown file of the repository is a page, at the path that it has there (make docs).

Sphinx reads the repository itself, so that the pages stay what GitHub and Cloud Shell show. Nothing of the
site comes from the network, neither when it is built nor when it is read.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# The pages, in the order in which a newcomer needs them. A page that is missing here fails the build.
NAVIGATION = {
    "Start": [
        "Walkthrough <walkthrough>",
        "docs/tutorial/local",
        "docs/how-to/set-up-gke",
        "docs/how-to/runpod",
        "docs/tutorial/runpod-experiment",
        "docs/how-to/coming-from-gpu-recipes",
    ],
    "How to": [
        "docs/how-to/plan",
        "docs/how-to/weights",
        "docker/vllm/README",
        "docs/how-to/operate",
        "docs/how-to/troubleshoot",
        "docs/how-to/observability",
        "docs/how-to/benchmark",
        "A report, for example <docs/example-report/report>",
        "An evaluation, for example <docs/example-evaluation/evaluation>",
        "docs/how-to/disaggregation",
        "docs/how-to/dynamo",
        "docs/how-to/gateway",
        "docs/how-to/sglang",
        "docs/how-to/local",
        "docs/how-to/extend",
    ],
    "Recipes": ["recipes/*/*/README"],
    "Reference": [
        "docs/reference/environments",
        "docs/reference/plan-deepseek-r1-671b",
        "docs/reference/settings",
        "docs/reference/cli",
        "docs/reference/exit-codes",
        "docs/reference/output",
        "docs/reference/doctor",
        "docs/reference/hardening",
        "docs/reference/launcher",
        "docs/reference/gpu-comparison",
        "docs/reference/gpu-answers",
        "docs/reference/gpu-slice",
        "docs/reference/gpu-stage",
        "docs/reference/gpu-disaggregated",
        "docs/reference/memory",
        "charts/*/README",
    ],
    "Decisions": ["docs/adr/README"],
    "Project": [
        "CHANGELOG",
        "CONTRIBUTING",
        "SECURITY",
        "testbed/README",
        "benchmarks/README",
        "How right the planner is <benchmarks/plan/README>",
        "How the GPU comparison ran <benchmarks/gpu/README>",
    ],
}

project = "manyhost"
root_doc = "README"
extensions = ["myst_parser"]
include_patterns = [
    "*.md",
    "docs/**.md",
    "recipes/**.md",
    "charts/**.md",
    "docker/**.md",
    "testbed/**.md",
    "benchmarks/**.md",
]
exclude_patterns = [".*", "build", "dist"]
myst_heading_anchors = 6
smartquotes = False
# The files are GitHub's Markdown: what only MyST understands is text in them.
myst_disable_syntax = ["myst_line_comment", "myst_block_break", "myst_target", "myst_role"]

html_theme = "furo"
html_title = "manyhost"
html_copy_source = False
html_use_index = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["manyhost.css"]


def contents(caption: str, pages: list[str]) -> str:
    """Return a part of the navigation, to be put at the end of the page that it belongs to."""
    return "\n```{toctree}\n" + f":hidden:\n:glob:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"


def without_directives(text: str) -> str:
    """Return a Cloud Shell tutorial with what its directives mean to who reads it elsewhere."""
    text = re.sub(
        r'<walkthrough-editor-open-file filePath="([^"]+)">(.*?)</walkthrough-editor-open-file>',
        r"[\2](\1)",
        text,
    )
    text = re.sub(
        r'<walkthrough-enable-apis apis="([^"]+)"></walkthrough-enable-apis>',
        lambda match: f"```sh\ngcloud services enable --project my-project {match[1].replace(',', ' ')}\n```",
        text,
    )
    text = text.replace("<walkthrough-project-id/>", "my-project")
    return re.sub(r"<walkthrough-([a-z-]+)[^>]*></walkthrough-\1>\n*", "", text)


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """Make a page of the repository one of the site, before it is parsed."""
    if page == root_doc:
        source[0] += "".join(contents(*part) for part in NAVIGATION.items())
    if page == "docs/adr/README":
        source[0] += contents("Decisions", ["0*"])
    if page == "walkthrough":
        source[0] = without_directives(source[0])


def carry_files(app: Sphinx, tree: nodes.document) -> None:
    """Take files that pages link to into the site, below a folder of their own, and link to them there."""
    page = app.env.docname
    for node in list(tree.findall(addnodes.download_reference)):
        name, path = app.env.relfn2path(node["reftarget"], page)
        target = Path(app.outdir, "_files", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        uri = f"{'../' * page.count('/')}_files/{name}"
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def first_page(app: Sphinx, failure: Exception | None) -> None:
    """Show the README where a web server looks for the first page."""
    if failure is None and app.builder.format == "html":
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the above; files are carried before Sphinx collects them as downloads."""
    app.connect("source-read", prepare)
    app.connect("doctree-read", carry_files, priority=100)
    app.connect("build-finished", first_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
