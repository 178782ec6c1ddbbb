"""Install, use, change and remove a release: real pods with the stand-in engine."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cures import Shell
from tests.e2e.place import Place, everything, finish, names_of, run, standin, start
from tests.helpers import fixes
from tests.helpers.output import read
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
LWS = "leaderworkerset.sigs.k8s.io"


def pods_of(place: Place, namespace: str, release: str = "tiny-r1") -> list[Any]:
    found = place.get("pods", "-n", namespace, "-l", f"{LWS}/name={release}")["items"]
    return sorted(found, key=lambda pod: pod["metadata"]["name"])


def test_walk(place: Place, image: tuple[str, str], namespace: str) -> None:
    """deploy, look, talk, deploy again, remove: and nothing is left."""
    here = ["--namespace", namespace, *standin(image)]
    before = everything(place, namespace)
    begin = time.monotonic()
    done = run("deploy", "local", *here, "--timeout", "120", "--output", "json").ok().output
    took = time.monotonic() - begin
    result = done.result["deployed"]
    assert done.events[0]["kind"] == "proposal"
    assert (result["groups"], result["hosts"], result["revision"]) == (1, 2, 1)
    phases = [(event["data"]["host"], event["data"]["phase"]) for event in done.of_kind("phase")]
    assert {(0, "ready"), (1, "ready")} <= set(phases)
    print(f"deploy to Ready: {took:.1f} s, of that installing {result['install_seconds']} s")

    pods = pods_of(place, namespace)
    assert names_of(pods) == ["tiny-r1-0", "tiny-r1-0-1"]
    # The wait itself adds at most two seconds to what the pods take (timestamps have whole seconds).
    ready = max(_ready_at(pod) for pod in pods)
    created = min(_stamp(pod["metadata"]["creationTimestamp"]) for pod in pods)
    assert result["ready_seconds"] <= ready - created + 2 + 1
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    for rank, pod in enumerate(pods):
        (container,) = pod["spec"]["containers"]
        names = {item["name"]: item.get("value") for item in container["env"]}
        assert container["name"] == "vllm"
        assert names["LWS_GROUP_SIZE"] == "2"
        assert names["LWS_WORKER_INDEX"] == str(rank)
        # Kubernetes expands only what stands before: the launcher's own names come after these.
        assert list(names).index("MANYHOST_RANK") > list(names).index("LWS_WORKER_INDEX")
        assert names["LWS_LEADER_ADDRESS"].startswith(f"tiny-r1-0.tiny-r1.{namespace}")
        assert {"name": "http", "containerPort": 8000, "protocol": "TCP"} in container["ports"]
        assert pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "vllm"
        security = container["securityContext"]
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["allowPrivilegeEscalation"] is False
        assert (
            place.kube("exec", "-n", namespace, pod["metadata"]["name"], "--", "id", "-u").strip() == "1000"
        )

    slices = place.get("endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name=tiny-r1-svc")
    targets = {e["targetRef"]["name"] for item in slices["items"] for e in item["endpoints"]}
    assert targets == {"tiny-r1-0"}
    assert "phase=serving" in place.kube("logs", "-n", namespace, "service/tiny-r1-svc")
    assert place.kube("exec", "-n", namespace, "service/tiny-r1-svc", "--", "id", "-u").strip() == "1000"

    status = run("status", "local", *here, "--output", "json").ok().output.result
    assert (status["ready_groups"], status["revision"], status["helm"]) == (1, 1, "deployed")
    assert [host["phase"] for host in status["hosts"]] == ["ready", "ready"]
    assert len(status["endpoints"]) == 1
    said = run("chat", "local", *here, "--prompt", "hello", "--output", "json").ok().output
    assert "hello" in said.result["answer"]
    assert said.result["reasoning"]
    assert "".join(event["text"] for event in said.of_kind("answer")) == said.result["answer"]
    shown = run("dashboard", "local", *here, "--once", "--every", "1", "--output", "json").ok().output.result
    assert [group["pod"] for group in shown["groups"]] == ["tiny-r1-0"]
    assert shown["total"]["running"] == 0
    (start,) = run("status", "local", *here, "--timeline", "--output", "json").ok().output.result["timeline"]
    assert start["answered"]
    assert [member["host"] for member in start["members"]] == [0, 1]
    for member in start["members"]:
        assert {"image", "weights", "engine"} <= {step["name"] for step in member["steps"]}
    plain = run("chat", "local", *here, "--prompt", "hello").ok().out
    assert plain.index("[reasoning]") < plain.index("[answer]")
    assert "rank=1" in run("logs", "local", *here, "--host", "1").ok().out
    logged = run("logs", "local", *here, "--host", "1", "--output", "json").ok().output
    assert any("rank=1" in event["text"] for event in logged.of_kind("log"))
    assert logged.result["lines"] == len(logged.events)
    assert run("logs", "local", *here, "--group", "7").code == 4

    again = run("deploy", "local", *here, "--output", "json").ok().output.result
    assert again["proposal"]["action"] == "nothing"
    assert again["deployed"]["revision"] == 1

    begin = time.monotonic()
    removed = run("teardown", "local", *here, "--yes", "--timeout", "60", "--output", "json").ok().output
    assert removed.result["removed"] is True
    print(f"teardown to nothing: {time.monotonic() - begin:.1f} s")
    assert everything(place, namespace) == before
    assert "nothing of release" in run("teardown", "local", *here, "--yes").ok().out
    assert run("status", "local", *here).code == 4


def test_two_groups(place: Place, image: tuple[str, str], namespace: str) -> None:
    """A dead worker container takes its own group along and no other; then the groups become one."""
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--set", "groups=2", "--timeout", "120").ok()
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods_of(place, namespace)}
    assert len(before) == 4
    place.kube(
        "exec",
        "-n",
        namespace,
        "tiny-r1-1-1",
        "--",
        "bash",
        "-c",
        "kill -9 $(pgrep -f '[m]anyhost_run')",
    )

    def anew() -> bool:
        found = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods_of(place, namespace)}
        changed = {name for name, uid in found.items() if uid != before.get(name)}
        return len(found) == 4 and changed == {"tiny-r1-1", "tiny-r1-1-1"}

    until("group 1 made anew, group 0 untouched", anew, 60)
    status = until(
        "both groups ready",
        lambda: (
            (found := run("status", "local", *here, "--output", "json").output.result)["ready_groups"] == 2
            and found
        ),
        60,
    )
    uids = {host["pod"]: host["uid"] for host in status["hosts"]}
    assert uids["tiny-r1-0"] == before["tiny-r1-0"]

    less = ("--set", "groups=1", "--timeout", "120", "--output", "json")
    done = run("deploy", "local", *here, *less).ok().output.result
    assert done["proposal"]["action"] == "upgrade"
    assert done["deployed"]["groups"] == 1
    assert place.get("lws", "tiny-r1", "-n", namespace)["spec"]["replicas"] == 1
    until("two pods", lambda: len(pods_of(place, namespace)) == 2, 60)
    assert pods_of(place, namespace)[0]["metadata"]["uid"] == before["tiny-r1-0"]
    run("teardown", "local", *here, "--yes").ok()


def test_what_was_changed_in_the_cluster_is_shown_and_put_back(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    """Deleted or edited behind our back, while Helm's record stays the same."""
    here = ["--namespace", namespace, *standin(image)]

    def drifted() -> list[tuple[str, str]]:
        found = run("status", "local", *here, "--output", "json").output.result["drift"]
        return sorted((change["action"], change["kind"]) for change in found)

    def deploy() -> Any:
        done = run("deploy", "local", *here, "--timeout", "120", "--output", "json").ok().output.result
        assert all(change["drift"] for change in done["proposal"]["changes"])
        return done["proposal"]

    def fix_of(kind: str) -> str:
        """What a program would run: status says it in one warning or error, and it is a command alone."""
        (told,) = run("status", "local", *here, "--output", "json").output.envelope[kind]
        assert fixes.cures(told["fix"])
        return fixes.commands(told["fix"])[0]

    run("deploy", "local", *here, "--timeout", "120").ok()
    assert drifted() == []
    place.kube("delete", "service", "tiny-r1-svc", "-n", namespace)
    place.kube("scale", "lws", "tiny-r1", "-n", namespace, "--replicas=2")
    assert drifted() == [("create", "Service"), ("update", "LeaderWorkerSet")]
    said = run("status", "local", *here).ok().out
    assert "Service tiny-r1-svc was deleted since it was deployed" in said
    assert "spec.replicas: 2 in the cluster, 1 deployed" in said
    shown = run("deploy", "local", *here, "--dry-run").ok().out
    assert "update LeaderWorkerSet tiny-r1: changed in the cluster" in shown
    shell(fix_of("warnings"))
    assert drifted() == []
    assert len(place.get("service", "tiny-r1-svc", "-n", namespace)["spec"]["ports"])
    assert place.get("lws", "tiny-r1", "-n", namespace)["spec"]["replicas"] == 1

    place.kube("delete", "lws,configmap", "-l", "app.kubernetes.io/instance=tiny-r1", "-n", namespace)
    gone = run("status", "local", *here)
    assert gone.code == 4
    assert "LeaderWorkerSet tiny-r1 was deleted" in gone.err
    # Before its pods have ended too, a new set of that name is refused (the next test).
    made = ("statefulsets,pods", "-n", namespace, "-l", f"{LWS}/name=tiny-r1")
    until("what the set had made has gone", lambda: not place.names(*made))
    dry = run("deploy", "local", *here, "--dry-run", "--output", "json").ok().output.result["proposal"]
    assert {change["kind"] for change in dry["changes"]} == {"ConfigMap", "LeaderWorkerSet"}
    shell(fix_of("errors"))
    assert drifted() == []
    assert deploy()["action"] == "nothing"
    run("teardown", "local", *here, "--yes").ok()


