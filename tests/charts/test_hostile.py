"""Hostile text in any string value: refused, or carried as it is. It never becomes YAML or a template."""

import copy
import json

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


def replaced(path, value):
    def put(node, keys):
        if not keys:
            return value
        result = copy.copy(node)
        result[keys[0]] = put(node[keys[0]], keys[1:])
        return result

    return put({"roles": APART, "janitor": JANITOR}.get(path[0], BASE), path)


def attempt(path, value):
    try:
        return render(replaced(path, value))
    except RenderError as error:
        message = str(error)
    assert not message.endswith("): executed")
    return None


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


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in ELSEWHERE])
def test_text_stays_text(name):
    path = LEAVES[name]
    for form in ("{}", "/{}", "image/{}:v1"):
        reference = attempt(path, form.format("marker"))
        found = {text: attempt(path, form.replace("{}", text)) for text in HOSTILE}
        for text, objects in found.items():
            if objects is not None:
                compare(objects, reference, "marker", text)
        if reference is not None:  # the other forms are for values of a narrower shape
            break


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("text", [*HOSTILE, "", "-x", "--port=1"])
def test_arguments_stay_one_word(name, text):
    given = args(attempt(LEAVES[name], text))
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
    text = render_text(replaced(LEAVES["vllm.env.0.value"], "yes: 0o17 ~"))
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
