"""Leases and the janitor: real CronJobs, Jobs and permissions, with the stand-in engine."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import faults
from testbed import gpu_hosts as hosts
from tests.e2e.place import Place, everything, run, standin
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
RELEASED = "manyhost.dev/released"
CRON = "tiny-r1-janitor"
PAST = "2026-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def _real_nodes(place: Place) -> Iterator[None]:
    """Keep the janitor's pods off the kwok node that would only pretend to run them."""
    if place.own is None:
        yield
        return
    faults.cordon(place.own, hosts.SYSTEM)
    yield
    faults.cordon(place.own, hosts.SYSTEM, cordoned=False)


def settings(image: tuple[str, str], *more: str) -> list[str]:
    """The stand-in engine, and the janitor in the same image, each minute."""
    own = (
        "chart.janitor.enabled=true",
        f"chart.janitor.image={image[0]}:{image[1]}",
        'chart.janitor.schedule="* * * * *"',
    )
    return standin(image, *own, *more)


def lws(place: Place, namespace: str) -> Any:
    return place.get("lws", "tiny-r1", "-n", namespace)


def note(place: Place, namespace: str) -> Any:
    """What the janitor has written; None when it has written nothing."""
    text = (lws(place, namespace)["metadata"].get("annotations") or {}).get(RELEASED)
    return json.loads(text) if text else None


def janitor(place: Place, namespace: str, name: str) -> str:
    """Run the janitor now; return what it says."""
    made = ["create", "job", name, f"--from=cronjob/{CRON}", "-n", namespace]
    job = json.loads(place.kube(*made, "--dry-run=client", "-o", "json"))
    del job["metadata"]["ownerReferences"]  # the CronJob would clear it away with its own, old ones
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        place.kube("create", "-f", file.name)
    until(
        "the janitor has run",
        lambda: place.get("job", name, "-n", namespace).get("status", {}).get("succeeded"),
    )
    said = place.kube("logs", f"job/{name}", "-n", namespace)
    place.kube("delete", "job", name, "-n", namespace)
    return said


def status(*here: str) -> Any:
    return run("status", "local", *here, "--output", "json").ok().output.result


