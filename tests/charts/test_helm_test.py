"""What `helm test` runs: one completion, by a small pod that can do nothing else and is of no group."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes_validate
import pytest
from manyhost import checks
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.chart import load
from manyhost.checks import pod_security
from manyhost.checks.objects import pod_templates
from manyhost.render import Renderer

from tests.charts.test_pods import CONFIGURATIONS
from tests.helpers.cli import RECIPE, ROOT
from tests.helpers.helm import CHART, Object, expand, find, helm_binaries, kinds, merge, nest, render

Answer = tuple[int, bytes]
TEXT = json.dumps({"choices": [{"text": " Paris."}]}).encode()


def made(values: Object | None = None, engine: str = "sdk") -> Object:
    return find(render(values, tests=True, engine=engine), "Pod")


@pytest.mark.parametrize("engine", ["sdk", *helm_binaries()])
def test_helm_makes_the_pod_for_a_test_and_takes_it_away(engine: str) -> None:
    pod = made(engine=engine)
    assert pod["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["activeDeadlineSeconds"] < 300  # the time limit of helm test


def test_it_is_no_part_of_what_is_rendered_deployed_and_compared() -> None:
    renderer = Renderer(Catalog(ROOT))
    rendered = renderer.render(resolve(renderer.catalog, "local/tiny-r1"))
    assert "Pod" not in kinds(rendered.objects)
    assert "helm.sh/hook" not in rendered.manifests_text


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_keeps_the_strictest_pod_security_level_and_asks_for_little(name: str) -> None:
    pod = made(CONFIGURATIONS[name])
    kubernetes_validate.validate(pod, "1.37.0", strict=True)
    (only,) = pod_templates(pod)
    assert pod_security.level(only) == "restricted"
    (container,) = only.containers
    assert container.body["securityContext"]["readOnlyRootFilesystem"] is True
    assert container.body["resources"]["limits"] == {"cpu": "1", "memory": "256Mi"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "volumes" not in pod["spec"]
    assert container.gpus == 0


def test_nothing_takes_it_for_a_pod_of_the_release() -> None:
    on = {"podDisruptionBudget": {"enabled": True}}
    objects = render(merge(on, nest("vllm.replicaCount", 2)), tests=True)
    labels = find(objects, "Pod")["metadata"]["labels"]
    chart = load(CHART)
    assert not chart.labels("r1").items() <= labels.items()
    assert dict(part.split("=") for part in chart.test_selector("r1").split(",")).items() <= labels.items()
    for selector in (
        find(objects, "Service")["spec"]["selector"],
        find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert not selector.items() <= labels.items()


def test_a_network_policy_lets_it_in_wherever_clients_have_to_be() -> None:
    closed = {"networkPolicy": {"allowedNamespaces": ["clients"]}}
    objects = render(closed, tests=True)
    _, clients = find(objects, "NetworkPolicy")["spec"]["ingress"]
    labels = find(objects, "Pod")["metadata"]["labels"]
    pods = [peer["podSelector"]["matchLabels"] for peer in clients["from"] if "podSelector" in peer]
    assert any(selector.items() <= labels.items() for selector in pods)


def test_a_measurement_has_nothing_to_test() -> None:
    assert "Pod" not in kinds(render(merge(CONFIGURATIONS["tcpxo"], {"mode": "nccl"}), tests=True))


def test_it_finds_its_place_and_image_as_the_groups_do() -> None:
    values = merge(
        CONFIGURATIONS["tcpxo"],
        {"imagePullSecrets": ["mine"], "host": {"nodeSelector": {"pool": "gpu"}}},
        nest("security.runAsUser", 0),
    )
    pod = made(values)["spec"]
    assert pod["imagePullSecrets"] == [{"name": "mine"}]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in pod["tolerations"]
    assert pod["securityContext"]["runAsUser"] == 65534  # whatever the engine runs as
    assert made(nest("security.runAsUser", 1000))["spec"]["securityContext"]["runAsUser"] == 1000


def test_it_has_the_engines_key() -> None:
    (container,) = made(
        nest("vllm.envFrom", [{"name": "VLLM_API_KEY", "secret": "s", "key": "k"}, {"secret": "all"}])
    )["spec"]["containers"]
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert container["env"] == [{"name": "VLLM_API_KEY", "valueFrom": reference}]
    assert container["envFrom"] == [{"secretRef": {"name": "all"}}]


# ------------------------------------------------------------------------------------ the script
class Engine:
    """A server that gives one answer, and what it was asked.

    Attributes:
        address: Where it listens.
        asked: Path, body and Authorization header of the last request.
    """

    def __init__(self, answer: Answer) -> None:
        engine = self
        self.asked: tuple[str, Any, str] | None = None

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.asked = self.path, body, self.headers.get("Authorization", "")
                self.send_response(answer[0])
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


Serve = Callable[[Answer], Engine]


@pytest.fixture
def serve() -> Iterator[Serve]:
    engines: list[Engine] = []

    def start(answer: Answer) -> Engine:
        engines.append(Engine(answer))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def ask(address: str, seconds: float = 0.0) -> subprocess.CompletedProcess[str]:
    """Run the container's own command as the kubelet would, against another address."""
    (container,) = made(nest("model.servedName", "r1$(X)"))["spec"]["containers"]
    script, service, model = (expand(text) for text in container["args"])
    assert service == "http://r1-svc:8000"
    script = script.replace("CONNECT_SECONDS = 30", f"CONNECT_SECONDS = {seconds}")
    assert container["command"] == ["python3", "-B", "-c"]
    return subprocess.run(
        [sys.executable, "-B", "-c", script, address, model],
        capture_output=True,
        text=True,
        check=False,
        env={"VLLM_API_KEY": "k"},
    )


def test_an_answer_passes(serve: Serve) -> None:
    engine = serve((200, TEXT))
    done = ask(engine.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert "answers for r1$(X): ' Paris.'" in done.stdout
    assert engine.asked is not None
    path, body, key = engine.asked
    assert (path, key) == ("/v1/completions", "Bearer k")
    assert (body["model"], body["max_tokens"]) == ("r1$(X)", 16)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            (500, b"EngineDeadError: the engine\ncore died"),
            "answered 500: EngineDeadError: the engine core died",
        ),
        ((404, b'{"error": "no such model"}'), 'answered 404: {"error": "no such model"}'),
        ((200, b"<html>proxy</html>"), "answered what is no completion: <html>proxy</html>"),
        ((200, b'{"choices": []}'), "answered what is no completion"),
        ((200, b'{"choices": [{"text": ""}]}'), "answered without a word"),
    ],
)
def test_anything_else_fails_with_its_reason(answer: Answer, why: str, serve: Serve) -> None:
    engine = serve(answer)
    done = ask(engine.address)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"answer.py: {engine.address} {why}")
    assert "Traceback" not in done.stderr


def test_nobody_there_fails_with_its_reason(serve: Serve) -> None:
    gone = serve((200, TEXT))
    gone.close()
    done = ask(gone.address)
    assert done.returncode == 1
    assert "nothing answers, so no group is ready: [Errno 111] Connection refused" in done.stderr


def test_the_checks_find_nothing_in_it() -> None:
    renderer = Renderer(Catalog(ROOT))
    rendered = renderer.render(resolve(renderer.catalog, RECIPE))
    objects = [*rendered.objects, made(rendered.values)]
    objects[-1]["spec"]["serviceAccountName"] = "default"  # rendered for a release of another name
    found = checks.run(objects, environment_level=checks.Allowance("restricted"))
    assert [item for item in found if "Pod/" in item.where] == []
