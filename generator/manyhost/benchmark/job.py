"""Measuring from the cluster: each measurement is a Job in the engine's image, beside the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from manyhost import checks
from manyhost.benchmark.bench import Measured
from manyhost.benchmark.evidence import PROGRESS, Evidence, unpack
from manyhost.benchmark.gate import Deployed
from manyhost.catalog.chart import KINDS, Chart
from manyhost.catalog.recipe import DAY_SECONDS
from manyhost.cluster.chat import KEY
from manyhost.cluster.connection import Connection, Forbidden, Missing, Object, Refused, path_of
from manyhost.cluster.phases import ENGINE_CONTAINER, NAME, WORKER, is_ready
from manyhost.cluster.release import rehearse
from manyhost.cluster.target import Place, Target, kind_of
from manyhost.cluster.teardown import inventory, teardown
from manyhost.errors import Failed, InvalidInput, ManyhostError, NotReady, RemoteError
from manyhost.plan import Plan
from manyhost.render import allowance, parse_manifests
from manyhost.render.helm import InProcess

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = (
    600.0  # with an API server or a host that is away: an upgrade of GKE's control plane is less
)
_REMOVE_SECONDS = 120
_AROUND_SECONDS = 3600  # questions, warm-up, calibration and a place to run, beside the load itself
_TAIL_LINES = 20
_CLIENT = "client"
# Of what the engine asks of a host: the two of them fit on a host of every environment that says what it has.
_CPU_SHARE, _MEMORY_SHARE = 1 / 6, 1 / 32
_LEAST_GIB = 0.5


class Job:
    """The cluster of a release.

    Args:
        connection: The cluster.
        target: The release that is measured.
        chart: llm-benchmark.
        tool: What sends the load.

    Raises:
        NotReady: No group of the release is ready.
        InvalidInput: The engine's version has no such tool, or speaks TLS.
    """

    place: Literal["job"] = "job"

    def __init__(self, connection: Connection, target: Target, chart: Chart, tool: str) -> None:
        check(target.plan, tool)
        self._connection, self._target, self._chart = connection, target, chart
        port = int(target.effective["vllm"]["service"]["ports"]["http"])
        self.url = f"http://{target.release}-svc.{target.namespace}:{port}"
        self.metrics = [f"http://{_address(pod)}:{port}/metrics" for pod in self._leaders()]

    def measure(self, spec: dict[str, Any], report: Callable[[str], None]) -> Measured:
        """Run one Job and remove it; one that a call before this one has left behind is read instead.

        Raises:
            RemoteError: The cluster is away for too long; the Job stays, for the next call.
            NotReady: It finds no place to run, or is not done in time.
            Failed: It ends without evidence.
            InvalidInput: The API server refuses it.
        """
        place = Place(self._chart, self._target.namespace, self._name(spec["key"]))
        deployed = tuple(_deployed(pod, self._target) for pod in self._leaders())
        again = self._connection.commands.kubectl("delete", "job", place.release)
        if self._connection.find(self._path(place)):
            report(f"job {place.release} is there from an earlier call: its result is taken")
        else:
            self._start(place, spec, report)
        try:
            evidence, node = self._wait(place, report)
        except RemoteError:
            report(f"job {place.release} stays: the same command takes its result")
            raise
        except BaseException:
            try:
                self._remove(place)
            except ManyhostError as error:  # the first reason is the one to tell
                report(f"not removed: {error.message}; {again}")
            raise
        self._remove(place)
        return Measured(evidence=evidence, deployed=deployed, node=node)

    def _name(self, key: str) -> str:
        """Return the name of a point's Job: the same in the next call, which finds it."""
        return f"{self._target.release[: self._chart.name_limit - 15]}-bench-{key[:8]}"

    def _path(self, place: Place) -> str:
        version, plural = KINDS["Job"]
        return path_of(version, plural, place.namespace, place.release)

    def _start(self, place: Place, spec: dict[str, Any], report: Callable[[str], None]) -> None:
        made = values(self._target, spec)
        text = InProcess(self._chart.path).render(made, release=place.release, namespace=place.namespace)
        objects = parse_manifests(text)
        allowed = allowance(self._target.plan.allowed)
        findings = [
            item for item in checks.run(objects, environment_level=allowed) if item.severity == "error"
        ]
        if findings:
            raise InvalidInput(str(findings[0]), where="charts/llm-benchmark")
        rehearse(
            self._connection, msgspec.structs.replace(self._target, objects=objects, release=place.release)
        )
        for item in objects:
            version, plural = kind_of(item)
            self._connection.create(path_of(version, plural, place.namespace), item)
        report(f"job {place.release} made")

    def _wait(self, place: Place, report: Callable[[str], None]) -> tuple[Evidence, str]:
        said, problem, answered = 0, "", time.monotonic()
        while True:
            try:
                ended, pod, lines = self._look(place)
            except RemoteError as error:
                if isinstance(error, Forbidden) or time.monotonic() - answered > _PATIENCE_SECONDS:
                    raise
                if error.message != problem:
                    problem = error.message
                    report(f"waiting: {problem}")
                time.sleep(_LOOK_SECONDS)
                continue
            answered = time.monotonic()
            told = [line.removeprefix(PROGRESS) for line in lines if line.startswith(PROGRESS)]
            for line in told[said:]:
                report(line)
            said = max(said, len(told))
            if ended:
                evidence = unpack(lines)
                if evidence and pod:
                    return evidence, str(pod["spec"].get("nodeName", ""))
                raise _no_result(ended, lines, problem, place)
            stuck = _stuck(pod) if pod else ""
            if stuck and stuck != problem:
                problem = stuck
                report(stuck)
            time.sleep(_LOOK_SECONDS)

    def _look(self, place: Place) -> tuple[str, Object | None, list[str]]:
        """Return how the Job has ended, its pod, and of its log the end, or all of it once it has ended."""
        job = self._connection.find(self._path(place))
        if job is None:
            raise Failed(f"job {place.release} was deleted while it ran", fix="measure again")
        ended, pod = _condition(job), self._pod(place)
        lines = self._log(place, pod, tail=None if ended else _TAIL_LINES * 10) if pod else []
        return ended, pod, lines

    def _pod(self, place: Place) -> Object | None:
        path = path_of("v1", "pods", place.namespace)
        pods = list(self._connection.pages(path, dict[str, Any], labels=place.selector))
        return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    def _log(self, place: Place, pod: Object, tail: int | None) -> list[str]:
        path = path_of("v1", "pods", place.namespace, pod["metadata"]["name"], "log")
        query = {"container": _CLIENT, "tailLines": tail}
        try:
            return self._connection.text(path, query=query).splitlines()
        except Missing:
            return []  # on its way out
        except Refused as error:
            if error.status == 400:
                return []  # not started yet, or never
            raise

    def _remove(self, place: Place) -> None:
        found = inventory(self._connection, place)
        teardown(self._connection, place, found, timeout=_REMOVE_SECONDS, report=lambda _: None)

    def _leaders(self) -> list[Object]:
        """Return the ready leaders of the groups that clients talk to.

        Raises:
            NotReady: Not all of them are ready.
        """
        target = self._target
        path = path_of("v1", "pods", target.namespace)
        labels = f"{NAME}={target.release},{WORKER}=0"
        pods = [pod for pod in self._connection.pages(path, dict[str, Any], labels=labels) if is_ready(pod)]
        wanted = target.plan.main.groups
        if len(pods) < wanted:
            raise NotReady(
                f"{len(pods)} of {wanted} groups of release {target.release} are ready",
                fix=f"{self._connection.commands.manyhost('status')} says why",
            )
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


