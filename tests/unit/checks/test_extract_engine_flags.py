"""The extraction tool: how parser actions become a flag table."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers.helm import ROOT


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "extract_engine_flags.py"
    spec = importlib.util.spec_from_file_location("extract_engine_flags", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(*options: str, **changes: Any) -> dict[str, Any]:
    defaults = {"off": [], "type": "str", "action": "_StoreAction", "nargs": None, "choices": None}
    return {"options": list(options), **defaults, **changes}


@pytest.mark.parametrize(
    ("given", "entry"),
    [
        (row("--x", type="int"), {"type": "int"}),
        (row("--x", type="loads"), {"type": "json"}),
        (row("--x", type="unheard_of"), {"type": "str"}),
        (row("--x", "-x", "--other"), {"type": "str", "aliases": ["other", "-x"]}),
        (row("--x", nargs="+"), {"type": "str", "list": True}),
        (row("--x", nargs="?"), {"type": "str", "optional": True}),
        (row("--x", choices=["a", "b"]), {"type": "str", "choices": ["a", "b"]}),
        (row("--x", action="_AppendAction"), {"type": "str", "repeat": True}),
        (row("--x", action="_StoreTrueAction"), {"type": "bool"}),
        (row("--x", action="StoreBoolean"), {"type": "bool", "optional": True}),
        (
            row("--x", "--no-x", off=["--no-x"], action="BooleanOptionalAction"),
            {"type": "bool", "negatable": True},
        ),
        (
            row("--x", "--no-x", "--y", off=["--no-x", "--y"], action="EnableDisableAction"),
            {"type": "bool", "negatable": True, "negative": ["y"]},
        ),
    ],
)
def test_entries(tool: ModuleType, given: dict[str, Any], entry: dict[str, Any]) -> None:
    assert tool.table([given]) == {"x": entry}


def test_help_and_short_only_options_are_left_out(tool: ModuleType) -> None:
    assert tool.table([row("-h", "--help"), row("-v")]) == {}


def test_requirements_leave_out_kernels_and_bare_lower_bounds(tool: ModuleType) -> None:
    class Wheel:
        def namelist(self) -> list[str]:
            return ["vllm-1.dist-info/METADATA"]

        def read(self, name: str) -> bytes:
            lines = ["pydantic>=2.12", "torch==2.13.0+cpu", "flashinfer-python==1", "a<2,>=1"]
            return "\n".join(f"Requires-Dist: {line}" for line in lines).encode()

    assert tool.requirements(Wheel()) == ["pydantic", "torch==2.13.0", "a<2,>=1"]


def test_reading_add_argument_calls(tool: ModuleType, tmp_path: Path) -> None:
    files = {
        "config.py": "class Kind(str, Enum):\n    A = 'a'\n    B = 'b'\nModes = Literal['m', 'n']\n",
        "engine/arg_utils.py": "NAMES = ['p']\n"
        "x.add_argument('--kind', choices=[k.value for k in Kind])\n"
        "x.add_argument('--mode', choices=get_args(Modes))\n"
        "x.add_argument('--name', choices=[*NAMES, None], type=nullable_str)\n",
        "entrypoints/openai/cli_args.py": "x.add_argument('--port', '-p', type=int)\n"
        "x.add_argument('--fast', action='store_true')\n"
        "x.add_argument('--cache', action=argparse.BooleanOptionalAction)\n",
        "entrypoints/chat_utils.py": "",
        "transformers_utils/config.py": "",
        "model_executor/layers/quantization/__init__.py": "",
    }
    for name, text in files.items():
        ast.parse(text)
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert tool.table(tool.rows_by_reading(tmp_path)) == {
        "cache": {"type": "bool", "negatable": True},
        "fast": {"type": "bool"},
        "kind": {"type": "str", "choices": ["a", "b"]},
        "mode": {"type": "str", "choices": ["m", "n"]},
        "name": {"type": "str", "choices": ["p"]},
        "port": {"type": "int", "aliases": ["-p"]},
    }


@pytest.mark.parametrize(
    ("text", "derived"),
    [("x.add_argument('--a')\n", False), ("k = get_kwargs(Config)\nx.add_argument('--a', **k['a'])\n", True)],
)
def test_versions_whose_text_does_not_show_their_flags_are_run(
    tool: ModuleType, tmp_path: Path, text: str, derived: bool
) -> None:
    """0.8.5 has one module of configuration, as 0.7.3, and derives flags from it, as later ones."""
    path = tmp_path / "vllm/engine/arg_utils.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert tool.derived(tmp_path) is derived
