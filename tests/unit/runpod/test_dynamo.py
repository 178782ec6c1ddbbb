"""NVIDIA Dynamo before engines: what is refused, what engines are started with, and the door."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from manyhost.catalog import Catalog
from manyhost.errors import InvalidInput
from manyhost.plan import roles
from manyhost.runpod import launch
from manyhost.runpod.boot import dynamo_door, dynamo_hosts

from tests.unit.runpod.test_launch import CHARTS, TERMS, plan, unpacked

KEY = "a key of this test"


@pytest.mark.parametrize(
    ("recipe", "settings", "where", "text"),
    [
        ("single-host", ["routing=dynamo"], "engine.version", "can stand before vLLM v0.33.0"),
        ("dynamo-router", ["engine.executor=ray"], "engine.executor", "over Ray"),
        ("single-host", ["groups=2"], "routing", "RunPod has nothing"),
        ("dynamo-disaggregated", ["routing=service"], "routing", "RunPod has nothing"),
        ("dynamo-router", ["groups=2"], "parallelism", "2 groups of 2 hosts"),
        ("dynamo-router", ["roles.prefill.groups=1"], "parallelism.pipeline", "one pipeline stage"),
    ],
)
def test_what_cannot_work_is_refused(recipe: str, settings: list[str], where: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        plan(f"runpod-h200/{recipe}", *settings)
    assert caught.value.where.endswith(where)


def test_a_cluster_of_kubernetes_has_no_need_of_it() -> None:
    with pytest.raises(InvalidInput, match="starts its own engines"):
        plan("a3mega/deepseek-r1-671b", "routing=dynamo")


def test_an_engine_behind_it_leaves_thoughts_and_the_public_port_to_it() -> None:
    made = plan("runpod-h200/dynamo-router")
    files = unpacked(launch.serving(made, TERMS, CHARTS))
    words = files["arguments"].decode().split("\0")
    settings = dict(line.split("=", 1) for line in files["settings.env"].decode().splitlines())
    assert settings["MANYHOST_ENGINES"] == "serve"
    assert settings["MANYHOST_PORT"] == str(dynamo_hosts.ENGINE_HTTP)
    assert settings["MANYHOST_REASONING_PARSER"] == "deepseek_r1"
    assert "--reasoning-parser" not in words
    assert settings["MANYHOST_GRPC_PORT"] == str(dynamo_hosts.ENGINE_GRPC)
    assert dynamo_door.PUBLIC == launch.PORT


def test_apart_each_host_has_flags_of_its_role() -> None:
    made = plan("runpod-h200/dynamo-disaggregated")
    body = launch.serving(made, TERMS, CHARTS)
    files = unpacked(body)
    assert roles.hosts(made.roles) == 2
    for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        words = files[f"arguments.{role}"].decode().split("\0")
        assert json.loads(words[words.index("--kv-transfer-config") + 1])["kv_role"] == kv_role
    assert b"MANYHOST_ENGINES='prefill decode'" in files["settings.env"]


def test_the_environment_of_the_engine_has_the_release_that_pairs_with_it() -> None:
    catalog = Catalog()
    for path in launch.REQUIREMENTS.glob("*.txt"):
        pair = catalog.dynamo().pair(path.stem)
        lines = path.read_text()
        if pair and pair.sidecar:
            assert f"ai-dynamo=={pair.dynamo} " in lines
            assert f"ai-dynamo-runtime=={pair.dynamo} " in lines
            assert f"nixl=={pair.nixl} " in lines
        else:
            assert "ai-dynamo" not in lines


def test_pages_of_metrics_become_one() -> None:
    own = "# HELP a An a.\n# TYPE a counter\na 1\n"
    engine = '# HELP a An a.\n# TYPE a counter\na{engine="0"} 2\n# TYPE b gauge\nb 3.5\n'
    assert dynamo_door.merged([(own, ""), (engine, "0")]).splitlines() == [
        "# HELP a An a.", "# TYPE a counter", "a 1", 'a{host="0",engine="0"} 2', "# TYPE b gauge",
        'b{host="0"} 3.5',
    ]  # fmt: skip


def behind_the_door(
    frontend: Callable[[web.Request], Awaitable[web.StreamResponse]],
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[aiohttp.ClientSession, str], Awaitable[None]],
) -> None:
    """Run the door before a frontend on free ports, and a check with the door's URL."""
    runners: list[web.AppRunner] = []

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", frontend)])
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            hidden = await served(app)
            monkeypatch.setattr(dynamo_door, "FRONTEND", hidden)
            engine = dynamo_door.Place(0, "serve", lambda: f"http://127.0.0.1:{hidden}")
            door = dynamo_door.Door(session, KEY, [engine, dynamo_door.Place(1, "decode", lambda: "")])
            try:
                await check(session, f"http://127.0.0.1:{await served(door.application())}")
            finally:
                for runner in runners:
                    await runner.cleanup()

    async def served(app: web.Application) -> int:
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    asyncio.run(run())


