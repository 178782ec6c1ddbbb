"""The CronJob that frees the hosts of a release, and what it may do."""

import pytest

from tests.helpers.helm import CHART, RenderError, find, kinds, merge, nest, notes, pod, render

ON = nest("janitor.enabled", True)
SCRIPT = (CHART / "launcher/janitor/janitor.py").read_text()


def job(objects):
    return find(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]


def test_it_is_there_on_request_only():
    made = {"CronJob", "Role", "RoleBinding"}
    assert made.isdisjoint(kinds(render()))
    assert made <= set(kinds(render(ON)))
    assert made.isdisjoint(kinds(render(merge(ON, nest("mode", "nccl")))))
    assert "annotations" not in find(render(), "LeaderWorkerSet")["metadata"]


def test_its_pod_runs_the_script_without_privileges():
    spec = job(render(ON))["spec"]
    (container,) = spec["containers"]
    assert container["command"] == ["python3", "-c", SCRIPT]
    assert "$(" not in SCRIPT  # Kubernetes would expand it
    assert spec["securityContext"] == {"runAsUser": 65534, "runAsGroup": 65534, "runAsNonRoot": True}
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} == set(container["resources"])
    assert "volumes" not in spec


def test_its_account_is_bound_to_its_role_and_nothing_else_has_a_token():
    objects = render(ON)
    name = "r1-janitor"
    binding = find(objects, "RoleBinding")
    assert binding["roleRef"]["name"] == name
    assert [subject["name"] for subject in binding["subjects"]] == [name]
    accounts = {item["metadata"]["name"]: item for item in objects if item["kind"] == "ServiceAccount"}
    assert set(accounts) == {"r1", name}
    assert all(item["automountServiceAccountToken"] is False for item in accounts.values())
    assert job(objects)["spec"]["serviceAccountName"] == name
    assert job(objects)["spec"]["automountServiceAccountToken"] is True
    assert pod(objects)["spec"]["automountServiceAccountToken"] is False
    for rule in find(objects, "Role")["rules"]:
        assert rule["resourceNames"], rule
        assert set(rule["verbs"]) <= {"get", "patch"}


def test_its_pods_are_not_taken_for_the_groups():
    """Services, policies and `manyhost status` select pods by the chart's labels."""
    labels = job(render(ON))["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": "llm-multihost-janitor", "app.kubernetes.io/instance": "r1"}


def test_an_autoscaler_may_make_more_groups_than_there_are():
    scaled = merge(ON, {"autoscaling": {"enabled": True, "maxReplicas": 3}})
    (_, pods) = find(render(scaled), "Role")["rules"]
    assert pods["resourceNames"] == ["r1-0", "r1-0-1", "r1-1", "r1-1-1", "r1-2", "r1-2-1"]


def test_the_longest_name_of_a_release_leaves_room():
    name = find(render(ON, release="r" * 45), "CronJob")["metadata"]["name"]
    assert len(name) == 52
    name = find(render(ON, release="r" * 43 + "-x"), "CronJob")["metadata"]["name"]
    assert name == "r" * 43 + "-janitor"


def test_notes_tell_what_helm_alone_would_not():
    text = notes(merge(ON, nest("janitor.heldMinutes", 90)), release="x")
    assert "CronJob x-janitor takes the groups to 0" in text
    assert "90 minutes; helm upgrade starts them again" in text
    assert "CronJob" not in notes()


def test_the_groups_carry_the_deadline_and_the_revision():
    values = merge(ON, nest("janitor.heldMinutes", 1_000))
    notes = find(render(values), "LeaderWorkerSet")["metadata"]["annotations"]
    assert notes == {"manyhost.dev/held-minutes": "1000", "manyhost.dev/revision": "1"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("schedule", "@hourly"), ("schedule", "* * * *"), ("image", "python"), ("heldMinutes", 0)],
)
def test_values_that_cannot_be(key, value):
    with pytest.raises(RenderError, match=f"janitor/?.{key}|janitor.{key}"):
        render(merge(ON, nest(f"janitor.{key}", value)))
