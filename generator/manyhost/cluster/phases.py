"""Where every host of a release stands, read from pod objects and the launch script's phase lines.

Pure functions: what goes in are API objects and log texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from manyhost.cluster.taints import advice
from manyhost.commands import Commands

Pod = dict[str, Any]
Phase = Literal[
    "absent", "pending", "scheduled", "image", "sidecar", "weights", "load", "ready", "draining", "failed"
]

NAME = "leaderworkerset.sigs.k8s.io/name"
GROUP = "leaderworkerset.sigs.k8s.io/group-index"
WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
ROLE = "manyhost.dev/role"
REVISION = "leaderworkerset.sigs.k8s.io/template-revision-hash"
ENGINE_CONTAINER = "vllm"

# launch.sh's phases as the phases of a host; the others say nothing about how far it is.
_SCRIPT_PHASES: dict[str, Phase] = {
    "start": "weights",
    "profile": "weights",
    "weights": "weights",
    "peers": "load",
    "waiting": "load",  # longer than usual, and not for ever: no failure
    "attempt": "load",
    "engine": "load",
    "loading": "load",
    "serving": "load",  # until the readiness probe agrees
    "unready": "load",  # it served, and a member is silent or the engine unwell: it may pass
    "ready": "load",
    "draining": "draining",
    "held": "failed",
    "end": "failed",
}
_LINE = re.compile(r"^(?:(?P<time>\S+Z) )?manyhost phase=(?P<phase>[a-z]+) (?P<rest>.*)$")
_COUNTED = re.compile(r"(\d+) ((?:node\(s\)|Insufficient|Too many)[^,]*)")
_OTHERS = "node affinity/selector"
# With the key up to Kubernetes 1.34.1 only (kubernetes/kubernetes#134740).
_TAINT = re.compile(r"untolerated taint(?:\(s\))? \{([^:}]+)")
# kubernetes/plugin/pkg/admission/limitranger: "maximum memory usage per Container is 1Gi, but ..."
_LIMIT_RANGE = re.compile(r"(maximum|minimum) \S+ usage per |max limit to request ratio")
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
_COLLECTOR = {"foregroundDeletion", "orphan"}  # finalizers of Kubernetes' own garbage collector
_CLOCK_SECONDS = 10.0  # a kubelet tells the end of a pod some seconds after it
_IMAGE_ERRORS = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable",
    "ImageInspectError",
}  # fmt: skip
_CONFIG_ERRORS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


class ScriptLine(msgspec.Struct, frozen=True):
    """One phase line of the launch script.

    Attributes:
        phase: One of docs/reference/launcher.md, such as weights, engine, serving or held.
        seconds: Since the script's start.
        reason: Why; empty for most.
        fields: All key=value pairs of the line.
    """

    phase: str
    seconds: float
    reason: str
    fields: dict[str, str]


class Problem(msgspec.Struct, frozen=True):
    """Why a host does not come up.

    Attributes:
        kind: unschedulable, image, config, crash, evicted, held, lost, ending or finalizer; of events
            denied, quota, limits, create, update, network or volume.
        message: One sentence.
        fix: What to do about it.
        patience: Seconds after which waiting is pointless; None when it may still cure itself.
    """

    kind: str
    message: str
    fix: str
    patience: float | None


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host (pod) of a group.

    `role` is prefill or decode where these are apart, and empty where each group does both. `last_words` say
    why it has ended or is about to. `created` is when the pod was made, `placed` when it got its node,
    `changed` when something last happened to it, `due` when the kubelet gives up a start that goes on; empty
    without such a time.
    """

    role: str = ""
    group: int
    host: int
    pod: str
    uid: str = ""
    node: str = ""
    address: str = ""
    phase: Phase = "absent"
    detail: str = ""
    restarts: int = 0
    revision: str = ""
    problem: Problem | None = None
    last_words: str = ""
    created: str = ""
    placed: str = ""
    changed: str = ""
    due: str = ""

    @property
    def member(self) -> str:
        """The leader is host 0 of its group."""
        return "leader" if self.host == 0 else "worker"

    @property
    def place(self) -> tuple[str, int]:
        """Its group among all groups of the release."""
        return self.role, self.group