def test_the_door_asks_for_the_key_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def frontend(request: web.Request) -> web.StreamResponse:
        seen.append((request.raw_path, dict(request.headers), await request.read()))
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(3):
            await answer.write(b"data: %d\n\n" % number)
        return answer

    async def check(session: aiohttp.ClientSession, url: str) -> None:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": KEY}):
            async with session.post(f"{url}/v1/completions", headers=headers, data=b"x") as answer:
                assert answer.status == 401
        for path in ("/", "/v1", "/engine", "/metrics/1", "/hosts/1"):
            async with session.get(url + path, headers={"Authorization": f"Bearer {KEY}"}) as answer:
                assert answer.status == 404
        assert not seen
        async with session.post(
            f"{url}/v1/completions?a=b", headers={"Authorization": f"Bearer {KEY}"}, data=b"{}"
        ) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert await answer.read() == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        ((path, headers, body),) = seen
        assert (path, body) == ("/v1/completions?a=b", b"{}")
        assert "Authorization" not in headers

    behind_the_door(frontend, monkeypatch, check)


def test_an_answer_that_breaks_off_is_not_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def frontend(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"data: 0\n\n")
        assert request.transport
        request.transport.abort()
        return answer

    async def check(session: aiohttp.ClientSession, url: str) -> None:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}) as answer:
                await answer.read()

    behind_the_door(frontend, monkeypatch, check)


def test_a_client_that_goes_away_is_no_longer_served(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def frontend(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"data: 0\n\n")
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def check(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}) as answer:
            await answer.content.readany()
        await asyncio.wait_for(ended.wait(), 10)

    behind_the_door(frontend, monkeypatch, check)


def test_health_is_whether_a_model_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[dict[str, str]] = []

    async def frontend(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": models})

    async def check(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(f"{url}/version") as answer:
            assert await answer.json() == {"data": []}, "what the engine says"
        for wanted in (503, 200):
            async with session.get(f"{url}/health") as answer:
                assert answer.status == wanted
            models.append({"id": "tiny-r1"})

    behind_the_door(frontend, monkeypatch, check)


def test_only_members_are_taken_in(tmp_path: Path) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            found = dynamo_hosts.Primary(["prefill", "decode"], "10.65.0.2", "a token", tmp_path, session)
            app = web.Application()
            app.add_routes([web.put("/hosts/{rank:[0-9]{1,3}}", found.announced)])
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/hosts"
            mine: dict[str, Any] = {"headers": {"Authorization": "Bearer a token"}}
            for rank, options, status in ((1, {}, 401), (0, mine, 404), (2, mine, 404), (1, mine, 200)):
                async with session.put(f"{url}/{rank}", **options) as answer:
                    assert answer.status == status
                assert found.engines[1].address == ("127.0.0.1" if status == 200 else "")
            assert found.engines[0].address == "10.65.0.2"
            await runner.cleanup()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def watched(
    health: Callable[[web.Request], Awaitable[web.Response]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[dynamo_hosts.Primary, web.TCPSite]]:
    """A primary with one engine, whose health is asked as given; then the engine is gone."""
    app = web.Application()
    app.add_routes([web.get("/health", health)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        monkeypatch.setattr(dynamo_hosts, "ENGINE_HTTP", runner.addresses[0][1])
        found = dynamo_hosts.Primary(["serve"], "127.0.0.1", "a token", folder, session)
        try:
            yield found, site
        finally:
            await runner.cleanup()
        assert not await found.healthy(found.engines[0]), "nothing listens there"


def test_an_engine_that_is_slow_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def health(_: web.Request) -> web.Response:
        await asyncio.sleep(2.5)
        return web.Response()

    async def run() -> None:
        async with watched(health, tmp_path, monkeypatch) as (found, _):
            assert await found.healthy(found.engines[0])

    asyncio.run(run())


def test_a_host_that_goes_while_it_is_asked_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may take 15 s, and requests go there until the loss is known."""

    async def health(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def run() -> None:
        async with watched(health, tmp_path, monkeypatch) as (found, site):
            look = asyncio.create_task(found.healthy(found.engines[0]))
            await asyncio.sleep(1)
            assert not look.done(), "slow is not gone"
            await site.stop()
            async with asyncio.timeout(5):
                assert not await look

    asyncio.run(run())


def test_a_sidecar_that_dynamo_has_forgotten_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It makes its registration once, so a host that stood still would serve nobody any more."""
    package = tmp_path / "dynamo/vllm"
    package.mkdir(parents=True)
    (package / "sidecar.py").write_text(
        "import os, pathlib, sys, time\n"
        f"starts = pathlib.Path({str(tmp_path / 'starts')!r})\n"
        "with starts.open('a') as file: file.write(f'{os.getpid()} ')\n"
        "if len(starts.read_text().split()) == 1:\n"
        "    sys.stdout.write('ERROR FileStore::keep'); sys.stdout.flush(); time.sleep(0.2)\n"
        "    print('_alive failed opening owned file', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    def starts() -> list[str]:
        return (tmp_path / "starts").read_text().split() if (tmp_path / "starts").exists() else []

    async def run() -> None:
        async with watched(health, tmp_path, monkeypatch) as (found, _):
            watch = asyncio.create_task(found.watch(found.engines[0]))
            async with asyncio.timeout(20):
                while len(starts()) < 2:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)
            assert len(starts()) == 2, "one that is in the list is left alone"
            assert not Path(f"/proc/{starts()[0]}").exists()
            watch.cancel()
            sidecar = found.engines[0].sidecar
            assert sidecar
            await sidecar.end()

    asyncio.run(run())
    said = capfd.readouterr().out
    assert "rank 0 (serve) at 127.0.0.1 is forgotten by Dynamo" in said
    assert "ERROR FileStore::keep_alive failed opening owned file" in said
