"""Names: the release, and objects that are in its way."""

from __future__ import annotations

from manyhost.checks.objects import control_secret
from manyhost.cluster import control
from manyhost.cluster.connection import path_of
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.cluster.phases import NAME, removal
from manyhost.cluster.release import Releases, Revision, newest
from manyhost.cluster.target import LWS, Target, kind_of
from manyhost.commands import Commands


@check(
    "release",
    "Is the release's name free, or an older revision of the same?",
    needs=("api", "namespace"),
    cheap=True,
)
def release(sight: Sight) -> Finding:
    """Helm's record of it."""
    target = sight.target
    most = target.chart.name_limit
    if len(target.release) > most:
        return failed(f"{target.release} has more than {most} characters", "choose a shorter --release")
    found = newest(sight.connection, target.place)
    if found is None:
        return passed(f"{target.release} is free")
    if found.status.startswith(("pending", "uninstalling")):
        return failed(
            f"release {target.release} is {found.status}: an operation runs or was cut off",
            _recover(sight.commands, target, found),
        )
    chart = Releases(sight.connection, target.namespace).chart(target.release)
    if chart and not target.chart.is_of(chart):
        return failed(f"release {target.release} exists and is of chart {chart}", "choose another --release")
    if found.status == "failed":
        return warned(f"revision {found.revision} of {target.release} has failed; this would be the next", "")
    return passed(f"{target.release} is there as revision {found.revision}: it would be upgraded")


def _recover(commands: Commands, target: Target, found: Revision) -> str:
    """What ends an operation that was cut off; there is nothing before revision 1 to go back to."""
    remove = commands.manyhost("teardown")
    if found.revision == 1 or found.status == "uninstalling":
        return f"if none runs: {remove}"
    return f"if none runs: {commands.helm('rollback', target.release, str(found.revision - 1))}, or {remove}"


@check(
    "conflicts", "Is anything of the same name in the way?", needs=("api", "namespace", "lws-api"), cheap=True
)
def conflicts(sight: Sight) -> Finding | list[Finding]:
    """Objects of the names that the chart uses and that Helm does not own for this release."""
    target, wrong = sight.target, []
    for item in target.objects:
        version, plural = kind_of(item)
        name = item["metadata"]["name"]
        found = sight.connection.find(path_of(version, plural, target.namespace, name), metadata=True)
        if found is None:
            continue
        ending = removal(item["kind"], found["metadata"], sight.commands)
        if ending:
            wrong.append(failed(ending.message, ending.fix))
            continue
        owner = (found["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", "")
        if owner != target.release:
            whose = f"release {owner}" if owner else "no release"
            remove = sight.commands.kubectl("delete", plural, name)
            wrong.append(
                failed(
                    f"{item['kind']} {name} exists and belongs to {whose}",
                    f"choose another --release; only if it is yours and of no use any more: {remove}",
                )
            )
    return wrong or _leftovers(sight) or passed(f"all {len(target.objects)} names are free or its own")


def _leftovers(sight: Sight) -> list[Finding]:
    """What controllers made for an earlier LeaderWorkerSet of these names, which itself has gone."""
    target = sight.target
    wrong = []
    for item, _ in target.sets:
        name = item["metadata"]["name"]
        if _has_set(sight, name):
            continue
        for kind, plural in (("apps/v1", "statefulsets"), ("v1", "pods")):
            found = sight.list(kind, plural, target.namespace, labels=f"{NAME}={name}", metadata=True)
            if found:
                names = ", ".join(one["metadata"]["name"] for one in found[:2])
                wrong.append(
                    failed(
                        f"{len(found)} {plural} of an earlier {name} are still there: {names}",
                        f"deploy when they have gone; {sight.commands.manyhost('teardown')} waits for that, "
                        "and says what keeps them",
                    )
                )
                break
    return wrong


def _has_set(sight: Sight, name: str) -> bool:
    """Whether a LeaderWorkerSet of the target is in the cluster."""
    return sight.connection.find(path_of(*LWS, sight.target.namespace, name), metadata=True) is not None


@check("control-key", "Do the members of a group prove that they belong to it?", needs=("api", "namespace"))
def control_key(sight: Sight) -> Finding:
    """The Secret whose key signs what members say to each other; its value is not looked at."""
    target = sight.target
    if not control.needed(target):
        return skipped("groups of one host have nobody to talk to")
    name = control_secret(target.release)
    found = sight.find("v1", "secrets", name, target.namespace)
    if ((found or {}).get("data") or {}).get(control.ENTRY):
        return passed(f"Secret {name} has their key")
    if not found and not any(_has_set(sight, item["metadata"]["name"]) for item, _ in target.sets):
        return passed(f"deploy makes Secret {name}")
    fix = f"{sight.commands.manyhost('deploy')} makes it, and groups that start afterwards have it"
    if found:
        fix = f"if nobody else needs it, {sight.commands.kubectl('delete', 'secret', name)}; then {fix}"
    what = f"has no {control.ENTRY}" if found else "does not exist"
    return warned(
        f"Secret {name} {what}: whoever reaches a leader's port may pose as a member of its group", fix
    )


@check("hf-secret", "Is the Hugging Face token there, when it is needed?", needs=("api", "namespace"))
def hf_secret(sight: Sight) -> Finding:
    """The Secret and its key; the value is looked at only for being there."""
    target = sight.target
    settings = target.effective["huggingface"]
    name, key = settings["secretName"], settings["secretData"]["token"]
    gated = target.plan.model.gated
    if target.plan.weights.kind != "hub":
        return skipped("weights do not come from the hub")
    if not name:
        if gated:
            return failed(
                f"{target.plan.model.hub_id} is gated and no Secret is set", "set huggingface.secretName"
            )
        return skipped("no Secret is set")
    token = f'--from-literal={key}="${{HF_TOKEN:?}}"'  # a line for the shell, which stops without the token
    fix = sight.commands.kubectl("create", "secret", "generic", name, shell=token)
    found = sight.find("v1", "secrets", name, target.namespace)
    problem = ""
    if found is None:
        problem = f"Secret {name} does not exist in namespace {target.namespace}"
    elif not (found.get("data") or {}).get(key):
        problem = f"Secret {name} has no key {key}"
        patch = f'-p \'{{"stringData":{{"{key}":"\'"${{HF_TOKEN:?}}"\'"}}}}\''
        fix = sight.commands.kubectl("patch", "secret", name, shell=patch)
    if not problem:
        return passed(f"Secret {name} has its key {key}")
    if gated:
        return failed(f"{problem}, and {target.plan.model.hub_id} is gated", fix)
    return warned(f"{problem}: the download would be anonymous and may be throttled", fix)