def check(plan: Plan, tool: str) -> None:
    """Refuse an engine that the client cannot talk to, or whose image has no such tool.

    Raises:
        InvalidInput: Naming the setting.
    """
    engine = plan.engine
    if tool == "vllm" and not engine.bench_serve:
        raise InvalidInput(
            f"vLLM {engine.version} has no `vllm bench serve`",
            where=f"{plan.origin('engine.version')}: engine.version",
            fix="leave --runner out",
        )
    if "ssl-certfile" in plan.main.arguments:
        raise InvalidInput(
            "the benchmark's client speaks plain HTTP to the engine",
            where=f"{plan.origin('arguments.ssl-certfile')}: arguments.ssl-certfile",
            fix="leave TLS to a gateway",
        )


def values(target: Target, spec: dict[str, Any]) -> dict[str, Any]:
    """Return the values of charts/llm-benchmark: the client runs where the engine could run."""
    plan = target.plan
    recipe, platform, share = plan.settings, plan.environment.platform, plan.environment.host.share
    requests = {}
    if share:
        requests["cpu"] = f"{max(100, round(share.cpu * _CPU_SHARE * 1000))}m"
        requests["memory"] = f"{round(max(_LEAST_GIB, share.memory_gib * _MEMORY_SHARE) * 1024)}Mi"
    hub = plan.weights.kind == "hub"
    effective = target.effective
    made: dict[str, Any] = {
        "image": {
            "repository": plan.image.repository,
            "tag": plan.image.tag,
            "digest": plan.image.digest,
            "pullPolicy": effective["job"]["image"]["pullPolicy"],
        },
        "spec": msgspec.json.encode(spec).decode(),
        "deadlineSeconds": min(7 * DAY_SECONDS, spec["limit_seconds"] + _AROUND_SECONDS),
        "env": [] if hub else [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "huggingface": {"secretName": effective["huggingface"]["secretName"] if hub else ""},
        "apiKey": _api_key(effective["vllm"]["envFrom"]),
        "nodeSelector": effective["host"]["nodeSelector"],
        "tolerations": effective["host"]["tolerations"],
        "resources": {"requests": requests},
        "volumes": {
            "hostMounts": [
                {"name": mount.name, "hostPath": mount.host_path, "mountPath": mount.mount_path}
                for mount in recipe.host_mounts
            ],
            "gcsMounts": [],
        },
        "security": {
            "runAsUser": getattr(platform, "run_as_user", None),
            "runAsGroup": getattr(platform, "run_as_group", None),
        },
    }
    if plan.weights.kind == "bucket":
        made["volumes"]["gcsMounts"] = [{"bucketName": recipe.site.gcs_bucket, "mountPath": "/gcs"}]
        made["serviceAccount"] = {"name": target.service_account}
    return made


def _api_key(env_from: list[dict[str, Any]]) -> dict[str, str]:
    """The Secret with the key that the engine wants of its clients, as the engine's pods have it."""
    for item in env_from:
        if item.get("name") == KEY and "secret" in item:
            return {"secretName": item["secret"], "secretKey": item.get("key") or KEY}
    return {}


def _deployed(pod: Object, target: Target) -> Deployed:
    """Compare a leader's engine with the manifests that the recipe renders to now."""
    differences = list(_differences(_engine(pod["spec"]), _engine(target.pod("leader")["spec"])))
    digest = target.plan.image.digest
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        running = str(status.get("imageID", ""))
        if status["name"] == ENGINE_CONTAINER and digest and digest not in running:
            differences.append(f"image is {running}, planned {digest}")
    return Deployed(pod=pod["metadata"]["name"], differences=tuple(differences))


def _engine(spec: Object) -> Object:
    found: Object = next(item for item in spec["containers"] if item["name"] == ENGINE_CONTAINER)
    return found


def _differences(live: Object, planned: Object) -> Iterator[str]:
    if live["image"] != planned["image"]:
        yield f"image is {live['image']}, planned {planned['image']}"
    here, wanted = live.get("args") or [], planned.get("args") or []
    if here != wanted:
        more = [word for word in here if word not in wanted]
        less = [word for word in wanted if word not in here]
        yield f"arguments have {' '.join(more) or 'nothing else'}, planned {' '.join(less) or 'without it'}"
    running = _plain(live)
    for name, value in _plain(planned).items():
        if running.get(name) != value:
            yield f"{name} is {running.get(name) or 'not set'}, planned {value or 'empty'}"


def _plain(container: Object) -> dict[str, str]:
    """Return the variables with a value of their own; the API drops an empty one."""
    items = container.get("env") or ()
    return {item["name"]: item.get("value", "") for item in items if "valueFrom" not in item}


def _address(pod: Object) -> str:
    address = str(pod["status"]["podIP"])
    return f"[{address}]" if ":" in address else address


def _condition(job: Object) -> str:
    """Return how a Job has ended, Complete or why it failed; empty while it runs."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            return str(condition.get("reason") or condition["type"])
    return ""


def _stuck(pod: Object) -> str:
    """Return why a pod does not start; empty when nothing is known to be wrong."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no host takes the client: {' '.join(str(condition.get('message', '')).split())[:300]}"
    for item in status.get("containerStatuses") or ():
        waiting = (item.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            message = " ".join(str(waiting.get("message", "")).split())[:300]
            return f"the client does not start: {waiting['reason']} {message}".strip()
    return ""


def _no_result(ended: str, lines: list[str], problem: str, place: Place) -> ManyhostError:
    where = f"job {place.release}"
    if ended == "DeadlineExceeded":
        return NotReady(
            f"the measurement was not done in time{f': {problem}' if problem else ''}",
            where=where,
            fix="raise limit_seconds in benchmark.yaml, or make room for the client",
        )
    said = " / ".join(line.strip() for line in lines[-_TAIL_LINES // 4 :])
    return Failed(f"the client ended without a result ({ended}): {(said or problem)[:1000]}", where=where)