def test_a_lease_ends_serving_groups_and_deploy_starts_them_again(
    place: Place, image: tuple[str, str], namespace: str
) -> None:
    """The lease runs out, the CronJob itself frees the hosts: a state, not drift. Teardown leaves nothing."""
    here = ["--namespace", namespace, *settings(image)]
    before = everything(place, namespace)
    me = place.kube("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    done = run("deploy", "local", *here, "--for", "2h", "--timeout", "120").ok()
    assert "lease until" in done.out
    assert "another deploy --for renews it, teardown ends it" in done.out
    found = status(*here)
    assert (found["ready_groups"], found["lease"]["by"], found["drift"]) == (1, me, [])
    assert janitor(place, namespace, "early") == "nothing to do\n"
    again = run("deploy", "local", *here, "--timeout", "120", "--output", "json").ok().output.result
    assert again["proposal"]["action"] == "nothing"
    assert again["proposal"]["lease"] == found["lease"]
    renewed = run("deploy", "local", *here, "--for", "3h", "--output", "json").ok().output.result["proposal"]
    assert (renewed["action"], renewed["renews"]) == ("nothing", True)
    assert status(*here)["lease"]["until"] > found["lease"]["until"]

    ended = f"manyhost.dev/lease-until={PAST}"
    place.kube("annotate", "lws", "tiny-r1", "-n", namespace, "--overwrite", ended)
    until("the CronJob frees the hosts", lambda: note(place, namespace), 100)
    until("its pods end", lambda: not place.names("pods", "-n", namespace, "-l", "role"))
    assert lws(place, namespace)["spec"]["replicas"] == 0
    assert note(place, namespace)["groups"] == 1
    found = status(*here)
    assert found["released"]["why"] == f"the lease of {me} ended at {PAST}"
    assert (found["drift"], found["groups"], found["hosts"]) == ([], 0, [])
    said = run("status", "local", *here).ok().out
    assert "released at" in said
    assert "manyhost deploy local " in said

    started = run("deploy", "local", *here, "--timeout", "120", "--output", "json").ok().output.result
    assert (started["proposal"]["action"], started["proposal"]["changes"]) == ("start", [])
    assert started["proposal"]["released"]["groups"] == 1
    assert started["deployed"]["revision"] == 1
    assert note(place, namespace) is None
    found = status(*here)
    assert (found["ready_groups"], found["lease"], found["released"]) == (1, None, None)
    assert janitor(place, namespace, "late") == "nothing to do\n"
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()
    assert everything(place, namespace) == before


def test_a_group_that_never_answers_is_freed_and_helm_alone_brings_it_back(
    place: Place, image: tuple[str, str], namespace: str
) -> None:
    """The engine never gets ready; after heldMinutes without a change its hosts are freed."""
    from tests.helpers.helm import ROOT, helm_binaries

    never = "variables.STANDIN_START_SECONDS=manual"
    here = ["--namespace", namespace, *settings(image, "chart.janitor.heldMinutes=1", never)]
    late = run("deploy", "local", *here, "--timeout", "5")
    assert late.code == 1
    (wait,) = status(*here)["waits"]
    assert (wait["what"], wait["hosts"]) == ("starts", 2)
    assert wait["until"]
    assert wait["then"] == "the janitor frees the hosts"
    assert "the janitor frees the hosts at" in run("status", "local", *here).ok().out
    until("the janitor frees the hosts", lambda: note(place, namespace), 200)
    assert "no group answers and nothing has changed since" in note(place, namespace)["why"]
    assert lws(place, namespace)["spec"]["replicas"] == 0

    helm = next(iter(helm_binaries().values()), None)
    assert helm, "no Helm binaries: make tools"
    command = [
        str(helm),
        "--kubeconfig",
        str(place.kubeconfig),
        "--namespace",
        namespace,
        "upgrade",
        "tiny-r1",
    ]
    subprocess.run(
        [*command, str(ROOT / "charts/llm-multihost"), "--reuse-values"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert lws(place, namespace)["spec"]["replicas"] == 0  # Helm itself sees no difference
    said = janitor(place, namespace, "after-helm")
    assert "Helm has upgraded it to revision 2" in said
    assert (lws(place, namespace)["spec"]["replicas"], note(place, namespace)) == (1, None)
    assert status(*here)["drift"] == []
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()


def test_the_janitor_may_touch_its_own_release_and_nothing_else(
    place: Place, image: tuple[str, str], namespace: str
) -> None:
    here = ["--namespace", namespace, *settings(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    who = f"system:serviceaccount:{namespace}:{CRON}"

    def may(verb: str, what: str) -> bool:
        try:
            return place.kube("auth", "can-i", verb, what, "-n", namespace, "--as", who).strip() == "yes"
        except RuntimeError:  # kubectl ends with 1 for a no
            return False

    sets = "leaderworkersets.leaderworkerset.x-k8s.io"
    assert may("get", f"{sets}/tiny-r1")
    assert may("patch", f"{sets}/tiny-r1")
    assert may("get", "pods/tiny-r1-0-1")
    for verb, what in (
        ("delete", f"{sets}/tiny-r1"), ("list", sets), ("patch", f"{sets}/other"), ("get", "pods/other-0"),
        ("list", "pods"), ("get", "secrets/hf-secret"), ("delete", "pods/tiny-r1-0"), ("create", "pods"),
    ):  # fmt: skip
        assert not may(verb, what), (verb, what)
    run("teardown", "local", *here, "--yes").ok()


def test_a_lease_needs_a_janitor(place: Place, image: tuple[str, str], namespace: str) -> None:
    refused = run("deploy", "local", "--namespace", namespace, *standin(image), "--for", "2h")
    assert refused.code == 3
    assert "nothing would end the lease: the janitor is off" in refused.err
    assert "--set chart.janitor.enabled=true" in refused.err


def test_nodes_that_are_still_billed_are_told_with_the_command_that_removes_them(
    gpu_hosts: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a context that is named as gcloud names it; nothing is advised while somebody uses a node."""
    copy, name = tmp_path / "kubeconfig", "gke_test-project_us-central1_c1"
    copy.write_bytes(gpu_hosts.kubeconfig.read_bytes())
    current = subprocess.run(
        [gpu_hosts.kubectl, "--kubeconfig", str(copy), "config", "current-context"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    rename = [gpu_hosts.kubectl, "--kubeconfig", str(copy), "config", "rename-context", current, name]
    subprocess.run(rename, check=True, capture_output=True)
    monkeypatch.setenv("KUBECONFIG", str(copy))
    own = gpu_hosts.own
    assert own is not None
    resize = (
        f"`gcloud container clusters resize c1 --node-pool {hosts.NODE_POOL} --num-nodes 0 "
        "--location us-central1 --project test-project`"
    )
    gone = run("teardown", "a3mega", "--yes").ok()
    assert "6 nodes are billed, 557.64 USD/h (us-east4, list of 2026-07-30, " in gone.out
    assert resize in gone.out
    absent = run("status", "a3mega")
    assert (absent.code, resize in absent.out) == (4, True)
    try:
        faults.occupy(own, hosts.HEALTHY[0])
        (pool,) = run("teardown", "a3mega", "--yes", "--output", "json").ok().output.result["pools"]
        assert (pool["others"], pool["resize"]) == ([f"default/busy-{hosts.HEALTHY[0]}"], "")
        assert "gcloud" not in run("status", "a3mega").out
    finally:
        faults.heal(own)
    assert run("teardown", "local", "--yes", "--output", "json").ok().output.result["pools"] == []


def test_what_would_outlive_the_hosts_is_refused(gpu_hosts: Place) -> None:
    """The nodes say when they end, as GKE writes it; what fits is not refused."""
    own = gpu_hosts.own
    assert own is not None
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3 * 3600))
    note = {"metadata": {"annotations": {"node.gke.io/machine-termination-datetime": end}}}
    nodes = [f"/api/v1/nodes/{name}" for name in (*hosts.HEALTHY, hosts.CORDONED, hosts.SMALL)]
    deploy = ("deploy", "a3mega", "--dry-run", "--release", "fits")
    try:
        for path in nodes:
            own.api.patch(path, note)
        late = run(*deploy, "--for", "4h")
        assert late.code == 3
        assert f"after the hosts, which go at {end} (node " in late.err
        assert "fix: ask for less: `manyhost deploy a3mega" in late.err
        fits = run(*deploy, "--for", "2h").ok()
        assert f"the hosts go at {end} (node " in fits.out
        assert "lease until" in fits.out
        assert f"the hosts go at {end}" in run("status", "a3mega").out
        short = run(*deploy, "--for", "5m")
        assert short.code == 3
        assert "before the engine answers: a cold start takes about 36 min" in short.err
        soon = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(time.time() + 600))
        gone = run(*deploy, "--set", f"capacity.ends={soon}")
        assert gone.code == 4
        assert "(capacity.ends), before the engine answers" in gone.err
    finally:
        for path in nodes:
            own.api.patch(path, {"metadata": {"annotations": dict.fromkeys(note["metadata"]["annotations"])}})
