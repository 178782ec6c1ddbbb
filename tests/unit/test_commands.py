"""Commands in messages: whole, quoted, and as the user has called the program."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from manyhost.commands import Commands, both, line, program

HERE = Commands(
    context="gke_p_us-east4_prod",
    namespace="serving",
    recipe="a3mega",
    release="mine",
    settings=("site.gcs_bucket=b", 'engine.tag="v1"'),
)
PLAIN = Commands(namespace="default", recipe="a3mega")


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (PLAIN.kubectl("describe", "pod", "r-0"), "`kubectl describe pod r-0 --namespace default`"),
        (
            HERE.kubectl("describe", "pod", "r-0"),
            "`kubectl describe pod r-0 --namespace serving --context gke_p_us-east4_prod`",
        ),
        (
            HERE.kubectl("get", "nodes", namespace=""),
            "`kubectl get nodes --context gke_p_us-east4_prod`",
        ),
        (
            HERE.helm("rollback", "mine", "3"),
            "`helm rollback mine 3 --namespace serving --kube-context gke_p_us-east4_prod`",
        ),
        (PLAIN.manyhost("status"), "`manyhost status a3mega --namespace default`"),
        # Only what renders the recipe needs all its settings; the others must find the same cluster.
        (
            HERE.manyhost("chat"),
            "`manyhost chat a3mega --set site.gcs_bucket=b --release mine --namespace serving "
            "--context gke_p_us-east4_prod`",
        ),
        (
            HERE.manyhost("deploy", "--timeout", "60"),
            "`manyhost deploy a3mega --set site.gcs_bucket=b --set 'engine.tag=\"v1\"' --release mine "
            "--namespace serving --context gke_p_us-east4_prod --timeout 60`",
        ),
        (HERE.discover("a3mega"), "`manyhost discover a3mega --context gke_p_us-east4_prod --yes`"),
        (PLAIN.discover("a3mega"), "`manyhost discover a3mega --yes`"),
        (
            PLAIN.kubectl("create", "secret", "generic", "s", shell='--from-literal=k="$T"'),
            '`kubectl create secret generic s --namespace default --from-literal=k="$T"`',
        ),
        (both(line("a", "x y"), line("b")), "`a 'x y' && b`"),
    ],
)
def test_they_are_whole(made: str, shown: str) -> None:
    assert made == shown


def test_whatever_a_name_holds_it_stays_one_word() -> None:
    name = "a b; $(rm -rf ~) `c` 'd'"
    assert shlex.split(PLAIN._replace(namespace=name).kubectl("get", "pods")[1:-1])[-1] == name


def test_the_program_is_called_as_the_user_has_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "manyhost").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/one")
    for called, shown in {
        f"{tmp_path}/one/manyhost": "manyhost",
        "one/manyhost": "manyhost",  # the one on PATH, whatever was typed
        "two/manyhost": "two/manyhost",
        f"{tmp_path}/two/manyhost": f"{tmp_path}/two/manyhost",
        "/usr/lib/python3/site-packages/manyhost/__main__.py": f"{sys.executable} -m manyhost",
        "/usr/bin/pytest": "manyhost",
        "-c": "manyhost",
    }.items():
        monkeypatch.setattr(sys, "argv", [called, "status"])
        assert program() == shown
        assert PLAIN.manyhost("status").startswith(f"`{shown} status ")