def script_line(text: str) -> ScriptLine | None:
    """Parse a line of a container's log; None when it is not a phase line."""
    match = _LINE.match(text.rstrip())
    if not match:
        return None
    fields = {key: value.strip('"') for key, value in _PAIR.findall(match["rest"])}
    try:
        seconds = float(fields.get("seconds", "0"))
    except ValueError:
        seconds = 0.0
    return ScriptLine(match["phase"], seconds, fields.get("reason", ""), fields)


def last_script_line(lines: Iterable[str]) -> ScriptLine | None:
    """Return the last phase line of a log."""
    last = None
    for text in lines:
        last = script_line(text) or last
    return last


def host_of(
    pod: Pod, commands: Commands, line: ScriptLine | None = None, overdue: Problem | None = None
) -> Host:
    """Return how far a pod is.

    Args:
        pod: The pod object.
        commands: Builds the commands of fixes.
        line: The last phase line of its engine container, when the log was read.
        overdue: Why it does not end, when it should have.
    """
    labels = pod["metadata"].get("labels") or {}
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    inits = status.get("initContainerStatuses") or []
    phase, detail = _phase(pod, containers, inits, line)
    ending = bool(pod["metadata"].get("deletionTimestamp"))
    return Host(
        role=labels.get(ROLE, ""),
        group=int(labels.get(GROUP, 0)),
        host=int(labels.get(WORKER, 0)),
        pod=pod["metadata"]["name"],
        uid=pod["metadata"].get("uid", ""),
        node=(pod.get("spec") or {}).get("nodeName", ""),
        address=status.get("podIP", ""),
        phase=phase,
        detail=detail,
        restarts=sum(int(item.get("restartCount", 0)) for item in [*containers, *inits]),
        revision=labels.get(REVISION, ""),
        problem=overdue if ending else _problem(pod, containers, inits, line, commands),
        last_words=_last_words(pod, containers, line),
        created=pod["metadata"].get("creationTimestamp", ""),
        placed=_placed(pod),
        changed=stamp(newest(pod)),
        due=_due(pod, containers),
    )


def leaving(hosts: Sequence[Host]) -> list[Host]:
    """Return one group's hosts, those that gave up as on their way out where their group is.

    The group is made anew as a whole as soon as one of its pods goes. What a pod of the former group has said
    is then no verdict about the one that comes.

    Args:
        hosts: All hosts of one group that have a pod.
    """
    leader = next((host for host in hosts if host.host == 0), None)
    going = leader is None or any(host.phase == "draining" for host in hosts)
    return [
        msgspec.structs.replace(host, phase="draining", detail="goes with its group", problem=None)
        if host.problem
        and host.problem.kind == "held"
        and (going or (leader and timestamp(host.created) < timestamp(leader.created)))
        else host
        for host in hosts
    ]


def _placed(pod: Pod) -> str:
    scheduled = condition(pod, "PodScheduled") or {}
    return str(scheduled.get("lastTransitionTime") or "") if scheduled.get("status") == "True" else ""


def _due(pod: Pod, containers: list[dict[str, Any]]) -> str:
    """When the kubelet ends the engine for its startup probe; empty once that has succeeded."""
    state = named(containers, ENGINE_CONTAINER)
    running = (state.get("state") or {}).get("running") or {}
    if state.get("started") or not running.get("startedAt"):
        return ""
    spec = named((pod.get("spec") or {}).get("containers") or [], ENGINE_CONTAINER)
    probe = spec.get("startupProbe")
    if not probe:
        return ""
    budget = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)  # Kubernetes' own defaults
    return stamp(timestamp(running["startedAt"]) + probe.get("initialDelaySeconds", 0) + budget)


