"""Properties of every render: what is not refused is whole, exact and repeatable."""

from __future__ import annotations

import json
import string
from typing import Any

import yaml
import yaml12
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import Plan
from manyhost.plan.roles import Role
from manyhost.render import Rendered, Renderer
from manyhost.render.values import quote

from tests.helpers.cli import ROOT
from tests.helpers.helm import Object, args, env, expand, find, pod
from tests.helpers.recipes import on_kubernetes

RENDERER = Renderer(Catalog(ROOT))
RECIPES = on_kubernetes(RENDERER.catalog)

# Text that YAML, Jinja, Go templates, shells and Kubernetes could each take for something of their own.
SPICE = st.sampled_from(
    [
        "{{ x }}",
        "{% y %}",
        "$(id)",
        "$(POD_IP)",
        "$$(A)",
        "`id`",
        ": ",
        " #",
        "- ",
        "'",
        '"',
        "\\",
        "\n",
        "|",
        "yes",
        "no",
        "null",
        "~",
        "1e3",
        "0x1f",
        "1_000",
        "*a",
        "&a",
        "!!int 5",
        "%",
        "@",
        "<<",
        "---",
        "...",
        "=",
        "\t",
        "é",
        "\u202e",
        "\u2028",
        "\x85",
        "\ufeff",
        "\U0001f600",
    ]
)
TEXT = (
    st.lists(st.one_of(SPICE, st.text(max_size=8)), min_size=1, max_size=5)
    .map("".join)
    .filter(lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text))
)
PRINTABLE = TEXT.filter(lambda text: all(c in "\t\n" or c.isprintable() for c in text))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | TEXT)
@settings(max_examples=400)
def test_quoted_text_reads_back_in_both_dialects(text: str) -> None:
    line = quote(text)
    assert "\n" not in line
    assert yaml.safe_load(f"a: {line}  # comment\n") == {"a": text}
    assert yaml12.parse_yaml(f"a: {line}  # comment\n") == {"a": text}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(max_examples=200)
def test_quoted_data_reads_back_in_both_dialects(value: Any) -> None:
    line = quote(value)
    assert yaml.safe_load(line) == value
    if not isinstance(value, (list, dict)):
        assert yaml12.parse_yaml(line) == value


def _assign(key: str, value: Any) -> str:
    return f"{key}={quote(value)}"


