"""A container of a group breaks a rule of hardening for a reason in values/, or does not leave the render."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.interconnect import Plugin
from manyhost.checks import Allowance, hardening, run
from manyhost.checks.objects import Context
from manyhost.errors import InvalidInput
from manyhost.render import Rendered, Renderer

from tests.helpers.cli import RECIPE, ROOT, checkout, manyhost
from tests.helpers.helm import Object, fabric, merge, nest, render
from tools import unwrap_pods

CATALOG = Catalog(ROOT)
RENDERER = Renderer(CATALOG)
PUBLISHED = f"{RECIPE}-published"
# Besides the recipes as they are: what brings further containers, or another release of a daemon.
MORE: list[tuple[str, tuple[str, ...]]] = [
    (RECIPE, ("network.interconnect=none",)),
    (RECIPE, ("network.host_network=true",)),
    (RECIPE, ("chart.networkPolicy.enabled=false",)),
    (RECIPE, ("chart.gpuPlatformSettings.useHostPlugin=false",)),
    (PUBLISHED, ("chart.gpuPlatformSettings.useHostPlugin=false",)),
    ("kubernetes/qwen3-8b", ("roles.prefill.groups=1",)),
    ("kubernetes/deepseek-r1-671b", ("network.interconnect=rdma",)),
]
EVERY = [*((name, ()) for name in CATALOG.recipes()), *MORE]


def rendered(recipe: str = RECIPE, *assignments: str) -> Rendered:
    return RENDERER.render(resolve(CATALOG, recipe, assignments=assignments))


def broken(objects: list[Object]) -> set[str]:
    context = Context(objects)
    return {name for pod in hardening.own_pods(context) for name, _ in hardening.departures(pod, context)}


def reasons(found: Rendered) -> Iterator[tuple[str, str]]:
    """Yield (file, exemption) of all that a rendering's files give a reason for."""
    plan = found.plan
    yield from (("exemptions", name) for name in CATALOG.exemptions())
    yield from ((f"environments/{plan.environment.name}", name) for name in plan.environment.exemptions)
    if isinstance(plan.interconnect, Plugin):
        yield from (
            (f"interconnects/{plan.interconnect.name}", name) for name in plan.interconnect.exemptions
        )


def test_each_reason_has_a_container_that_needs_it() -> None:
    """What nobody needs any more is no longer allowed."""
    given, needed = set[tuple[str, str]](), set[tuple[str, str]]()
    for recipe, assignments in EVERY:
        found = rendered(recipe, *assignments)
        names = broken(found.objects)
        given |= set(reasons(found))
        needed |= {(file, name) for file, name in reasons(found) if name in names}
        assert names <= set(found.plan.allowed.exemptions)  # or the render would have been refused
    known = {
        f"{folder}/{name}" for folder in ("environments", "interconnects") for name in CATALOG.names(folder)
    }
    assert {file for file, _ in given} <= known | {"exemptions"}
    assert given == needed


def test_a_default_release_on_a3_mega() -> None:
    """Eight kinds of finding; docs/reference/hardening.md has the count of checkov for the same pods."""
    names = broken(rendered().objects)
    assert len({name.partition(" in ")[0] for name in names}) == 6
    assert len({check for name in names for check in hardening.RULES[name.partition(" in ")[0]].checkov}) == 8
    assert {name for name in names if name.endswith("tcpxo-daemon")} == {
        f"{rule} in tcpxo-daemon" for rule in ("added-capabilities", "image-tag", "user", "writable-root")
    }


# ------------------------------------------------------------------------------- the rules
def container(objects: list[Object], name: str = "vllm", role: str = "worker") -> Object:
    (group,) = (item for item in objects if item["kind"] == "LeaderWorkerSet")
    spec = group["spec"]["leaderWorkerTemplate"][f"{role}Template"]["spec"]
    found: Object = next(
        item for item in [*spec.get("initContainers", []), *spec["containers"]] if item["name"] == name
    )
    return found


def loosen(*path: str, value: Any = None, name: str = "vllm") -> Callable[[list[Object]], None]:
    """Return what sets a field of a container, or takes it away."""

    def change(objects: list[Object]) -> None:
        node = container(objects, name)
        for key in path[:-1]:
            node = node.setdefault(key, {})
        if value is None:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


