"""Write the generated files of the repository, or with --check say which are out of date.

python -m tools.generate [--check]

Only the tables of engine flags are written elsewhere: they need the engine's package (make engine-flags).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from manyhost import cli, errors
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.interconnect import Plugin, Rdma
from manyhost.catalog.loader import ENGINES
from manyhost.catalog.settings import VARIABLES, keys
from manyhost.checks import hardening
from manyhost.cli import COMMANDS
from manyhost.cluster.doctor import CHECKS
from manyhost.output import Envelope, Event, EventLine, Notice
from manyhost.render import Renderer
from manyhost.render.topology import topology_svg
from manyhost.report.evaluation import evaluation
from manyhost.report.html import html
from manyhost.report.markdown import markdown
from manyhost.report.questions import answers
from manyhost.report.read import read
from manyhost.report.sections import report

from tools import (
    benchmark_schema,
    chart_readme,
    extract_kubernetes_schemas,
    gke_guide,
    goldens,
    memory_points,
    plan_page,
)
from tools.dashboards import dashboards

ROOT = Path(__file__).resolve().parents[1]
_OUTPUT_HEAD = """# Output for programs

Generated from `generator/manyhost/output/envelope.py` and the commands; `make generate` writes it.

With `--output json` a command prints JSON documents of one line each on stdout, and nothing else. **The last
line is the envelope**: how the command ended and what it has found or done. It comes whatever happens, be it
a refusal, a mistake on the command line or Ctrl-C; only `--help` and `--version` print text.

```json
{"schema": "manyhost/v1", "command": "render", "status": "failed", "exit_code": 3, "result": null,
 "warnings": [], "errors": [{"message": "unknown environment 'a3mgea'", "where": "environment",
 "fix": "did you mean a3mega?"}]}
```

The lines before it are events of commands that take their time, as they happen:

```json
{"schema": "manyhost/v1", "event": {"kind": "phase", "text": "", "data": {"host": 0, "phase": "ready"}}}
```

So a program that waits for the end reads the last line alone:

```sh
.venv/bin/manyhost render a3mega --output json
```

Errors and warnings stand in the envelope and not on stderr, where only questions (without `--yes`) and
the traceback of a bug go. A failed command may have a result: `doctor` fails with the checks that it made.

