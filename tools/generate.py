"""Write the generated files of the repository, or with --check say which are out of date.

python -m tools.generate [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import msgspec
from manyhost import cli, errors
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.settings import VARIABLES, keys
from manyhost.cli import COMMANDS
from manyhost.render import Renderer
from manyhost.render.topology import topology_svg

from tools import goldens

ROOT = Path(__file__).resolve().parents[1]


def committed_values() -> dict[Path, bytes]:
    """Return recipes/*/*/values.yaml: each recipe rendered with no settings at all."""
    renderer = Renderer(Catalog(ROOT))
    files = {}
    for name in renderer.catalog.recipes():
        rendered = renderer.render(resolve(renderer.catalog, name))
        files[ROOT / "recipes" / name / "values.yaml"] = rendered.values_text.encode()
    return files


def picture() -> dict[Path, bytes]:
    """Return the README's picture: the topology of the default recipe."""
    catalog = Catalog(ROOT)
    plan = Renderer(catalog).plan(resolve(catalog, "a3mega/deepseek-r1-671b"))
    return {ROOT / "docs/images/topology.svg": topology_svg(plan)}


def settings_reference() -> dict[Path, bytes]:
    """Return docs/reference/settings.md: every key with its default and environment variable."""
    variables = {key: name for name, key in VARIABLES.items()}
    lines = [
        "# Settings",
        "",
        "Generated from `generator/manyhost/catalog/types.py`; `make generate` writes it.",
        "",
        "A recipe, `values/local.yaml`, environment variables and `--set KEY=VALUE` address the same keys.",
        "The stronger one wins: `--set`, environment variable, `values/local.yaml`, recipe, defaults of the",
        "engine version and the model. `manyhost explain KEY RECIPE` says where a value came from. In",
        "`values/local.yaml` a key that is the name of an environment holds settings for its recipes alone.",
        "",
        "| Key | Environment variable | Default | Meaning |",
        "|---|---|---|---|",
    ]
    for key in keys():
        default = "required" if key.default is msgspec.NODEFAULT else f"`{json.dumps(key.default)}`"
        variable = f"`{variables[key.name]}`" if key.name in variables else ""
        lines.append(f"| `{key.name}` | {variable} | {default} | {key.description} |")
    lines += [
        "",
        "`HF_TOKEN` is a secret: it is never a setting. Create the Secret `hf-secret` with the key",
        "`hf_api_token` in the release's namespace.",
    ]
    return {ROOT / "docs/reference/settings.md": ("\n".join(lines) + "\n").encode()}


def cli_reference() -> dict[Path, bytes]:
    """Return docs/reference/cli.md: the help page of every command."""
    parts = ["# Commands\n\nGenerated from the commands' own help; `make generate` writes it.\n"]
    for name in COMMANDS:
        context = click.Context(cli.main, info_name="manyhost")
        command = cli.main.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=f"manyhost {name}", terminal_width=96) as own:
            parts.append(f"## manyhost {name}\n\n```text\n{command.get_help(own)}\n```\n")
    return {ROOT / "docs/reference/cli.md": "\n".join(parts).encode()}


def exit_codes() -> dict[Path, bytes]:
    """Return docs/reference/exit-codes.md from the error classes."""
    rows = [(kind.exit_code, kind.__doc__ or "") for kind in errors.ManyhostError.__subclasses__()]
    rows += [(0, "Done."), (errors.INTERRUPTED, "Interrupted (Ctrl-C or SIGTERM).")]
    lines = ["# Exit codes", "", "Generated from `generator/manyhost/errors.py`.", ""]
    lines += ["| Code | Meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in sorted(rows))]
    return {ROOT / "docs/reference/exit-codes.md": ("\n".join(lines) + "\n").encode()}


def golden_files() -> dict[Path, bytes]:
    """Return tests/golden/<environment>__<recipe>/: each recipe's values and manifests, normalised."""
    renderer = Renderer(Catalog(ROOT))
    files = {}
    for name in renderer.catalog.recipes():
        rendered = renderer.render(resolve(renderer.catalog, name))
        folder = ROOT / "tests" / "golden" / goldens.folder_name(name)
        manifests = goldens.manifests_text(rendered.objects, renderer.chart / "launcher")
        files[folder / "values.yaml"] = goldens.values_text(rendered.values).encode()
        files[folder / "manifests.yaml"] = manifests.encode()
    return files


GENERATORS = (committed_values, picture, settings_reference, cli_reference, exit_codes, golden_files)


def main() -> int:
    """Compare or write; exit 1 when something committed is out of date."""
    stale = [
        (path, content)
        for generator in GENERATORS
        for path, content in generator().items()
        if not path.exists() or path.read_bytes() != content
    ]
    for path, content in stale:
        print(("out of date: " if "--check" in sys.argv else "written: ") + str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