def from_pod(change: Callable[[Object], Any]) -> Callable[[list[Object]], None]:
    def changed(objects: list[Object]) -> None:
        (group,) = (item for item in objects if item["kind"] == "LeaderWorkerSet")
        change(group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"])

    return changed


HARD = {"runAsUser": 10_001, "readOnlyRootFilesystem": True}
FAULTS = [
    ("privilege-escalation in vllm", loosen("securityContext", "allowPrivilegeEscalation")),
    ("privilege-escalation in vllm", loosen("securityContext", "allowPrivilegeEscalation", value=True)),
    ("capabilities in vllm", loosen("securityContext", "capabilities", "drop")),
    ("capabilities in vllm", loosen("securityContext", "capabilities", "drop", value=["NET_RAW"])),
    ("added-capabilities in vllm", loosen("securityContext", "capabilities", "add", value=["IPC_LOCK"])),
    ("user in vllm", loosen("securityContext", "runAsUser", value=1000)),
    ("user in vllm", loosen("securityContext", "runAsUser")),
    ("writable-root in vllm", loosen("securityContext", "readOnlyRootFilesystem")),
    ("cpu-request in vllm", loosen("resources", "requests", "cpu")),
    ("cpu-limit in vllm", loosen("resources", "limits", "cpu")),
    ("memory-request in vllm", loosen("resources", "requests", "memory")),
    ("memory-limit in vllm", loosen("resources", "limits", "memory")),
    ("image-tag in vllm", loosen("image", value="vllm/vllm-openai:v0.26.0")),
    ("secret-variable in vllm", loosen("envFrom", value=[{"secretRef": {"name": "s"}}])),
    (
        "secret-variable in vllm",
        loosen("env", value=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
    ),
    ("service-account-token", from_pod(lambda spec: spec.pop("automountServiceAccountToken"))),
]


@pytest.fixture
def hard() -> list[Object]:
    """A release that breaks no rule at all."""
    amounts = {"cpu": 1, "memory": "1Gi"}
    objects = render(
        merge(
            nest("job.image.digest", "sha256:" + "0" * 64),
            nest("host.resources", {"requests": amounts, "limits": amounts}),
            nest("huggingface.secretName", ""),
        ),
        namespace="llm",
    )
    for role in ("leader", "worker"):
        container(objects, role=role)["securityContext"] |= HARD
    assert broken(objects) == set()
    return objects


@pytest.mark.parametrize(("name", "change"), FAULTS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(FAULTS)])
def test_each_rule(name: str, change: Callable[[list[Object]], None], hard: list[Object]) -> None:
    change(hard)
    assert broken(hard) == {name}
    (found,) = [item for item in run(hard, environment_level=Allowance("privileged", exemptions=frozenset()))
                if item.check == "hardening"]  # fmt: skip
    assert repr(name) in found.message
    assert "workerTemplate" in found.where
    reason = Allowance("privileged", exemptions=frozenset({name}))
    assert not [item for item in run(hard, environment_level=reason) if item.check == "hardening"]


def test_seccomp_of_the_pod_holds_for_its_containers(hard: list[Object]) -> None:
    loosen("securityContext", "seccompProfile")(hard)
    assert broken(hard) == set()
    from_pod(lambda spec: spec.pop("securityContext"))(hard)
    assert broken(hard) == {"seccomp in vllm"}


def test_where_it_is_and_who_reaches_it(hard: list[Object]) -> None:
    policy = next(item for item in hard if item["kind"] == "NetworkPolicy")
    policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] = "other"
    for item in hard:
        item["metadata"]["namespace"] = "default"
    assert broken(hard) == {"default-namespace", "network-policy"}


def test_a_privileged_container_is_one_departure_that_has_its_own_reason() -> None:
    names = broken(rendered(RECIPE, "network.host_network=true").objects)
    assert not {f"{rule} in vllm" for rule in ("privilege-escalation", "capabilities", "seccomp")} & names


def test_without_exemptions_nothing_is_checked(hard: list[Object]) -> None:
    loosen("securityContext", "allowPrivilegeEscalation")(hard)
    assert not [
        item for item in run(hard, environment_level=Allowance("privileged")) if item.check == "hardening"
    ]


def test_pods_of_extra_objects_are_their_owners_affair() -> None:
    pod = {"containers": [{"name": "a", "image": "i:1"}]}
    own = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"}, "spec": pod}
    assert rendered(RECIPE, f"chart.extraObjects=[{yaml.safe_dump(own, default_flow_style=True).strip()}]")


# ------------------------------------------------------------------------------- the reasons
def test_a_render_that_breaks_a_rule_without_a_reason_is_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        rendered(RECIPE, "chart.host.resources.limits={}")
    said = " ".join(str(item) for item in (error.value, *error.value.more))
    assert "has no limit of processors, and no reason is given for 'cpu-limit in vllm'" in said
    assert "has no limit of memory, and no reason is given for 'memory-limit in vllm'" in said


