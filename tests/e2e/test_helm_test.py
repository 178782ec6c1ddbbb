"""`helm test` on real pods: of the published archive, by both Helms, and with an engine that is broken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from manyhost.render import build

from tests.e2e.place import Place, everything, run, standin
from tests.helpers.helm import helm_binaries
from tests.helpers.waiting import until
from tools import package

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
RECIPE = "local/tiny-r1"


def helm(place: Place, binary: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(binary), *args],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KUBECONFIG": str(place.kubeconfig)},
    )


def broken(place: Place, namespace: str) -> None:
    """Let the stand-in engine answer 500 to every request, and 200 for its health."""
    post = (
        "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/control', b'{\"state\": \"failing\"}')"
    )
    place.kube("exec", "-n", namespace, "tiny-r1-0", "--", "python3", "-c", post)


@pytest.mark.skipif(len(helm_binaries()) < 2, reason="make tools unpacks both Helms")
def test_one_completion(place: Place, image: tuple[str, str], namespace: str, tmp_path: Path) -> None:
    settings = standin(image)
    before = everything(place, namespace)
    values = tmp_path / "values.yaml"
    values.write_text(build(RECIPE, assignments=settings[1::2]).values_text)
    (archive,) = (path for path in package.build(tmp_path / "dist") if path.name.startswith("llm-multihost-"))
    binaries = helm_binaries()
    install = ("install", "tiny-r1", str(archive), "--namespace", namespace, "--values", str(values))
    done = helm(place, binaries["helm3"], *install)
    assert done.returncode == 0, done.stderr
    here = ["--namespace", namespace, *settings]
    until("all ready", lambda: "1 of 1 groups ready" in run("status", "local", *here).out, 120)
    installed = everything(place, namespace)

    test = ("test", "tiny-r1", "--namespace", namespace)
    for binary in binaries.values():
        done = helm(place, binary, *test)
        assert done.returncode == 0, done.stdout + done.stderr
        logged = helm(place, binary, *test, "--logs")
        print(binary.name, "--logs of a test that passed:", logged.returncode, logged.stdout, logged.stderr)
        assert everything(place, namespace) == installed  # nothing is left of a test that passed

    broken(place, namespace)
    for binary in binaries.values():
        done = helm(place, binary, *test, "--logs")
        assert done.returncode == 1
        why = "answer.py: http://tiny-r1-svc:8000 answered 500"
        assert why in done.stdout + done.stderr, done
        assert why in place.kube("logs", "-n", namespace, "tiny-r1-test")
        assert everything(place, namespace) - installed == {"pod/tiny-r1-test"}

    status = run("status", "local", *here, "--output", "json").ok().output.result
    assert [host["pod"] for host in status["hosts"]] == ["tiny-r1-0", "tiny-r1-0-1"]
    assert status["drift"] == []
    assert (
        run("deploy", "local", *here, "--output", "json").ok().output.result["proposal"]["action"]
        == "nothing"
    )
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()
    assert everything(place, namespace) == before
