"""What a user reads when a cluster cannot be had: one sentence, an exit code, no traceback."""

from __future__ import annotations

import email.utils
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.catalog.recipe import Site
from manyhost.cluster.chat import Server, tunnel
from manyhost.cluster.connection import (
    Forbidden,
    Missing,
    Refused,
    Unreachable,
    check_cluster,
    connect,
    path_of,
)
from manyhost.errors import NotReady

Answer = Callable[[str], tuple[int, Any]]


def write_kubeconfig(path: Path, server: str, context: str = "here", cluster: str = "c") -> Path:
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": cluster, "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": "u"}}],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def server() -> Iterator[Callable[[Answer], tuple[str, list[str]]]]:
    """Starts HTTP servers on loopback that answer as they are told; gives address and paths asked for."""
    started = []

    def start(answer: Answer) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, body = answer(self.path)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        started.append(made)
        return f"http://127.0.0.1:{made.server_port}", asked

    yield start
    for item in started:
        item.shutdown()
        item.server_close()


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def write(server: str, **names: str) -> None:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", server, **names)))

    return write


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, {"message": "Unauthorized"}, Forbidden, "does not accept the credentials"),
        (403, {"message": 'pods is forbidden: User "u" cannot list'}, Forbidden, "cannot list"),
        (404, {"message": 'pods "x" not found'}, Missing, "not found"),
        (404, b"404 page not found\n", Missing, "page not found"),
        (422, {"message": "spec is invalid\nfield"}, Refused, "spec is invalid"),
        (500, b"", Refused, "HTTP status 500"),
        (403, {"message": 'admission webhook "w" denied the request: no'}, Refused, "denied the request"),
    ],
)
def test_refusals(
    status: int, body: Any, kind: type[Refused], words: str, server: Any, kubeconfig: Any
) -> None:
    address, _ = server(lambda _: (status, body))
    kubeconfig(address)
    with pytest.raises(kind, match=words) as error:
        connect().get("/api/v1/pods/x")
    assert error.type is kind
    assert "\n" not in error.value.message
    assert "secret-token" not in str(error.value)


def test_a_busy_server_is_asked_again(server: Any, kubeconfig: Any) -> None:
    answers = iter([(429, {}), (503, {}), (200, {"fine": True})])
    address, asked = server(lambda _: next(answers))
    kubeconfig(address)
    assert connect().get("/version") == {"fine": True}
    assert len(asked) == 3