def test_what_is_on_its_way_out_is_neither_free_nor_ready(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    """A finalizer keeps the LeaderWorkerSet; then one keeps a pod of a set that has gone."""
    here = ["--namespace", namespace, *standin(image)]
    hold = '{"metadata":{"finalizers":["example.com/hold"]}}'
    free = '{"metadata":{"finalizers":null}}'
    run("deploy", "local", *here, "--timeout", "120").ok()
    place.kube("patch", "lws", "tiny-r1", "-n", namespace, "--type=merge", "-p", hold)
    place.kube("delete", "lws", "tiny-r1", "-n", namespace, "--wait=false")
    begin = time.monotonic()
    for command in (("doctor",), ("deploy",), ("status",)):
        said = run(*command, "local", *here, *(["--skip", "image"] if command == ("doctor",) else []))
        assert said.code == 4, said
        assert "is being removed" in said.out + said.err
        assert "finalizer example.com/hold keeps it" in said.out + said.err
    left = run("teardown", "local", *here, "--yes", "--timeout", "15")
    assert left.code == 1
    assert "finalizer example.com/hold keeps it" in left.err
    assert time.monotonic() - begin < 40
    (taken_off,) = fixes.commands(left.err.partition("fix: ")[2])
    shell(taken_off)
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()

    run("deploy", "local", *here, "--timeout", "120").ok()
    place.kube("patch", "pod", "tiny-r1-0-1", "-n", namespace, "--type=merge", "-p", hold)
    place.kube("delete", "lws", "tiny-r1", "-n", namespace, "--cascade=background")
    doctor = run("doctor", "local", *here, "--skip", "image")
    assert doctor.code == 4
    assert "of an earlier tiny-r1 are still there" in doctor.out
    assert "is free" not in doctor.out
    place.kube("patch", "pod", "tiny-r1-0-1", "-n", namespace, "--type=merge", "-p", free)
    ((_, fix),) = _advice(*here)
    (waits,) = fixes.commands(fix)
    assert "nothing is left" in shell(waits)
    assert _advice(*here) == []


def test_pods_that_are_not_made_and_logs_that_end(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    """A quota refuses a pod of a group that starts anew: status and the followed log say so."""
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    process = start("logs", "local", *here, "--follow", "--host", "1", kubeconfig=place.kubeconfig)
    time.sleep(2)
    place.kube("create", "quota", "tight", "-n", namespace, "--hard=pods=1")
    place.kube("delete", "pod", "tiny-r1-0", "-n", namespace, "--wait=false")
    _, err = finish(process, 60)
    assert "has ended" in err or "has been removed" in err

    said = until(
        "status says why",
        lambda: next((s for s in [run("status", "local", *here)] if "exceeded quota: tight" in s.out), None),
    )
    assert said.code == 4
    assert f"kubectl describe quota --namespace {namespace}" in said.out
    assert "tight" in shell.looks(said.err)
    place.kube("delete", "quota", "tight", "-n", namespace)
    run("teardown", "local", *here, "--yes").ok()


def test_scale_up_and_down(place: Place, image: tuple[str, str], namespace: str) -> None:
    """groups=2 adds a group that serves, and groups=1 takes it away; the first group never notices.

    Between the two, both groups roll to a new image and Helm rolls them back, and the Service answers.
    """
    here = ["--namespace", namespace, *standin(image)]

    def pods() -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods_of(place, namespace)}

    def endpoints() -> set[str]:
        found = place.get("endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name=tiny-r1-svc")
        ends = [end for item in found["items"] for end in item["endpoints"] or ()]
        return {end["targetRef"]["name"] for end in ends if end["conditions"]["ready"]}

    def deploy(groups: int) -> Any:
        settings = ["--set", f"groups={groups}", "--timeout", "120", "--output", "json"]
        result = run("deploy", "local", *here, *settings).ok().output.result
        # The change is the number of groups and nothing else: no pod template is rolled.
        assert [change["kind"] for change in result["proposal"]["changes"]] == ["LeaderWorkerSet"]
        return result["deployed"]

    run("deploy", "local", *here, "--timeout", "120").ok()
    first = pods()
    up = deploy(2)
    assert (up["groups"], up["hosts"], up["revision"]) == (2, 4, 2)
    assert set(pods()) == {"tiny-r1-0", "tiny-r1-0-1", "tiny-r1-1", "tiny-r1-1-1"}
    assert first.items() <= pods().items()
    until("both leaders behind the Service", lambda: endpoints() == {"tiny-r1-0", "tiny-r1-1"}, 20)
    assert "rank=1" in run("logs", "local", *here, "--group", "1", "--host", "1").ok().out

    revision = 2
    if place.next_tag:
        _roll_and_back(place, namespace, here, image)
        revision, first = 4, {name: uid for name, uid in pods().items() if name in first}

    down = deploy(1)
    assert (down["groups"], down["revision"]) == (1, revision + 1)
    until("the second group is gone", lambda: pods() == first, 30)
    assert endpoints() == {"tiny-r1-0"}
    status = run("status", "local", *here, "--output", "json").ok().output.result
    assert (status["groups"], status["ready_groups"], status["revision"]) == (1, 1, revision + 1)
    run("teardown", "local", *here, "--yes").ok()


def _roll_and_back(place: Place, namespace: str, here: list[str], image: tuple[str, str]) -> None:
    """Deploy the image's second tag over two groups, then let the helm program roll back to the first."""
    from tests.helpers.helm import helm_binaries

    def images() -> dict[str, str]:
        found = pods_of(place, namespace)
        return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in found}

    names = {"tiny-r1-0", "tiny-r1-0-1", "tiny-r1-1", "tiny-r1-1-1"}
    old, new = f"{image[0]}:{image[1]}", f"{image[0]}:{place.next_tag}"
    assert images() == dict.fromkeys(names, old)
    with _asking(place, namespace) as answers:
        rolled = run(
            "deploy", "local", *here, "--set", "groups=2", "--set", f'engine.tag="{place.next_tag}"',
            "--timeout", "120", "--output", "json",
        ).ok().output.result  # fmt: skip
        assert rolled["proposal"]["action"] == "upgrade"
        assert (rolled["deployed"]["groups"], rolled["deployed"]["revision"]) == (2, 3)
        assert images() == dict.fromkeys(names, new)
        helm = next(iter(helm_binaries().values()), None)
        assert helm, "no Helm binaries: make tools"
        common = [str(helm), "--kubeconfig", str(place.kubeconfig), "--namespace", namespace]
        subprocess.run([*common, "rollback", "tiny-r1"], check=True, capture_output=True, timeout=60)
        until("the first image is back", lambda: images() == dict.fromkeys(names, old), 90)
        until("both groups are ready", lambda: _ready(here), 60)
    assert len(answers) > 20, answers
    assert set(answers) == {"answered"}, [text for text in answers if text != "answered"]


