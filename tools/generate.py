"""Write the generated files of the repository, or with --check say which are out of date.

python -m tools.generate [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from manyhost.catalog import Catalog, resolve
from manyhost.render import Renderer

ROOT = Path(__file__).resolve().parents[1]


def committed_values() -> dict[Path, bytes]:
    """Return recipes/*/*/values.yaml: each recipe rendered with no settings at all."""
    renderer = Renderer(Catalog(ROOT))
    files = {}
    for name in renderer.catalog.recipes():
        rendered = renderer.render(resolve(renderer.catalog, name))
        files[ROOT / "recipes" / name / "values.yaml"] = rendered.values_text.encode()
    return files


def main() -> int:
    """Compare or write; exit 1 when something committed is out of date."""
    stale = [
        (path, content)
        for path, content in committed_values().items()
        if not path.exists() or path.read_bytes() != content
    ]
    for path, content in stale:
        print(("out of date: " if "--check" in sys.argv else "written: ") + str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.write_bytes(content)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