def test_the_clock_is_the_servers(server: Any, kubeconfig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop whose clock is ten minutes off does not take running pods for overdue."""
    address, _ = server(lambda _: (200, {}))
    kubeconfig(address)
    date = email.utils.formatdate(time.time() - 600, usegmt=True)
    monkeypatch.setattr("http.server.BaseHTTPRequestHandler.date_time_string", lambda *_: date)
    connection = connect()
    connection.get("/version")
    assert abs(connection.now() - (time.time() - 600)) < 2


@pytest.mark.parametrize("current", ["", "gone"])
def test_a_context_of_one_s_own_needs_no_current_one(
    current: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
    path.write_text(path.read_text().replace('"current-context": "here"', f'"current-context": "{current}"'))
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert connect("here").context == "here"
    with pytest.raises(NotReady, match=r"no context .*; it has here") as error:
        connect()
    assert error.value.fix == "add --context here"


@pytest.mark.parametrize("status", [200, 403, 500, 502])
def test_a_page_of_a_proxy_is_one_plain_line(status: int, server: Any, kubeconfig: Any) -> None:
    page = b"<!DOCTYPE html>\n<HTML><head>\n<title>Log in\n</title></head><body><p>hello</p></body></HTML>"
    address, _ = server(lambda _: (status, page))
    kubeconfig(address)
    for read in (lambda c: c.get("/version"), lambda c: list(c.pages("/api/v1/pods", dict[str, Any]))):
        with pytest.raises((Unreachable, Refused)) as error:
            read(connect())
        assert "an HTML page (Log in)" in error.value.message
        assert "<" not in error.value.message


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(403, Forbidden, "you may not open a tunnel to r-0"), (500, Unreachable, "no tunnel to r-0")],
)
def test_a_tunnel_that_is_refused(
    status: int, kind: type[Exception], words: str, server: Any, kubeconfig: Any
) -> None:
    address, _ = server(lambda _: (status, {"message": 'pods "r-0" is forbidden'}))
    kubeconfig(address)
    with pytest.raises(kind, match=words) as error, tunnel(connect(), "n", Server("r-0", 8000)):
        pass
    assert "\n" not in str(error.value.args[0])


def test_nobody_there(kubeconfig: Any) -> None:
    kubeconfig("http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(Unreachable, match="connection refused") as error:
        connect().get("/version")
    assert error.value.exit_code == 5
    assert time.monotonic() - begin < 15


def test_pages_are_followed(server: Any, kubeconfig: Any) -> None:
    def answer(path: str) -> tuple[int, Any]:
        if "continue=next" in path:
            return 200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}
        return 200, {"metadata": {"continue": "next"}, "items": [{"metadata": {"name": "a"}}]}

    address, asked = server(answer)
    kubeconfig(address)
    found = list(connect().pages(path_of("v1", "pods"), dict[str, Any], labels="a=b", fields="c!=d"))
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert "labelSelector=a%3Db" in asked[0]
    assert "limit=250" in asked[0]


@pytest.mark.parametrize(
    "text", ["", "- a\n", "a: [", "contexts: 3\n", "contexts: [{}]\ncurrent-context: x\n"]
)
def test_a_broken_kubeconfig(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(NotReady) as error:
        connect()
    assert "\n" not in error.value.message


def test_no_kubeconfig_and_no_such_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubeconfig: Any
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NotReady, match="there is no kubeconfig"):
        connect()
    kubeconfig("http://127.0.0.1:9")
    with pytest.raises(NotReady, match="no context 'there'; it has here"):
        connect("there")


@pytest.mark.parametrize(
    ("context", "cluster", "name", "project", "fine"),
    [
        ("gke_p_us-east4_prod", "gke_p_us-east4_prod", "prod", "", True),
        ("gke_p_us-east4_prod", "x", "prod", "p", True),
        ("gke_p_us-east4_prod", "x", "prod", "q", False),
        ("gke_p_us-east4_prod", "x", "test", "", False),
        ("renamed", "gke_p_us-east4_prod", "prod", "", True),
        ("kind-a", "kind-a", "prod", "", False),
        ("prod", "other", "prod", "", True),
        ("gke_p_us-east4_prod", "x", "gke_p_us-east4_prod", "", True),
        ("anything", "at all", "", "", True),
    ],
)
def test_another_cluster_is_refused(
    context: str, cluster: str, name: str, project: str, fine: bool, kubeconfig: Any
) -> None:
    kubeconfig("http://127.0.0.1:9", context=context, cluster=cluster)
    if fine:
        check_cluster(connect(), Site(cluster_name=name, project_id=project))
        return
    with pytest.raises(NotReady, match=f"mean cluster {name}"):
        check_cluster(connect(), Site(cluster_name=name, project_id=project))


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "local"), ("deploy", "local"), ("deploy", "local", "--dry-run"), ("status", "local"),
        ("logs", "local"), ("chat", "local", "--prompt", "x"), ("teardown", "local", "--yes"),
        ("discover", "local", "--yes"),
    ],
)  # fmt: skip
def test_no_command_shows_a_traceback(
    arguments: tuple[str, ...], kubeconfig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from manyhost import cli

    (tmp_path / "local.yaml").write_text("")
    monkeypatch.setenv("MANYHOST_LOCAL", str(tmp_path / "local.yaml"))
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    kubeconfig("http://127.0.0.1:9")
    assert cli.run([*arguments, *(["--skip", "image"] if arguments[0] == "doctor" else [])]) in (4, 5)
    said = capsys.readouterr()
    assert "cannot be reached" in said.out + said.err
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (401, "Unauthorized", "does not accept the credentials of context here"),
        (403, 'User "system:serviceaccount:n:gone" cannot create resource', "cannot create resource"),
    ],
)
def test_doctor_with_credentials_that_are_refused(
    status: int, message: str, words: str, server: Any, kubeconfig: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One failure, nothing else, and no exit code 0: nothing of the cluster was seen."""
    from manyhost import cli

    (tmp_path / "local.yaml").write_text("")
    monkeypatch.setenv("MANYHOST_LOCAL", str(tmp_path / "local.yaml"))

    def answer(path: str) -> tuple[int, Any]:
        if status == 403 and path == "/version":
            return 200, {"gitVersion": "v1.35.0"}
        return status, {"message": message}

    address, _ = server(answer)
    kubeconfig(address)
    assert cli.run(["doctor", "local"]) == 4
    said = capsys.readouterr()
    (line,) = [text for text in said.out.splitlines() if not text.startswith(" ")]
    assert line.startswith("fail  api")
    assert words in line
    assert said.err == "manyhost: local would not work: 1 of 1 check failed (api)\n"


@pytest.mark.parametrize(
    ("given", "cluster_name", "fix"),
    [
        ((), "", "`manyhost deploy local --namespace default`"),
        (("--context", "here"), "", "`manyhost deploy local --namespace default --context here`"),
        # The next shell may have another current context: what is meant for one cluster names it.
        ((), "here", "`manyhost deploy local --namespace default --context here`"),
        (
            ("--namespace", "n", "--release", "r", "--set", "groups=2"),
            "",
            "`manyhost deploy local --set groups=2 --release r --namespace n`",
        ),
        (("--release", "tiny-r1"), "", "`manyhost deploy local --namespace default`"),
    ],
)
def test_a_fix_carries_what_the_command_was_given(
    given: tuple[str, ...], cluster_name: str, fix: str, server: Any, kubeconfig: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from manyhost import cli

    (tmp_path / "local.yaml").write_text("")
    monkeypatch.setenv("MANYHOST_LOCAL", str(tmp_path / "local.yaml"))
    monkeypatch.setenv("CLUSTER_NAME", cluster_name)
    address, _ = server(lambda _: (200, {"metadata": {}, "items": []}))
    kubeconfig(address)
    assert cli.run(["status", "local", *given]) == 4
    assert capsys.readouterr().err.splitlines()[1] == f"  fix: {fix}"


def test_the_context_that_the_settings_mean_is_named(kubeconfig: Any, tmp_path: Path) -> None:
    """Where the kubeconfig has it, nobody is sent to fetch it again."""
    kubeconfig("http://127.0.0.1:9")
    path = tmp_path / "config"
    document = json.loads(path.read_text())
    document["contexts"].append({"name": "gke_p_us-east4_prod", "context": {"cluster": "c", "user": "u"}})
    path.write_text(json.dumps(document))
    with pytest.raises(NotReady) as error:
        check_cluster(connect(), Site(cluster_name="prod"))
    assert error.value.fix == "take --context gke_p_us-east4_prod"
    with pytest.raises(NotReady) as error:
        check_cluster(connect("here"), Site(cluster_name="gke_q_us-east5_other"))
    assert "get-credentials other --location us-east5 --project q`" in error.value.fix