def newest(item: dict[str, Any]) -> float:
    """When something last happened to a LeaderWorkerSet or a pod, as the janitor sees it."""
    status = item.get("status") or {}
    times = [item["metadata"].get("creationTimestamp"), status.get("startTime")]
    times += [condition.get("lastTransitionTime") for condition in status.get("conditions") or ()]
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            for state in (container.get("state") or {}).values():
                times += [state.get("startedAt"), state.get("finishedAt")]
    return max(timestamp(text or "") for text in times)


def is_ready(pod: Pod) -> bool:
    """Whether a pod is Ready and not on its way out."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return (condition(pod, "Ready") or {}).get("status") == "True"


def _phase(  # noqa: PLR0911  one return a step, in their order
    pod: Pod, containers: list[dict[str, Any]], inits: list[dict[str, Any]], line: ScriptLine | None
) -> tuple[Phase, str]:
    if pod["metadata"].get("deletionTimestamp"):
        return "draining", "is being removed"
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return "failed", status.get("reason", "")
    if is_ready(pod):
        return "ready", ""
    if not (pod.get("spec") or {}).get("nodeName"):
        return "pending", ""
    if not containers and not inits:
        return "scheduled", ""
    engine = named(containers, ENGINE_CONTAINER)
    state = engine.get("state") or {}
    if "running" in state:
        if line is None:
            return "weights", ""
        if line.phase == "loading" and line.fields.get("step") == "weights":
            return "weights", _detail(line)
        return _SCRIPT_PHASES.get(line.phase, "load"), _detail(line)
    if "terminated" in state:
        return "failed", f"ended with code {state['terminated'].get('exitCode')}"
    return _before_start(inits)


def _before_start(inits: list[dict[str, Any]]) -> tuple[Phase, str]:
    """The step between scheduling and the engine's start: which init container it hangs on."""
    for item in inits:
        state = item.get("state") or {}
        if "waiting" in state and not item.get("imageID"):
            return "image", item["name"]
        if "terminated" in state:
            continue
        if not item.get("started", False) or "running" not in state:
            return "sidecar", item["name"]
    return "image", ENGINE_CONTAINER


def _detail(line: ScriptLine) -> str:
    if line.phase == "peers":
        return "waits for the other hosts"
    if line.phase == "waiting":
        return f"waits: {line.reason}"
    if line.phase == "attempt":
        return line.reason
    if line.phase == "loading":
        return loading(line)
    return line.reason or {"engine": "engine starts", "serving": "engine answers"}.get(line.phase, "")


def loading(line: ScriptLine) -> str:
    """How far a step is: its own percentage, and for how long it has not moved if that is worth a word."""
    percent, still = line.fields.get("percent"), line.fields.get("still", "0s").removesuffix("s")
    words = ["weights" if line.fields.get("step") == "weights" else "engine starts"]
    if percent:
        words.append(f"{percent} %")
    if still.isdigit() and int(still) >= 60:
        words.append(f"no progress for {still} s, given up after {line.fields.get('limit', '')}")
    return ", ".join(words)