@contextlib.contextmanager
def _asking(place: Place, namespace: str) -> Iterator[list[str]]:
    """Ask the Service for an answer over and over; gives a list of "answered" and of what went wrong."""
    answers: list[str] = []
    over = threading.Event()
    path = f"/api/v1/namespaces/{namespace}/services/tiny-r1-svc:http/proxy/v1/completions"
    command = [place.kubectl, "--kubeconfig", str(place.kubeconfig), "create", "--raw", path, "-f", "-"]
    body = json.dumps({"model": "tiny-r1", "prompt": "hello", "max_tokens": 2})

    def ask() -> None:
        while not over.is_set():
            done = subprocess.run(
                command, input=body, capture_output=True, text=True, timeout=60, check=False
            )
            fine = done.returncode == 0 and json.loads(done.stdout)["choices"]
            answers.append("answered" if fine else f"{time.time():.1f} {done.stderr or done.stdout}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def test_bad_image_is_explained_and_rolled_back(place: Place, image: tuple[str, str], namespace: str) -> None:
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    wrong = ["--set", 'engine.tag="no-such-tag"', "--timeout", "20", "--output", "json"]
    failed = run("deploy", "local", *here, *wrong)
    assert failed.code == 1
    problems = [event["text"] for event in failed.output.of_kind("problem")]
    assert any("no-such-tag" in text and "cannot be pulled" in text for text in problems)
    (error,) = failed.output.envelope["errors"]
    assert "cannot be pulled" in error["message"]
    assert failed.err == ""
    assert run("status", "local", *here).ok().out.count("cannot be pulled") >= 1

    from manyhost.cluster.connection import connect
    from manyhost.cluster.release import Releases

    Releases(connect(), namespace)._config.rollback("tiny-r1")
    until("rolled back", lambda: _ready(here), 60)
    assert {p["spec"]["containers"][0]["image"] for p in pods_of(place, namespace)} == {":".join(image)}
    run("teardown", "local", *here, "--yes").ok()


def test_held_group_says_why_and_starts_anew(place: Place, image: tuple[str, str], namespace: str) -> None:
    """Weights that are not there: every host gives up with a reason; deploying again tries again."""
    folder = ["--set", "weights.source=folder", "--set", "weights.path=/no/such/folder"]
    here = ["--namespace", namespace, *standin(image)]
    failed = run("deploy", "local", *here, *folder, "--timeout", "60", "--output", "json")
    assert failed.code == 1
    (problem, *_) = failed.output.of_kind("problem")
    assert "gave up" in problem["text"]
    assert "/no/such/folder" in problem["text"]
    assert any("phase=held" in line for line in problem["data"]["log"])
    uids = {pod["metadata"]["uid"] for pod in pods_of(place, namespace)}
    assert run("deploy", "local", *here, *folder, "--timeout", "60").code == 1
    assert not uids & {pod["metadata"]["uid"] for pod in pods_of(place, namespace)}
    run("deploy", "local", *here, "--timeout", "90").ok()
    run("teardown", "local", *here, "--yes").ok()


def test_interrupt_leaves_a_clear_state(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    here = ["--namespace", namespace, *standin(image, start_seconds=600)]
    process = start("deploy", "local", *here, kubeconfig=place.kubeconfig)
    _pods_or_end(process, place, namespace)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = finish(process, 30)
    assert process.returncode == 130, (out, err)
    assert "is installed and goes on starting" in err
    assert "Traceback" not in out + err
    assert run("status", "local", *here, "--output", "json").ok().output.result["helm"] == "deployed"
    shows, removes = fixes.commands(err)
    assert "0 of 1 groups ready" in shell(shows)
    assert "nothing is left" in shell(removes)


def test_what_is_late_is_waited_for_again_and_what_is_left_goes(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    """The commands that a deployment and a removal which ran out of time advise."""
    here = ["--namespace", namespace, *standin(image, start_seconds=15)]
    late = run("deploy", "local", *here, "--timeout", "8")
    assert late.code == 1, late
    assert "not ready after 8 s" in late.err
    waits, logs = fixes.commands(late.err)
    assert "phase=" in shell(logs)
    unready = run("chat", "local", *here, "--prompt", "x")
    assert unready.code == 4
    assert "groups ready" in shell.looks(unready.err)
    assert "answer (installed" in shell(waits.replace("--timeout 16", "--timeout 120"))

    none = run("logs", "local", *here, "--group", "7")
    assert "tiny-r1-0" in shell.looks(none.err)
    left = run("teardown", "local", *here, "--yes", "--timeout", "1")
    assert left.code == 1, left
    look, again = fixes.commands(left.err)
    shell(look, codes=(0, 1))  # the pod may have gone by now
    shell(again)
    assert not place.names("pods", "-n", namespace)


@pytest.mark.parametrize(
    ("settings", "kind", "shown"),
    [
        (("chart.vllm.envFrom=[{secret: none-such}]",), "config", 'secret "none-such" not found'),
        (("node_selector.disk=none",), "unschedulable", "no node carries"),
    ],
)
def test_where_a_problem_sends_people_its_cause_is_shown(
    settings: tuple[str, ...], kind: str, shown: str,
    place: Place, image: tuple[str, str], namespace: str, shell: Shell,
) -> None:  # fmt: skip
    more = [part for item in settings for part in ("--set", item)]
    here = ["--namespace", namespace, *standin(image), *more]
    failed = run("deploy", "local", *here, "--timeout", "20", "--output", "json")
    assert failed.code in (1, 4), failed
    found = [
        host["problem"] for host in run("status", "local", *here, "--output", "json").output.result["hosts"]
    ]
    problem = next(problem for problem in found if problem and problem["kind"] == kind)
    assert not fixes.cures(problem["fix"])
    assert shown in shell.looks(problem["fix"])
    run("teardown", "local", *here, "--yes").ok()


def test_an_operation_that_was_cut_off_is_rolled_back(
    place: Place, image: tuple[str, str], namespace: str, shell: Shell
) -> None:
    """The record of the second revision says that it is still under way."""
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    run("deploy", "local", *here, "--set", "groups=2", "--timeout", "120").ok()
    record = ("secret", "sh.helm.release.v1.tiny-r1.v2", "-n", namespace)
    place.kube("label", *record, "status=pending-upgrade", "--overwrite")
    ((why, fix),) = _advice(*here)
    assert "is pending-upgrade" in why
    back, remove = fixes.commands(fix)
    shell(back)
    assert _advice(*here) == []
    assert place.get("lws", "tiny-r1", "-n", namespace)["spec"]["replicas"] == 1
    assert "nothing is left" in shell(remove)


def test_api_server_away_in_the_middle_of_a_wait(
    place: Place, image: tuple[str, str], namespace: str
) -> None:
    if place.own is None:
        pytest.skip("the API server of somebody else's cluster is not stopped")
    here = ["--namespace", namespace, *standin(image, start_seconds=12)]
    process = start(
        "deploy", "local", *here, "--timeout", "120", "--output", "json", kubeconfig=place.kubeconfig
    )
    _pods_or_end(process, place, namespace)
    place.own.stop_api_server()
    try:
        time.sleep(6)
        for command in ("status", "doctor"):
            lost = run(command, "local", *here)
            assert lost.code in (4, 5), (command, lost)
            assert "cannot be reached" in lost.out + lost.err
        assert process.poll() is None
    finally:
        place.own.start_api_server()
    out, err = finish(process, 120)
    assert process.returncode == 0, (out, err)
    events = [event["kind"] for event in read(out).events]
    assert events.count("lost") == 1
    assert events.count("back") == 1
    assert "Traceback" not in err
    run("teardown", "local", *here, "--yes").ok()


def test_lost_node(place: Place, image: tuple[str, str], namespace: str) -> None:
    if place.own is None:
        pytest.skip("the nodes of somebody else's cluster are not harmed")
    here = ["--namespace", namespace, *standin(image)]
    run("deploy", "local", *here, "--timeout", "120").ok()
    victim = pods_of(place, namespace)[1]["spec"]["nodeName"]
    place.own.kill_node(victim)
    try:
        said = until(
            "status names the lost node",
            lambda: next(
                iter([t for t in [run("status", "local", *here).out] if "does not answer" in t]), ""
            ),
            100,
        )
        assert victim in said
        assert "0 of 1 groups ready" in said
    finally:
        place.own.restore_node(victim)
    until("the group is whole again", lambda: _ready(here), 120)
    run("teardown", "local", *here, "--yes").ok()


def test_side_by_side(place: Place, gpu_hosts: Place, namespace: str) -> None:
    """Two releases in one namespace and one of the same name in another: removing one leaves the others."""
    run("deploy", "a3mega", "--namespace", namespace, "--release", "one", "--timeout", "60").ok()
    run("deploy", "a3mega", "--namespace", namespace, "--release", "two", "--timeout", "60").ok()
    two = {name for name in everything(place, namespace) if "/two" in name}
    run("teardown", "a3mega", "--namespace", namespace, "--release", "one", "--yes").ok()
    left = everything(place, namespace)
    assert not any("/one" in name or ".one." in name for name in left)
    assert two <= left
    from tests.e2e.place import namespace as other

    with other(place, f"{namespace}-b") as second:
        third = run("deploy", "a3mega", "--namespace", second, "--release", "two", "--timeout", "5")
        assert third.code in (0, 4), third
        run("teardown", "a3mega", "--namespace", second, "--release", "two", "--yes").ok()
        assert two <= everything(place, namespace)
    run("teardown", "a3mega", "--namespace", namespace, "--release", "two", "--yes").ok()


def test_the_default_recipe_unchanged(place: Place, gpu_hosts: Place, namespace: str) -> None:
    """The committed manifests land on A3 Mega hosts; a new image tag rolls; no place is explained."""
    run("deploy", "a3mega", "--namespace", namespace, "--timeout", "60").ok()
    pods = pods_of(place, namespace, "deepseek-r1-671b")
    assert len(pods) == 2
    for pod in pods:
        engine = next(c for c in pod["spec"]["containers"] if c["name"] == "vllm")
        assert engine["resources"]["limits"]["nvidia.com/gpu"] == "8"
        interfaces = json.loads(pod["metadata"]["annotations"]["networking.gke.io/interfaces"])
        assert [item["network"] for item in interfaces] == ["default", *(f"vpc{n}" for n in range(1, 9))]
        node = place.get("node", pod["spec"]["nodeName"])
        assert node["metadata"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-h100-mega-80gb"
        assert not node["spec"].get("unschedulable")

    rolled = run(
        "deploy",
        "a3mega",
        "--namespace",
        namespace,
        "--set",
        "engine.version=v0.26.0",
        "--set",
        'engine.tag="v0.26.0-cu129"',
        "--timeout",
        "60",
        "--output",
        "json",
    ).ok()
    changes = rolled.output.result["proposal"]["changes"]
    (change,) = [c for c in changes if c["kind"] == "LeaderWorkerSet"]
    assert "v0.26.0-cu129" in change["diff"]
    images = {
        c["image"] for p in pods_of(place, namespace, "deepseek-r1-671b") for c in p["spec"]["containers"]
    }
    assert "vllm/vllm-openai:v0.26.0-cu129" in images

    full = run(
        "deploy",
        "a3mega",
        "--namespace",
        namespace,
        "--set",
        "groups=3",
        "--timeout",
        "15",
        "--output",
        "json",
    )
    assert full.code == 4
    text = full.output.of_kind("problem")[0]["text"]
    assert "fits no host" in text
    assert "nvidia.com/gpu" in text
    run("teardown", "a3mega", "--namespace", namespace, "--yes").ok()


def test_refusals_are_one_line(
    place: Place, gpu_hosts: Place, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec
    from manyhost.catalog import Catalog
    from manyhost.cluster.connection import connect
    from manyhost.cluster.deploy import propose
    from manyhost.cluster.target import from_rendered
    from manyhost.errors import InvalidInput
    from manyhost.render import build

    target = from_rendered(build("a3mega/deepseek-r1-671b", namespace=namespace))
    objects = json.loads(json.dumps(target.objects))
    for item in objects:
        if item["kind"] == "LeaderWorkerSet":
            item["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"] = {
                "maxUnavailable": 0,
                "maxSurge": 0,
            }
    with pytest.raises(InvalidInput, match="maxUnavailable") as error:
        propose(connect(), msgspec.structs.replace(target, objects=objects), Catalog().capacity())
    assert "denied the request" in error.value.message
    assert "\n" not in error.value.message
    assert not everything(place, namespace)

    assert run("deploy", "a3mega", "--namespace", "no-such-namespace").code == 4
    monkeypatch.setenv("CLUSTER_NAME", "another")
    wrong = run("deploy", "a3mega", "--namespace", namespace)
    assert wrong.code == 4
    assert "the settings mean cluster another" in wrong.err
    monkeypatch.delenv("CLUSTER_NAME")
    assert run("status", "a3mega", "--context", "no-such-context").code == 4

    if place.own is not None:
        monkeypatch.setenv("KUBECONFIG", str(place.own.kubeconfig_for_nobody()))
        for command in ("doctor", "deploy", "status", "logs", "chat", "teardown"):
            refused = run(
                command, "a3mega", "--namespace", namespace, *(["--prompt", "x"] if command == "chat" else [])
            )
            assert refused.code in (4, 5), (command, refused)
            assert (
                "forbidden" in (refused.out + refused.err).lower() or "may not" in refused.out + refused.err
            )


def test_a_measurement_without_a_result(place: Place, gpu_hosts: Place, namespace: str) -> None:
    """The cluster takes the objects of nccl; hosts that run nothing end it with one line, and it goes."""
    before = everything(place, namespace)
    ended = run("nccl", "a3mega", "--namespace", namespace, "--timeout", "8")
    assert ended.code == 4, ended
    assert ended.err.startswith("manyhost: no result in time")
    assert len(ended.err.splitlines()) <= 2
    assert ended.out.splitlines()[0] == "2 hosts asked for, release nccl"
    assert ended.out.splitlines()[-1] == "removed"
    assert everything(place, namespace) == before
    assert run("nccl", "a3mega", "--namespace", "no-such-namespace").code == 4


def test_helm_3_helm_4_and_in_process_are_one(place: Place, gpu_hosts: Place, namespace: str) -> None:
    """What one of them installs, the others see, and the objects are the same."""
    from manyhost.render import build, parse_manifests

    from tests.helpers.helm import CHART, helm_binaries

    rendered = build("a3mega/deepseek-r1-671b", release="same", namespace=namespace)
    binaries = helm_binaries()
    if not binaries:
        pytest.skip("no Helm binaries: make tools")
    for name, binary in binaries.items():
        # Helm 4 applied revision 1 server-side and does so again; Helm 3 knows no such thing.
        conflicts = ["--force-conflicts"] if name == "helm4" else []
        common = [str(binary), "--kubeconfig", str(place.kubeconfig), "--namespace", namespace]
        subprocess.run(
            [*common, "install", "same", str(CHART), "--values", "-"],
            input=rendered.values_text, text=True, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        shown = subprocess.run(
            [*common, "get", "manifest", "same"], check=True, capture_output=True, text=True, timeout=60
        )
        assert _sorted(parse_manifests(shown.stdout)) == _sorted(rendered.objects), name
        ours = run(
            "deploy",
            "a3mega",
            "--namespace",
            namespace,
            "--release",
            "same",
            "--timeout",
            "60",
            "--output",
            "json",
        )
        assert ours.ok().output.result["proposal"]["action"] == "nothing", name
        run(
            "deploy",
            "a3mega",
            "--namespace",
            namespace,
            "--release",
            "same",
            "--set",
            "groups=2",
            "--timeout",
            "60",
        ).ok()
        listed = subprocess.run(
            [*common, "list", "-o", "json"], check=True, capture_output=True, text=True, timeout=60
        )
        assert [(item["name"], item["revision"]) for item in json.loads(listed.stdout)] == [("same", "2")]
        subprocess.run(
            [*common, "rollback", "same", "1", *conflicts], check=True, capture_output=True, timeout=60
        )
        assert place.get("lws", "same", "-n", namespace)["spec"]["replicas"] == 1
        subprocess.run([*common, "uninstall", "same"], check=True, capture_output=True, timeout=60)
        until("nothing left", lambda: not everything(place, namespace), 30)


def _pods_or_end(process: subprocess.Popen[str], place: Place, namespace: str) -> None:
    """Wait for the pods of a deployment that another process makes."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return len(pods_of(place, namespace)) == 2

    until("pods are there", there)


def _sorted(objects: list[Any]) -> list[Any]:
    return sorted(objects, key=lambda item: (item["kind"], item["metadata"]["name"]))


def _advice(*here: str) -> list[tuple[str, str]]:
    """What doctor finds wrong with the local recipe, and what it says to do."""
    without = ("--skip", "image", "--skip", "hf-secret")
    checks = run("doctor", "local", *here, *without, "--output", "json").output.result["checks"]
    return [(item["why"], item["fix"]) for item in checks if item["status"] in ("fail", "warn")]


def _ready(here: list[str]) -> bool:
    found = run("status", "local", *here, "--output", "json").output.result
    return bool(found and found["ready_groups"] == found["groups"] == found["updated_groups"])


def _ready_at(pod: Any) -> float:
    return _stamp(next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "Ready"))


def _stamp(text: str) -> float:
    from manyhost.cluster.phases import timestamp

    return timestamp(text)