def _resolve(recipe: str, assignments: list[str]) -> Resolved:
    return resolve(RENDERER.catalog, recipe, assignments=assignments)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a recipe and settings; many of them cannot work."""
    recipe = draw(st.sampled_from(RECIPES))
    options: dict[str, st.SearchStrategy[Any]] = {
        "parallelism.tensor": st.sampled_from([1, 2, 3, 4, 8, 16, 32]),
        "parallelism.pipeline": st.sampled_from([1, 2, 3, 4, 6]),
        "parallelism.data": st.sampled_from([1, 1, 1, 2]),
        "engine.version": st.sampled_from(RENDERER.catalog.names("engines/vllm")),
        "engine.executor": st.sampled_from(["mp", "ray"]),
        "context": st.sampled_from([1, 2048, 32768, 163840, 1000000]),
        "groups": st.integers(1, 40),
        "roles.prefill.groups": st.integers(0, 3),
        "roles.prefill.tensor": st.sampled_from([0, 1, 2, 8]),
        "roles.decode.tensor": st.sampled_from([0, 1, 2, 8]),
        "roles.prefill.arguments.max-num-seqs": st.sampled_from([1, 64]),
        "roles.decode.arguments.enable-prefix-caching": st.booleans(),
        "utilization": st.floats(0.3, 1, allow_nan=False),
        "network.interconnect": st.sampled_from(["tcpxo", "none", ""]),
        "network.host_network": st.booleans(),
        "site.gcs_bucket": st.sampled_from(["", "weights", "my.bucket_1", "Bad Bucket"]),
        "startup_seconds": st.integers(0, 20000),
        "drain_seconds": st.integers(1, 900),
        "arguments.max-num-batched-tokens": st.sampled_from([4096, 1000000, 10**9]),
        "arguments.enable-prefix-caching": st.booleans(),
        "arguments.seed": st.integers(0, 2**31),
    }
    keys = draw(st.lists(st.sampled_from(sorted(options)), max_size=5, unique=True))
    return recipe, [_assign(key, draw(options[key])) for key in keys]


def _invariants(rendered: Rendered) -> None:
    plan = rendered.plan
    roles = {
        f"{rendered.release}-prefill" if role.name == "prefill" else rendered.release: role
        for role in plan.roles
    }
    found = {item["metadata"]["name"]: item for item in rendered.objects if item["kind"] == "LeaderWorkerSet"}
    assert {name: item["spec"]["replicas"] for name, item in found.items()} == {
        name: role.groups for name, role in roles.items()
    }
    others = [item for item in rendered.objects if item["kind"] != "LeaderWorkerSet"]
    for name, item in found.items():
        _whole([*others, item], plan, roles[name])
    assert yaml.load(rendered.values_text, Loader=yaml.CSafeLoader) == yaml12.parse_yaml(rendered.values_text)


def _whole(objects: list[Object], plan: Plan, of: Role) -> None:
    """One LeaderWorkerSet holds what the plan says of the groups of its role."""
    workload = find(objects, "LeaderWorkerSet")["spec"]
    size = workload["leaderWorkerTemplate"]["size"]
    assert size == of.hosts
    sizes = of.parallelism
    assert sizes.tensor * sizes.pipeline * sizes.data == size * max(plan.gpus_per_host, 1)
    for role in ("leader", "worker"):
        template = pod(objects, role)
        (engine,) = (c for c in template["spec"]["containers"] if c["name"] == "vllm")
        if plan.gpus_per_host:
            assert engine["resources"]["limits"]["nvidia.com/gpu"] == plan.gpus_per_host
    given_flags = args(objects, "leader")
    assert given_flags == args(objects, "worker")
    assert given_flags[given_flags.index("--tensor-parallel-size") + 1] == str(sizes.tensor)
    for name, value in of.arguments.items():
        if isinstance(value, bool):
            assert f"--{name if value else f'no-{name}'}" in given_flags
        elif isinstance(value, int):
            assert given_flags[given_flags.index(f"--{name}") + 1] == str(value)


@given(cases())
@settings(max_examples=120)
def test_a_recipe_is_refused_in_words_or_holds_what_it_says(case: tuple[str, list[str]]) -> None:
    recipe, assignments = case
    try:
        rendered = RENDERER.render(_resolve(recipe, assignments))
    except InvalidInput as error:
        refusal = error
    else:
        _invariants(rendered)
        return
    assert refusal.message
    assert refusal.where
    assert len(str(refusal).splitlines()) <= 3


@given(cases())
@settings(max_examples=25)
def test_two_renders_are_the_same_bytes(case: tuple[str, list[str]]) -> None:
    recipe, assignments = case
    try:
        first = RENDERER.render(_resolve(recipe, assignments))
    except InvalidInput:
        return
    again = Renderer(Catalog(ROOT), RENDERER.engine).render(_resolve(recipe, list(assignments)))
    assert first.files() == again.files()


@given(value=PRINTABLE)
@settings(max_examples=80)
def test_argument_values_arrive_as_they_were_given(value: str) -> None:
    rendered = RENDERER.render(_resolve(RECIPES[0], [_assign("arguments.chat-template", value)]))
    for role in ("leader", "worker"):
        flags = args(rendered.objects, role)
        joined = f"--chat-template={value}"
        found = flags[flags.index("--chat-template") + 1] if "--chat-template" in flags else None
        assert found == value or joined in flags
    assert rendered.values["vllm"]["serverArgs"]["chat-template"] == value


@given(value=PRINTABLE, name=st.text(string.ascii_uppercase, min_size=3, max_size=12))
@settings(max_examples=60)
def test_variables_arrive_as_they_were_given(value: str, name: str) -> None:
    # X at the end: a name like MY_TOKEN is refused, because a secret is no setting.
    name = f"{name}X"
    rendered = RENDERER.render(_resolve(RECIPES[0], [_assign(f"variables.MY_{name}", value)]))
    assert env(rendered.objects)[f"MY_{name}"] == value


@given(value=st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=8), st.integers(0, 10**9)))
@settings(max_examples=40)
def test_json_arguments_keep_their_whole_numbers(value: dict[str, int]) -> None:
    rendered = RENDERER.render(_resolve(RECIPES[0], [_assign("arguments.hf-overrides", value or {"a": 1})]))
    flags = args(rendered.objects)
    found = json.loads(expand(flags[flags.index("--hf-overrides") + 1]))
    assert found == (value or {"a": 1})
    assert all(isinstance(number, int) for number in found.values())
