"""Prefill and decode groups with sizes and arguments of their own."""

from __future__ import annotations

from typing import Any

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import Plan, make_plan
from manyhost.plan.roles import Role
from manyhost.render import build

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
APART = ("roles.prefill.groups=1", "network.interconnect=none", "parallelism.pipeline=1")
BIG = (*APART, "parallelism.tensor=16")


def plan(*assignments: str, recipe: str = RECIPE) -> Plan:
    return make_plan(resolve(CATALOG, recipe, assignments=assignments), CATALOG)


def by_name(found: Plan) -> dict[str, Role]:
    return {role.name: role for role in found.roles}


def refused(*assignments: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        plan(*assignments)
    return caught.value


def test_a_role_has_the_sizes_of_all_unless_it_has_its_own() -> None:
    found = plan(*BIG, "model=qwen3-8b", "context=8192", "parallelism.tensor=8", "roles.decode.tensor=16")
    roles = by_name(found)
    assert (roles["prefill"].parallelism.tensor, roles["prefill"].hosts) == (8, 1)
    assert (roles["decode"].parallelism.tensor, roles["decode"].hosts) == (16, 2)
    assert found.hosts == 3


def test_hosts_and_memory_are_those_of_each_role() -> None:
    found = plan(
        *APART, "model=qwen3-8b", "context=8192", "parallelism.tensor=8", "parallelism.data=1", "groups=2",
        "roles.prefill.tensor=4", "roles.prefill.data=2",
    )  # fmt: skip
    roles = by_name(found)
    sizes = {name: (r.parallelism.tensor, r.parallelism.data, r.hosts) for name, r in roles.items()}
    assert sizes == {"prefill": (4, 2, 1), "decode": (8, 1, 1)}
    assert found.hosts == 3
    prefill, decode = (roles[name].memory for name in ("prefill", "decode"))
    assert prefill is not None
    assert decode is not None
    assert prefill.weights_gib[0] == pytest.approx(2 * decode.weights_gib[0], rel=0.02)
    assert prefill.kv_tokens < decode.kv_tokens


def test_its_own_arguments_stand_over_those_of_all_and_null_takes_one_away() -> None:
    roles = by_name(
        plan(
            *BIG, "arguments.seed=1", "arguments.block-size=64", "roles.prefill.arguments.seed=2",
            "roles.prefill.arguments.block-size=null", "roles.decode.arguments.max-num-seqs=7",
        )
    )  # fmt: skip
    assert roles["prefill"].arguments["seed"] == 2
    assert "block-size" not in roles["prefill"].arguments
    assert (roles["decode"].arguments["seed"], roles["decode"].arguments["block-size"]) == (1, 64)
    assert roles["decode"].arguments["max-num-seqs"] == 7
    assert roles["prefill"].arguments["max-num-seqs"] != 7


def test_they_reach_the_pods_of_that_role_alone() -> None:
    rendered = build(
        "local/tiny-r1-disaggregated",
        assignments=["roles.prefill.arguments.max-num-seqs=null", "roles.decode.arguments.seed=7"],
    )
    words: dict[str, list[str]] = {}
    for item in rendered.objects:
        if item["kind"] == "LeaderWorkerSet":
            spec: Any = item["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
            (engine,) = (c for c in spec["containers"] if c["name"] == "vllm")
            words[item["metadata"]["labels"]["manyhost.dev/role"]] = engine["args"]
    assert {name: "--max-num-seqs" in args for name, args in words.items()} == {
        "prefill": False,
        "decode": True,
    }
    assert {name: "--seed" in args for name, args in words.items()} == {"prefill": False, "decode": True}


@pytest.mark.parametrize(
    ("assignments", "where", "words"),
    [
        (("roles.decode.tensor=8",), "roles.decode", "there are no decode groups"),
        (("roles.prefill.arguments.seed=1",), "roles.prefill", "there are no prefill groups"),
        ((*BIG, "roles.prefill.tensor=32"), "roles.prefill.tensor", "no multiple of prefill tensor 32"),
        ((*BIG, "roles.decode.tensor=12"), "roles.decode.tensor", "12 is no multiple of prefill tensor 16"),
        ((*BIG, "roles.decode.arguments.kv-transfer-config={}"), "roles.decode.arguments.kv-transfer-config",
         "it is set for prefill and decode"),
        ((*BIG, "roles.prefill.arguments.tensor-parallel-size=8"),
         "roles.prefill.arguments.tensor-parallel-size", "is set by manyhost itself"),
        ((*BIG, "roles.prefill.arguments.max-num-seqs=0"), "roles.prefill.arguments.max-num-seqs",
         "must be a whole number from 1"),
        ((*BIG, "roles.decode.arguments.kv-cache-dtype=int8"), "roles.decode.arguments.kv-cache-dtype",
         "use one of: auto"),
    ],
)  # fmt: skip
def test_what_cannot_be_names_the_role(assignments: tuple[str, ...], where: str, words: str) -> None:
    error = refused(*assignments)
    assert error.where == f"--set: {where}"
    assert words in f"{error.message}; {error.fix}"


def test_what_is_moved_is_counted_for_the_ranks_that_read_it() -> None:
    small, large = (
        plan(
            "roles.decode.tensor=2" if own else "context=2048", recipe="local/tiny-r1-disaggregated"
        ).handover
        for own in (False, True)
    )
    assert small is not None
    assert large is not None
    assert large.bytes == 2 * small.bytes  # MLA: each rank has a copy of its own
