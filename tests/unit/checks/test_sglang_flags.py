"""Reading SGLang's flags from the text of its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import extract_engine_flags, sglang_flags

FIELDS = """
class Serving(Struct):
    host: A[str, "The host."] = "127.0.0.1"
    tp_size: A[int, Arg(help="x", aliases=["--tensor-parallel-size"])] = 1
    fraction: A[Optional[float], "Share " "of memory."] = None
    fp8_gemm_runner_backend: A[str, Arg(cli_name="--fp8-gemm-backend", choices=KINDS + ["more"])] = "auto"
    length: A[Optional[int], Arg(type_parser=human_readable_int)] = None
    config: A[Optional[dict], Arg(type_parser=json.loads)] = None
    origins: A[List[str], Arg(type_parser=json_list_type)] = None
    sizes: A[Optional[List[int]], "Sizes."] = None
    mode: A[Literal[1, 2], "One of two."] = 1
    trust: A[bool, "Switch."] = False
    both: A[Optional[bool], Arg(action=argparse.BooleanOptionalAction)] = None
    paths: A[Optional[dict], Arg(action=PathAction, action_kwargs={"type": str, "nargs": "*"})] = None
    checksum: A[Optional[str], Arg(nargs="?", const="")] = None
    hidden: A[bool, Arg(no_cli=True)] = False
    plain: int = 3
"""
SERVER = """
class ServerArgs:
    def add_cli_args(parser):
        parser.add_argument("--reasoning-parser", type=str, choices=["auto"] + names, default=None)
        parser.add_argument("--disable-cuda-graph", action=DeprecatedStoreTrueAction, new_flag="x")
"""


def package(folder: Path, fields: str = FIELDS) -> Path:
    files = {
        "arg_groups/fields/serving.py": fields,
        "server_args.py": SERVER,
        "arg_groups/choices.py": 'KINDS = ["auto", "triton"]\nKINDS_SET = {"a"}\n',
        "parser/reasoning_parser.py": 'class R:\n    DetectorMap: Dict = {"deepseek-r1": D, "qwen3": Q}\n',
        "utils/common.py": "",
        "model_executor/cuda_graph_config.py": "",
        "function_call/function_call_parser.py": "",
    }
    for name, text in files.items():
        path = folder / "sglang/srt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_each_form_of_a_field(tmp_path: Path) -> None:
    assert extract_engine_flags.table(sglang_flags.rows(package(tmp_path))) == {
        "both": {"type": "bool", "negatable": True},
        "checksum": {"type": "str", "optional": True},
        "config": {"type": "json"},
        "disable-cuda-graph": {"type": "bool"},
        "fp8-gemm-backend": {"type": "str", "choices": ["auto", "triton", "more"]},
        "fraction": {"type": "float"},
        "host": {"type": "str"},
        "length": {"type": "si_int"},
        "mode": {"type": "int", "choices": [1, 2]},
        "origins": {"type": "json"},
        "paths": {"type": "str", "list": True},
        "reasoning-parser": {"type": "str", "choices": ["auto", "deepseek-r1", "qwen3"]},
        "sizes": {"type": "int", "list": True},
        "tp-size": {"type": "int", "aliases": ["tensor-parallel-size"]},
        "trust": {"type": "bool"},
    }


@pytest.mark.parametrize("line", ['x: A[str, Arg(choices=UNHEARD_OF)] = ""', 'x: A[str, Other("x")] = ""'])
def test_a_form_that_nobody_knows_ends_the_extraction(line: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not understood"):
        sglang_flags.rows(package(tmp_path, f"class X:\n    {line}\n"))
