"""Hostile text in any string value: refused, or carried as it is. It never becomes YAML or a template."""

import copy
import functools
import json
import re

import pytest
import yaml
import yaml12

from tests.helpers.helm import CHART, RenderError, args, env, expand, fabric, merge, nest, render, render_text

HOSTILE = [
    "a: b\n- c\n---\nkind: Pod",
    "quote \" and ' and \\ end",
    '{{ fail "executed" }}{{- .Values }}',
    "$(HOME) $$(HOME) $$ $x ${y} `id`; $(id) | & > /dev/null $",
    "[1, {2: # comment",
    "&anchor *alias !!tag %YAML",
    "null",
    "yes",
    "0o17",
    "1e3",
    " tab\tand\r\nline ends\n ",
    "snowman ☃ emoji 🚀 nel \x85 sep \u2028 bom \ufeff bell \x07 del \x7f",
]

# Every string that a user can set, lists included.
BASE = merge(
    yaml.safe_load((CHART / "values.yaml").read_text()),
    fabric(),
    {
        "clusterName": "x",
        "queue": "x",
        "targetNodes": ["x"],
        "recipe": "x/y",
        "exclusiveTopologyKey": "x",
        "model": {"path": "/x", "servedName": "x"},
        "host": {"nodeSelector": {"key": "x"}, "tolerations": [{"key": "x", "value": "x"}]},
        "network": {"ncclSettings": [{"name": "X", "value": "x"}]},
        "gpuPlatformSettings": {
            "useHostPlugin": False,
            "daemonResources": {"limits": {"x": "1"}},
            "extendedResources": {"x": "1"},
            "deviceClaim": {"deviceClass": "x", "count": 1},
        },
        "volumes": {
            "ssdHostPath": "/x",
            "gcsMounts": [{"bucketName": "xyz", "mountPath": "/x", "onlyDir": "x"}],
            "hostMounts": [{"name": "x", "hostPath": "/x", "mountPath": "/host"}],
            "extra": [
                {"name": "x", "mountPath": "/y", "subPath": "x", "volume": {"nfs": {"server": "x"}}},
            ],
        },
        "vllm": {
            "command": ["x"],
            "serverArgs": {"text": "x", "list": ["x"], "map": {"x": "y"}},
            "env": [{"name": "X", "value": "x"}],
            "envFrom": [{"name": "Y", "secret": "x", "key": "x"}, {"configMap": "x"}],
            "service": {"annotations": {"key": "x"}},
        },
        "serviceAccount": {"name": "x", "annotations": {"key": "x"}},
        "podDisruptionBudget": {"enabled": True},
        "networkPolicy": {"allowedNamespaces": ["x"]},
        "autoscaling": {"enabled": True, "minReplicas": 2},
        "imagePullSecrets": ["x"],
        "priorityClassName": "x",
        "runtimeClassName": "x",
        "schedulerName": "x",
        "affinity": {"nodeAffinity": {"key": "x"}},
        "topologySpreadConstraints": [{"topologyKey": "x"}],
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "x", "labels": {"key": "x"}},
                "data": {"key": "x"},
            }
        ],
        "podAnnotations": {"key": "x"},
        "podLabels": {"key": "x"},
    },
)
ARGUMENTS = ["vllm.serverArgs.text", "vllm.serverArgs.list.0", "vllm.serverArgs.map.x"]


def strings(node, path=()):
    if isinstance(node, str):
        yield path
    elif isinstance(node, dict):
        for key, inner in node.items():
            yield from strings(inner, (*path, key))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from strings(inner, (*path, index))


# What is read only while prefill is apart, which an interconnect without KV handover does not allow.
APART = merge(
    BASE,
    {
        "model": {"tp_size": 16, "pp_size": 1},
        "network": {"interconnect": "none"},
        "roles": {
            "prefill": {"groups": 1, "serverArgs": {"text": "x"}},
            "decode": {"serverArgs": {"text": "x"}},
            "router": {"resources": {"limits": {"memory": "1Gi"}}},
        },
    },
)
JANITOR = merge(BASE, {"janitor": {"enabled": True}})
LEAVES = {".".join(map(str, path)): path for path in strings(APART)}


def base(path):
    return {"roles": APART, "janitor": JANITOR}.get(path[0], BASE)


def replaced(values, path, value):
    if not path:
        return value
    result = copy.copy(values)
    result[path[0]] = replaced(values[path[0]], path[1:], value)
    return result


def everywhere(names, value):
    """Render with one value in several places; they share a base."""
    values = base(LEAVES[next(iter(names))])
    for name in names:
        values = replaced(values, LEAVES[name], value)
    return render(values)