In a `fix` commands stand in backticks. **A fix that is one command and nothing else cures as it stands**, and
changes no more than your own release, namespace and settings: a program may run it (it matches
``^`[^`]+`$``). Every other fix needs a person, who looks, decides, asks or pays first. Its commands are whole
too, but for words in capitals that only that person knows.

[output.schema.json](output.schema.json) is the JSON Schema of a line. New fields, commands and kinds of
events may come within `manyhost/v1`: ignore what you do not know. What goes or changes its meaning
makes a new version. [Exit codes](exit-codes.md) are the same for text and JSON.
"""


_HARDENING_HEAD = """# Hardening

Generated from `generator/manyhost/checks/hardening.py` and `values/`; `make generate` writes it.

Every render holds the pods of its groups to the rules below. A container breaks one for a reason that stands
in `values/`, or the render is refused; a reason that no container needs any more fails the tests. The reasons
of one recipe:

```sh
manyhost explain exemptions a3mega
```

## Measured

The rules mean what [checkov](https://github.com/bridgecrewio/checkov) finds in a pod. It knows no
LeaderWorkerSet, so its pods are written as pods first. The default recipe of A3 Mega, with checkov 3.3.30 on
2026-11-26:

```sh
make render ENV=a3mega
.venv/bin/python -m tools.unwrap_pods build/a3mega/deepseek-r1-671b/manifests.yaml build/pods
python3 -m venv build/checkov
build/checkov/bin/python -m pip install checkov==3.3.30
build/checkov/bin/python -m checkov.main --directory build/pods --framework kubernetes --compact --quiet
```

9 findings in the leader and the same 9 in the worker (15 each before these rules): CKV_K8S_15, 21, 22, 23,
25, 35, 40 and 43, and CKV2_K8S_6. Two of them are about where a release is installed and not about its pods:
another namespace than `default` takes CKV_K8S_21 away, and the release's NetworkPolicy CKV2_K8S_6, where it
is scanned with the pods. With checkov on `$PATH` the tests hold it against the rules for every recipe.
"""


def committed_values() -> dict[Path, bytes]:
    """Return recipes/*/*/values.yaml, or launch.json: each recipe rendered with no settings at all."""
    renderer = Renderer(Catalog(ROOT))
    files = {}
    for name in renderer.catalog.recipes():
        made = renderer.render(resolve(renderer.catalog, name)).files()
        what = "values.yaml" if "values.yaml" in made else "launch.json"
        files[ROOT / "recipes" / name / what] = made[what]
    return files


def chart_engines() -> dict[Path, bytes]:
    """Return engines.yaml of the chart: the executors of each engine version, and a recipe for it."""
    catalog = Catalog(ROOT)
    recipes: dict[tuple[str, str], str] = {}
    for name in catalog.recipes():
        chosen = catalog.recipe_document(name)["engine"]
        recipes.setdefault((chosen.get("name", "vllm"), chosen["version"]), name)
    lines = [
        "# What starts the ranks on several hosts, by version of an engine, and what of it its image has.",
        "# Generated from values/engines and the recipes by `make generate`; the planner reads it too.",
    ]
    for engine in catalog.engines():
        entry = {
            "engine": engine.name,
            "executors": engine.executors,
            "image": engine.image,
            "imageExecutors": engine.stock_image_executors,
            "recipe": recipes.get((engine.name, engine.version), ""),
        }
        lines.append(f"{json.dumps(engine.version)}: {json.dumps(entry)}")
    return {ROOT / "charts/llm-multihost" / ENGINES: ("\n".join(lines) + "\n").encode()}


def common_templates() -> dict[Path, bytes]:
    """Return templates/_common.tpl of every chart: charts/common.tpl."""
    text = (ROOT / "charts/common.tpl").read_bytes()
    return {path.parent / "templates/_common.tpl": text for path in ROOT.glob("charts/*/Chart.yaml")}


def image_bases() -> dict[Path, bytes]:
    """Return bases.txt of docker/vllm: the stock images whose digest the image lock has."""
    catalog = Catalog(ROOT)
    engines = [catalog.engine(version) for version in catalog.names("engines/vllm")]
    lines = [
        "# Digests of vllm/vllm-openai by tag, from image_lock in values/engines/vllm (make generate).",
        *(
            f"{tag} {lock.digest}"
            for engine in engines
            for tag, lock in engine.image_lock.items()
            if lock.digest
        ),
    ]
    return {ROOT / "docker/vllm/bases.txt": ("\n".join(lines) + "\n").encode()}


# What the staging Job runs beside its image; the others of manyhost.weights need the catalog.
WORKER = (
    "__init__",
    "commands",
    "errors",
    "secret",
    *(
        f"weights/{name}"
        for name in (
            "__init__", "bucket", "digest", "folder", "hub", "manifest", "safetensors", "stage", "store",
            "target", "transfer", "worker",
        )
    ),
)  # fmt: skip


def staging_worker() -> dict[Path, bytes]:
    """Return worker/ of the staging chart: the modules that do it here too, as `helm install` needs them."""
    source, target = ROOT / "generator/manyhost", ROOT / "charts/model-staging/worker/manyhost"
    return {target / f"{name}.py": (source / f"{name}.py").read_bytes() for name in WORKER}


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
        "Generated from `generator/manyhost/catalog/recipe.py`; `make generate` writes it.",
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


def environments_reference() -> dict[Path, bytes]:
    """Return docs/reference/environments.md: the places that recipes exist for."""
    catalog = Catalog(ROOT)
    lines = [
        "# Environments",
        "",
        "Generated from `values/environments/` and `recipes/`; `make generate` writes it. The first recipe",
        "is the default one, the first interconnect too. Prices are list prices of one host, USD an hour, on",
        "demand, in the list's default region; the file has others, spot, commitments, source and date. What",
        "the pods of each do without, and why, is in [hardening.md](hardening.md).",
        "",
        "| Environment | Host | Platform | Interconnects | Recipes | Price |",
        "|---|---|---|---|---|---|",
    ]
    for name in catalog.names("environments"):
        known = catalog.environment(name)
        own = [r.split("/")[1] for r in catalog.recipes() if r.startswith(f"{name}/")]
        own.sort(key=lambda recipe: recipe != known.default_recipe)
        host, price = known.host, known.price
        gpus = f"{host.gpus} x {host.gpu}, {host.architecture}" if host.gpus else "no GPU"
        usd = price.usd_per_host_hour[price.default_region]["on-demand"] if price else None
        platform = type(known.platform).__struct_config__.tag
        told = (
            "not public"
            if usd is None
            else f"{usd:.2f} ({price.default_region})"
            if usd and price
            else "free"
        )
        lines.append(
            f"| `{name}` | {host.machine_type} ({gpus}) | {platform} | {', '.join(known.interconnects)} "
            f"| {', '.join(f'`{recipe}`' for recipe in own)} | {told} |"
        )
    lines += ["", "## Interconnects", "", "| Name | What | Needs in the cluster |", "|---|---|---|"]
    for name in catalog.names("interconnects"):
        fabric = catalog.interconnect(name)
        daemons = fabric.daemonsets if isinstance(fabric, Plugin) else []
        wanted = [f"[{daemon.name}]({daemon.manifest})" for daemon in daemons]
        if isinstance(fabric, Rdma):
            wanted += [f"a device plug-in that offers `{resource}`" for resource in fabric.resources]
            wanted += ["the NVIDIA DRA driver (ComputeDomain)"] if fabric.compute_domain else []
            wanted += [f"DeviceClass `{fabric.device_class}`"] if fabric.device_class else []
        needs = ", ".join(wanted)
        lines.append(f"| `{name}` | {fabric.description} | {needs or 'nothing'} |")
    return {ROOT / "docs/reference/environments.md": ("\n".join(lines) + "\n").encode()}


def hardening_reference() -> dict[Path, bytes]:
    """Return docs/reference/hardening.md: the rules, and who breaks which of them for what reason."""
    catalog = Catalog(ROOT)
    lines = [
        _HARDENING_HEAD,
        "## Rules",
        "",
        "| Rule | A container or pod breaks it that | checkov |",
        "|---|---|---|",
    ]
    for name, rule in hardening.RULES.items():
        lines.append(f"| `{name}` | {rule.broken} | {', '.join(rule.checkov)} |")
    lines += ["", "## Reasons", "", "| File in `values/` | Rule and container | Reason |", "|---|---|---|"]
    files = {"exemptions.yaml": catalog.exemptions()}
    for name in catalog.names("environments"):
        files[f"environments/{name}.yaml"] = catalog.environment(name).exemptions
    for name in catalog.names("interconnects"):
        fabric = catalog.interconnect(name)
        files[f"interconnects/{name}.yaml"] = fabric.exemptions if isinstance(fabric, Plugin) else {}
    for file, reasons in files.items():
        lines += [f"| `{file}` | `{name}` | {reason} |" for name, reason in reasons.items()]
    return {ROOT / "docs/reference/hardening.md": ("\n".join(lines) + "\n").encode()}


def memory_reference() -> dict[Path, bytes]:
    """Return docs/reference/memory.md: the plan of memory beside what was measured."""
    return {ROOT / "docs/reference/memory.md": memory_points.page().encode()}


def cli_reference() -> dict[Path, bytes]:
    """Return docs/reference/cli.md: the help page of every command."""
    parts = ["# Commands\n\nGenerated from the commands' own help; `make generate` writes it.\n"]
    for name in COMMANDS:
        context = click.Context(cli.main, info_name="manyhost", **cli.main.context_settings)
        command = cli.main.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=context, terminal_width=96) as own:
            parts.append(f"## manyhost {name}\n\n```text\n{command.get_help(own)}\n```\n")
    return {ROOT / "docs/reference/cli.md": "\n".join(parts).encode()}


_DOCTOR_HEAD = """# Doctor's checks

Generated from `generator/manyhost/cluster/doctor/`; `make generate` writes it.

`manyhost doctor RECIPE` asks these questions of the cluster, reads only, and starts nothing. A check waits
for those in the last column and is left out when one of them fails. `deploy` asks those in bold by itself;
`--skip CHECK` leaves one out.

```sh
.venv/bin/manyhost doctor a3mega --skip image
```

| Check | Question | What it looks at | After |
|---|---|---|---|
"""


def doctor_checks() -> dict[Path, bytes]:
    """Return docs/reference/doctor.md from the checks themselves."""
    lines = []
    for item in CHECKS.values():
        looks = (item.run.__doc__ or "").splitlines()[0].rstrip(".")
        name = f"**`{item.name}`**" if item.cheap else f"`{item.name}`"
        needs = ", ".join(need for need in item.needs if need != "api")
        lines.append(f"| {name} | {item.asks} | {looks}. | {needs} |")
    return {ROOT / "docs/reference/doctor.md": (_DOCTOR_HEAD + "\n".join(lines) + "\n").encode()}


def exit_codes() -> dict[Path, bytes]:
    """Return docs/reference/exit-codes.md from the error classes."""
    rows = [(kind.exit_code, kind.__doc__ or "") for kind in errors.ManyhostError.__subclasses__()]
    rows.append((0, "Done."))
    lines = ["# Exit codes", "", "Generated from `generator/manyhost/errors.py`.", ""]
    lines += ["| Code | Meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in sorted(rows))]
    return {ROOT / "docs/reference/exit-codes.md": ("\n".join(lines) + "\n").encode()}


def output_reference() -> dict[Path, bytes]:
    """Return docs/reference/output.md and output.schema.json: what commands print with --output json."""
    modules = {
        name: importlib.import_module(f"manyhost.cli.{module}") for name, (module, _) in COMMANDS.items()
    }
    folder = ROOT / "docs/reference"
    schema = output_schema({name: module.RESULT for name, module in modules.items()})
    lines = [_OUTPUT_HEAD]
    for kind in (Envelope, Notice, Event):
        lines += [f"| {kind.__name__} | Type | Meaning |", "|---|---|---|"]
        for name, field in schema["$defs"][kind.__name__]["properties"].items():
            lines.append(f"| `{name}` | {_type_of(field)} | {field.get('description', '')} |")
        lines.append("")
    lines += ["## Results and events of each command", ""]
    for name, module in modules.items():
        lines += [f"### {name}", "", "| Result | Meaning |", "|---|---|"]
        lines += [f"| `{key}` | {text} |" for key, text in module.RESULT.items()]
        if events := getattr(module, "EVENTS", None):
            lines += ["", "| Event | Meaning |", "|---|---|"]
            lines += [f"| `{kind}` | {text} |" for kind, text in events.items()]
        lines.append("")
    return {
        folder / "output.md": ("\n".join(lines).rstrip() + "\n").encode(),
        folder / "output.schema.json": (json.dumps(schema, indent=2) + "\n").encode(),
    }


def output_schema(results: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return the JSON Schema of one line that a command prints with --output json.

    Args:
        results: For each command the fields of its result and their meaning.
    """
    (envelope, event), definitions = msgspec.json.schema_components([Envelope, EventLine])
    definitions["Envelope"]["properties"]["schema"]["description"] = "The version of this shape."
    definitions["Envelope"]["allOf"] = [
        {
            "if": {"properties": {"command": {"const": command}}},
            "then": {
                "properties": {
                    "result": {
                        "type": ["object", "null"],
                        "required": list(fields),
                        "properties": {name: {"description": text} for name, text in fields.items()},
                    }
                }
            },
        }
        for command, fields in results.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line that manyhost prints with --output json",
        "oneOf": [envelope, event],
        "$defs": definitions,
    }


def _type_of(field: dict[str, Any]) -> str:
    """Return a property's type as a table has it."""
    if "items" in field:
        return f"list of {_type_of(field['items'])}"
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    values = field.get("enum", []) if field.get("enum", [""])[0] else []
    return ", ".join(f"`{value}`" for value in values) or str(field.get("type", "any"))


def plan_reference() -> dict[Path, bytes]:
    """Return docs/reference/plan-<model>.md and its picture: what `manyhost plan` says."""
    folder, catalog = ROOT / "docs/reference", Catalog(ROOT)
    return {
        folder / f"plan-{plan_page.MODEL}.md": plan_page.page(catalog).encode(),
        folder / f"{plan_page.MODEL}-plan.svg": plan_page.picture(catalog).encode(),
    }


def benchmark_results() -> dict[Path, bytes]:
    """Return docs/reference/benchmark.schema.json: the shape of what `manyhost bench` keeps."""
    return {ROOT / "docs/reference/benchmark.schema.json": benchmark_schema.text().encode()}


def example_report() -> dict[Path, bytes]:
    """Return docs/example-report/: what `manyhost report` makes of the run that lies there."""
    folder = ROOT / "docs/example-report"
    blocks = report([read(folder / "run", "docs/example-report/run")])
    return {folder / name: data for name, data in {"report.html": html(blocks), **markdown(blocks)}.items()}


def example_evaluation() -> dict[Path, bytes]:
    """Return docs/example-evaluation/: what `manyhost evaluate` makes of the runs that lie there."""
    folder = ROOT / "docs/example-evaluation"
    own = sorted(path.parent for path in folder.glob("*/run.json"))
    runs = [read(run, str(run.relative_to(ROOT))) for run in (ROOT / "docs/example-report/run", *own)]
    blocks = evaluation(runs, *answers(runs))
    files = {"evaluation.html": html(blocks), **markdown(blocks, "evaluation")}
    return {folder / name: data for name, data in files.items()}


def golden_files() -> dict[Path, bytes]:
    """Return tests/golden/<environment>__<recipe>/: each recipe's manifests, normalised."""
    renderer = Renderer(Catalog(ROOT))
    files = {}
    for name in renderer.catalog.recipes():
        rendered = renderer.render(resolve(renderer.catalog, name))
        if not rendered.objects:
            continue  # no Kubernetes; recipes/ has its launch.json
        folder = ROOT / "tests" / "golden" / goldens.folder_name(name)
        manifests = goldens.manifests_text(rendered.objects, renderer.chart.path / "launcher")
        files[folder / "manifests.yaml"] = manifests.encode()
    return files


def chart_readmes() -> dict[Path, bytes]:
    """Return charts/*/README.md, each with the table of its chart's values."""
    folders = [path.parent for path in sorted((ROOT / "charts").glob("*/values.schema.json"))]
    return {folder / "README.md": chart_readme.readme(folder).encode() for folder in folders}


def gke_setup() -> dict[Path, bytes]:
    """Return docs/how-to/set-up-gke.md with its table of machine types."""
    path = ROOT / "docs/how-to/set-up-gke.md"
    return {path: gke_guide.guide(path, Catalog(ROOT)).encode()}


def kubernetes_schemas() -> dict[Path, bytes]:
    """Return the schemas that rendered objects are checked against."""
    return {ROOT / "generator/manyhost/checks/kubernetes.json": extract_kubernetes_schemas.schemas().encode()}


GENERATORS = (
    common_templates,  # these three first: the others render the charts
    chart_engines,
    staging_worker,
    image_bases,
    committed_values,
    picture,
    settings_reference,
    environments_reference,
    hardening_reference,
    memory_reference,
    cli_reference,
    exit_codes,
    doctor_checks,
    output_reference,
    plan_reference,
    benchmark_results,
    example_report,
    example_evaluation,
    dashboards,
    golden_files,
    chart_readmes,
    gke_setup,
    kubernetes_schemas,
)


def main() -> int:
    """Compare or write; exit 1 when something committed is out of date."""
    check = "--check" in sys.argv
    stale = 0
    for generator in GENERATORS:
        for path, content in generator().items():
            if path.exists() and path.read_bytes() == content:
                continue
            stale += 1
            print(("out of date: " if check else "written: ") + str(path.relative_to(ROOT)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