def _problem(
    pod: Pod,
    containers: list[dict[str, Any]],
    inits: list[dict[str, Any]],
    line: ScriptLine | None,
    commands: Commands,
) -> Problem | None:
    name = pod["metadata"]["name"]
    scheduled = condition(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return unschedulable(name, scheduled.get("message", ""), commands)
    evicted = _evicted(pod)
    if evicted:
        return Problem("evicted", f"{name} {evicted}", look_at(commands, "pod", name), None)
    for item in [*inits, *containers]:
        problem = _container_problem(name, item, commands)
        if problem:
            return problem
    if line and line.phase == "held":
        return Problem(
            "held",
            f"{name} gave up: {line.reason or 'no reason given'}",
            f"cure that; then {commands.manyhost('deploy')} starts the groups that gave up anew",
            0,
        )
    ready = condition(pod, "Ready") or {}
    if ready.get("status") == "Unknown" or ready.get("reason") == "NodeNotReady":
        node = (pod.get("spec") or {}).get("nodeName", "")
        return Problem("lost", f"{name}: node {node} does not answer", look_at(commands, "node", node), None)
    return None


def _evicted(pod: Pod) -> str:
    """Who has taken the pod's place away; empty when nobody has."""
    status = pod.get("status") or {}
    target = condition(pod, "DisruptionTarget") or {}
    if target.get("status") == "True":
        return f"was evicted ({target.get('reason', '')}): {_short(target.get('message', ''))}"
    if status.get("phase") == "Failed" and status.get("reason"):
        return f"was evicted ({status['reason']}): {_short(status.get('message', ''))}"
    return ""


def _last_words(pod: Pod, containers: list[dict[str, Any]], line: ScriptLine | None) -> str:
    name = pod["metadata"]["name"]
    evicted = _evicted(pod)
    if evicted:
        return f"{name} {evicted}"
    for item in containers:
        ended = (item.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return _ended(name, item["name"], ended)
    if line and line.reason and line.phase in {"attempt", "held", "end"}:
        return f"{name}: {line.reason}{_killed(line.reason)}"
    return ""


def _ended(pod: str, container: str, ended: dict[str, Any]) -> str:
    text = _short(ended.get("message", ""))
    code, why = ended.get("exitCode"), ended.get("reason", "Error")
    said = f"{pod}: container {container} ended with code {code} ({why}){f': {text}' if text else ''}"
    return said + _killed(f"{text} {why if code != 137 else 'OOMKilled'}")


def _killed(text: str) -> str:
    """What signal 9 means, as good as always; the kernel leaves no other word in the pod."""
    if "OOMKilled" in text or "(signal 9)" in text:
        return "; killed by signal 9: out of memory, unless somebody did it"
    return ""


def late(pod: Pod, now: float) -> float:
    """Return for how many seconds a pod should have ended; 0.0 for one that need not have.

    Args:
        pod: The pod object.
        now: The API server's clock: the pod's times are its.
    """
    due = timestamp(pod["metadata"].get("deletionTimestamp") or "")
    return max(0.0, now - due) if due and now > due + _CLOCK_SECONDS else 0.0


def overdue(pod: Pod, seconds: float, node_ready: str, commands: Commands) -> Problem:
    """Explain a pod that has not ended at the end of its grace period.

    The group cannot be made anew until it has, because its leader waits for it.

    Args:
        pod: The pod object.
        seconds: How long ago it should have ended.
        node_ready: The node's Ready condition; "gone" when there is no such node, empty when nobody may look.
        commands: Builds the commands of fixes.
    """
    name = pod["metadata"]["name"]
    node = (pod.get("spec") or {}).get("nodeName", "")
    text = f"{name} should have ended {seconds:.0f} s ago"
    finalizers = pod["metadata"].get("finalizers") or ()
    theirs = [item for item in finalizers if item not in _COLLECTOR]
    if theirs:
        return held_by(f"{text}, but", "pod", {**pod["metadata"], "finalizers": theirs}, commands)
    if not node or node_ready == "True":
        why = ": it waits for the rest of its group" if finalizers else f", though node {node} is ready"
        return Problem(
            "ending", f"{text} and has not{why if node else ''}",
            f"{commands.kubectl('describe', 'pod', name)} says what it waits for", None,
        )  # fmt: skip
    if node_ready:
        state = "does not exist any more" if node_ready == "gone" else "does not answer"
        return Problem(
            "lost", f"{text}: node {node} {state}",
            f"bring the node back; if its machine is gone for good: "
            f"{commands.kubectl('delete', 'node', node, namespace='')}"
            if node_ready != "gone"
            else "the cluster removes its pods within some minutes",
            None,
        )  # fmt: skip
    return Problem(
        "ending", f"{text} and has not; whether node {node} answers could not be read",
        f"ask somebody who may for {commands.kubectl('get', 'node', node, namespace='')}", None,
    )  # fmt: skip


def held_by(text: str, kind: str, metadata: dict[str, Any], commands: Commands) -> Problem:
    """Explain an object that is being removed and kept by finalizers.

    Args:
        text: How the sentence begins.
        kind: The object's kind.
        metadata: The object's.
        commands: Builds the commands of fixes.
    """
    patch = '{"metadata":{"finalizers":null}}'
    take_off = commands.kubectl("patch", kind.lower(), metadata["name"], "--type", "merge", "-p", patch)
    names = ", ".join(metadata["finalizers"])
    one = len(metadata["finalizers"]) == 1
    return Problem(
        "finalizer",
        f"{text} {'finalizer' if one else 'finalizers'} {names} {'keeps' if one else 'keep'} it",
        f"find out who set {'it' if one else 'them'} and why it is not taken off; only then, by hand: "
        + take_off,
        None,
    )


def removal(kind: str, metadata: dict[str, Any], commands: Commands) -> Problem | None:
    """Explain an object that is on its way out; None for one that stays.

    Args:
        kind: The object's kind.
        metadata: The object's.
        commands: Builds the commands of fixes.
    """
    since = metadata.get("deletionTimestamp")
    if not since:
        return None
    text = f"{kind} {metadata['name']} is being removed since {since}"
    theirs = [name for name in metadata.get("finalizers") or () if name not in _COLLECTOR]
    if theirs:
        return held_by(f"{text}, but", kind, {**metadata, "finalizers": theirs}, commands)
    rest = (
        f"wait until {commands.manyhost('teardown')} finds nothing left, then {commands.manyhost('deploy')}"
    )
    return Problem("ending", text, rest, None)


def look_at(commands: Commands, kind: str, name: str) -> str:
    """Return the advice to look at an object and its events."""
    where = {"namespace": ""} if kind == "node" else {}
    return f"{commands.kubectl('describe', kind, name, **where)} says more"


def _container_problem(pod: str, item: dict[str, Any], commands: Commands) -> Problem | None:
    state = item.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), _short(waiting.get("message", ""))
    if reason in _IMAGE_ERRORS:
        image = item.get("image", "")
        return Problem(
            "image",
            f"{pod}: image {image} of {item['name']} cannot be pulled: {message or reason}",
            "check the image's name and tag, and that the nodes may read the registry",
            5 if reason in {"InvalidImageName", "ErrImageNeverPull"} else 120,
        )
    if reason in _CONFIG_ERRORS:
        return Problem(
            "config", f"{pod}: container {item['name']} cannot be created: {message or reason}",
            look_at(commands, "pod", pod), 60,
        )  # fmt: skip
    ended = state.get("terminated") or (item.get("lastState") or {}).get("terminated") or {}
    crashed = ended.get("exitCode", 0) != 0 and ("terminated" in state or reason == "CrashLoopBackOff")
    if crashed:
        former = () if "terminated" in state else ("--previous",)
        return Problem(
            "crash",
            _ended(pod, item["name"], ended),
            f"its last words: {commands.kubectl('logs', pod, '-c', item['name'], *former)}",
            None,
        )
    return None


def unschedulable(pod: str, message: str, commands: Commands) -> Problem:
    """Explain the scheduler's sentence ("0/4 nodes are available: ..."): the fix is for most of the nodes."""
    reasons = message.split(". ", maxsplit=1)[0].strip().rstrip(".")
    # Nodes of another type are seldom news.
    weighed = [((_OTHERS not in text, int(count)), text) for count, text in _COUNTED.findall(reasons)]
    most = max((weight for weight, _ in weighed), default=None)
    advised = sorted(_room(text, commands) for weight, text in weighed if weight == most)
    shown = commands.kubectl("describe", "nodes", namespace="")
    fix = advised[0][1] if advised else f"free the hosts or add some: {shown} shows them"
    return Problem("unschedulable", f"{pod} fits no host: {reasons}", fix, None)


def _room(reason: str, commands: Commands) -> tuple[int, str]:
    """What to do about one of the scheduler's reasons; the lowest number goes first."""
    doctor = commands.manyhost("doctor")
    if "Insufficient nvidia.com/gpu" in reason:
        return 1, f"free GPUs or add hosts: {doctor} lists what every host has left"
    if "were unschedulable" in reason:
        return 2, f"unless somebody drains the cordoned hosts on purpose, uncordon them: {doctor} tells how"
    if "untolerated taint" in reason:
        key = _TAINT.search(reason)
        return 3, advice(
            key[1], commands
        ) if key else f"{doctor} says which taints, and what to do about them"
    if _OTHERS in reason:
        return 4, f"no host carries the labels that the recipe selects: {doctor} says which ones there are"
    if "Insufficient" in reason:
        return 5, "free resources on the hosts, or lower resources in the environment's file"
    return 6, f"free the hosts or add some: {doctor} says what keeps the pods off them"


def event_problem(event: dict[str, Any], commands: Commands) -> Problem | None:  # noqa: PLR0911  one return a reason
    """Explain a Warning event that no pod status shows: pods not made, volumes, pod network, evictions.

    Args:
        event: The event.
        commands: Builds the commands of fixes.
    """
    reason, message = event.get("reason", ""), _short(event.get("message", ""))
    subject = event.get("involvedObject") or {}
    name = subject.get("name", "")
    look = look_at(commands, subject.get("kind", "pod").lower(), name)
    if reason in {"FailedCreate", "FailedCreatePodSandBox"} and "network" in message.lower():
        return Problem(
            "network", f"{name}: the pod network is not set up: {message}",
            f"{commands.manyhost('doctor')} names the networks that are missing", None,
        )  # fmt: skip
    if reason == "FailedCreate":
        kind, fix = _refused(message, commands)
        what = "" if subject.get("kind") == "LeaderWorkerSet" else "the pod is not created: "
        return Problem(kind, f"{name}: {what}{message}", fix or look, 60)
    if reason == "FailedUpdate":
        return Problem("update", f"{name}: the change is not carried out: {message}", look, 60)
    if reason in {"FailedMount", "FailedAttachVolume", "FailedMapVolume"}:
        return Problem("volume", f"{name}: {message}", look, None)
    if reason == "FailedCreatePodSandBox":
        return Problem("network", f"{name}: {message}", look, None)
    if reason in {"Evicted", "Preempted"}:
        return Problem("evicted", f"{name} was evicted: {message}", look, None)
    return None


def _refused(message: str, commands: Commands) -> tuple[str, str]:
    """The kind of a refusal to create a pod, and what to do; empty when only the object itself may tell."""
    if "exceeded quota" in message or "failed quota" in message:
        shown = commands.kubectl("describe", "quota")
        return "quota", f"free something, or have it raised: {shown} says what is used"
    if _LIMIT_RANGE.search(message):
        shown = commands.kubectl("describe", "limitrange")
        return "limits", f"have it raised, or ask for less in the recipe: {shown} says what is allowed"
    if "violates PodSecurity" in message:
        return "denied", f"{commands.manyhost('doctor')} says which level the pods need"
    if "failed calling webhook" in message:
        shown = commands.kubectl(
            "get",
            "mutatingwebhookconfigurations,validatingwebhookconfigurations",
            "--output",
            "yaml",
            namespace="",
        )
        return "denied", f"the webhook does not answer: {shown} names its service"
    if "denied" in message:
        return "denied", "correct what the admission rule names"
    return "create", ""


def timestamp(text: str) -> float:
    """Return an API timestamp as seconds since the epoch; 0.0 for an empty one."""
    if not text:
        return 0.0
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def stamp(time: float) -> str:
    """Return seconds since the epoch as the API writes times; empty for 0."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else ""


def condition(pod: Pod, kind: str) -> dict[str, Any] | None:
    """Return a condition of a pod by its type; None when it has none."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), None)


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the container of a name, else the first one; empty when there is none."""
    return next((item for item in items if item["name"] == name), items[0] if items else {})


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