def compare(actual, expected, marker, value, expanded=False):
    """The render with the value is the render with the marker, but for the text itself."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            inside = expanded or key in ("env", "args")
            compare(actual[key], expected[key], marker, value, inside)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            compare(one, other, marker, value, expanded)
    elif isinstance(expected, str) and marker in expected:
        assert (expand(actual) if expanded else actual) == expected.replace(marker, value)
    else:
        assert actual == expected


# Names of variables, and what the objects are ordered by here.
ELSEWHERE = {*ARGUMENTS, "vllm.env.0.name", "extraObjects.0.kind", "extraObjects.0.metadata.name"}
# What decides what else is rendered, and what would hide another place that has the same text.
ALONE = {
    "network.interconnect",
    "networkPolicy.allowedNamespaces.0",
    "vllm.envFrom.0.name",
    *(f"gpuPlatformSettings.env.{number}.name" for number in range(3)),
}


def refused(message, names):
    """Return the places whose own text the schema refuses; else all that are refused, maybe for another's.

    Every refusal names a place, by its key.
    """
    if "the specifications of the schema" in message:
        found = re.findall(r"^ *- at '/(.*?)': (?!validation failed)", message, re.MULTILINE)
        keys = {place.replace("/", ".").replace("~1", "/").replace("~0", "~") for place in found}
        if keys & names:
            return keys & names, set()
    else:
        lines = message.partition("): ")[2].splitlines()
        keys = {re.sub(r"\[(\d+)\]", r".\1", line.partition(": ")[0]) for line in lines}
    doubtful = {name for name in names if any(f"{name}.".startswith(f"{key}.") for key in keys)}
    assert doubtful, message
    return set(), doubtful


def carried(names, value):
    """Return the places that carry a value, in groups with what each group renders.

    What is refused because it is in several places is tried in fewer of them, at last alone.
    """
    groups = []
    while names:
        try:
            return [*groups, (names, everywhere(names, value))]
        except RenderError as error:
            message = str(error)
        assert not message.endswith("): executed")
        if len(names) == 1:
            return groups
        own, doubtful = refused(message, names)
        apart = {name: LEAVES[name][-1] for name in doubtful}  # members of a list must differ
        if len(set(apart.values())) == 1:
            apart = {name: name for name in doubtful}
        for one in set(apart.values()):
            groups += carried(frozenset(name for name in doubtful if apart[name] == one), value)
        names = names - own - doubtful
    return groups


@functools.cache
def carry_plain_text(names, form):
    return {name for group, _ in carried(names, form.format("marker")) for name in group}


@functools.cache
def reference(names, form):
    return everywhere(names, form.format("marker"))


PLACES = {name for name in LEAVES if name not in ELSEWHERE}
TOGETHER = {
    **{name: frozenset([name]) for name in sorted(ALONE)},
    "base": frozenset(name for name in PLACES - ALONE if base(LEAVES[name]) is BASE),
    "apart": frozenset(name for name in PLACES if base(LEAVES[name]) is APART),
    "janitor": frozenset(name for name in PLACES if base(LEAVES[name]) is JANITOR),
}


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text, together):
    left = TOGETHER[together]
    for form in ("{}", "/{}", "image/{}:v1"):  # the later ones are for values of a narrower shape
        plain = carry_plain_text(left, form)
        for names, objects in carried(left, form.replace("{}", text)):
            assert names <= plain
            compare(objects, reference(names, form), "marker", text)
        left -= plain


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("text", [*HOSTILE, "", "-x", "--port=1"])
def test_arguments_stay_one_word(name, text):
    given = args(everywhere([name], text))
    flag = name.split(".")[2]
    if flag == "text" and text.startswith("-"):
        assert f"--text={text}" in given
    else:
        word = given[given.index(f"--{flag}") + 1]
        assert word == text if flag == "text" else json.loads(word) in ([text], {"x": text})


@pytest.mark.parametrize(
    "values",
    [
        nest("affinity.nodeAffinity", {"key": "\x7f"}),
        nest("topologySpreadConstraints", [{"key": "\x7f"}]),
        nest("volumes.extra", [{"name": "x", "mountPath": "/y", "volume": {"nfs": {"server": "\x7f"}}}]),
        nest(
            "extraObjects",
            [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "\x7f"}}],
        ),
    ],
)
def test_what_helm_could_only_leave_out_is_refused(values):
    with pytest.raises(RenderError, match="a text in it holds a control character; remove it"):
        render(values)


def test_old_and_new_yaml_readers_agree():
    text = render_text(replaced(BASE, LEAVES["vllm.env.0.value"], "yes: 0o17 ~"))
    new = [item for item in yaml12.parse_yaml(text, multi=True) if item]
    old = [item for item in yaml.safe_load_all(text) if item]
    assert new == old


@pytest.mark.parametrize("key", ["true", "null", "yes", "1", "1e3", "0x1"])
def test_keys_that_yaml_could_take_for_something_else(key):
    maps = ("podLabels", "podAnnotations", "host.nodeSelector", "vllm.service.annotations")
    maps += ("serviceAccount.annotations", "host.resources.limits")
    objects = render(merge(*(nest(path, {key: "1"}) for path in maps)))
    assert sum(text.count(f"'{key}': ") for text in map(str, objects)) == 2 * 4 + 2


@pytest.mark.parametrize("name", ["true", "NULL", "Yes", "n", "_"])
def test_names_of_variables_that_yaml_could_take_for_something_else(name):
    variables = [{"name": name, "value": "1"}]
    found = env(render({"vllm": {"env": variables}, "network": {"ncclSettings": variables}}))
    assert found[name] == found[f"MANYHOST_SET_{name}"] == "1"