def test_an_environment_gives_its_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = checkout(tmp_path, monkeypatch)
    path = own / "values/environments/a3mega.yaml"
    text = path.read_text()
    assert "  cpus: 208\n" in text
    path.write_text(text.replace("  cpus: 208\n", ""))
    ran = manyhost("render", "a3mega")
    assert ran.code == 3
    assert "has no limit of processors, and no reason is given for 'cpu-limit in vllm'" in ran.err
    assert "under exemptions in the environment's file" in ran.err
    known = "exemptions:\n  cpu-limit in vllm: the hosts are of many kinds\n"
    path.write_text(
        text.replace("  cpus: 208\n", "") + known + "  cpu-limit in tcpxo-daemon: the same again\n"
    )
    assert manyhost("render", "a3mega").code == 0
    path.write_text(text + "exemptions:\n  cpu-limits in vllm: the hosts are of many kinds\n")
    ran = manyhost("render", "a3mega")
    assert "cpu-limits in vllm: there is no such rule; one of added-capabilities, " in ran.err
    path.write_text(text + "exemptions:\n  cpu-limit in vllm: because\n")
    assert "exemptions" in manyhost("render", "a3mega").err


def test_a_file_of_manifests_is_held_to_its_environment(tmp_path: Path) -> None:
    text = rendered().manifests_text
    path = tmp_path / "manifests.yaml"
    path.write_text(text)
    assert manyhost("check", str(path)).code == 0
    path.write_text(text.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"))
    ran = manyhost("check", str(path))
    assert ran.code == 3
    assert "may gain privileges while it runs" in ran.out + ran.err


def test_explain_tells_each_reason_and_its_file() -> None:
    ran = manyhost("explain", "exemptions", "a3mega")
    assert ran.code == 0
    lines = ran.out.splitlines()
    for name, file in (
        ("image-tag in vllm", "values/exemptions.yaml"),
        ("user in tcpxo-daemon", "values/interconnects/tcpxo.yaml"),
    ):
        assert any(line.startswith(f"exemptions.{name} = ") and line.endswith(f"({file})") for line in lines)
    assert manyhost("explain", "exemptions.user in tcpxo-daemon", "a3mega").out.count("\n") == 1
    assert "environments/local.yaml" in manyhost("explain", "exemptions.cpu-limit in vllm", "local").out


# ------------------------------------------------------------------------------- the daemons
def test_a_daemon_has_no_more_than_it_is_known_to_need() -> None:
    new = container(rendered().objects, "tcpxo-daemon")["securityContext"]
    assert new == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]},
    }
    old = rendered(RECIPE, "network.release=v1.0.11").objects
    assert container(old, "tcpxo-daemon")["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_ADMIN", "NET_BIND_SERVICE"]},
    }
    plain = [render(fabric("tcpx")), old]
    for objects in plain:
        (group,) = (item for item in objects if item["kind"] == "LeaderWorkerSet")
        assert "securityContext" not in group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]


def test_daemons_may_use_all_processors_and_not_all_memory() -> None:
    limits = {"cpu": "208", "memory": "64Gi"}
    assert container(rendered().objects, "tcpxo-daemon")["resources"]["limits"] == limits
    assert (
        container(rendered("a3high/deepseek-r1-671b").objects, "tcpx-daemon")["resources"]["limits"] == limits
    )


# ------------------------------------------------------------------------------- checkov itself
@pytest.mark.skipif(
    not shutil.which("checkov"), reason="checkov is not installed (docs/reference/hardening.md)"
)
@pytest.mark.parametrize(("recipe", "assignments"), EVERY)
def test_checkov_finds_nothing_else(recipe: str, assignments: tuple[str, ...], tmp_path: Path) -> None:
    found = rendered(recipe, *assignments)
    unwrap_pods.write(found.objects, tmp_path)
    ran = subprocess.run(
        ["checkov", "--directory", str(tmp_path), "--framework", "kubernetes", "--output", "json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    failed = {item["check_id"] for item in yaml.safe_load(ran.stdout)["results"]["failed_checks"]}
    rules = {name.partition(" in ")[0] for name in broken(found.objects)}
    known = {check for rule in rules for check in hardening.RULES[rule].checkov}
    privileged = {"CKV_K8S_16", "CKV_K8S_19", "CKV_K8S_20", "CKV_K8S_28", "CKV_K8S_31", "CKV_K8S_37"}
    if found.plan.settings.network.host_network:
        known |= privileged
    assert failed <= known
