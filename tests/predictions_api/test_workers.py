"""The workers of a model: Cog servers that are started here, and Cog servers at given URLs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import cog_at, cog_command, cog_server
from ports import free_port
from predictions_api.run import external
from predictions_api.run.addresses import Resolver
from predictions_api.run.cog_client import NotConnected
from predictions_api.run.external import ExternalWorkers
from predictions_api.run.native import StartFailed
from predictions_api.run.workers import NativeWorkers, Workers
from predictions_api.settings import ModelSettings
from processes import processes_with, wait_until_ended

IDLE = 600.0  # longer than a test
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a variable in the environment of all processes that this test starts, also indirectly."""
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    return f"STARTED_BY={tmp_path}"


def use(
    work: Callable[[Workers], Awaitable[Any]],
    *,
    command: list[str] | None = None,
    urls: tuple[str, ...] = (),
    idle: float = IDLE,
    setup_timeout: float = IDLE,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Any:
    model_command = () if urls else tuple(command or cog_command("text"))
    model = ModelSettings("test/text", ("1" * 64,), command=model_command, urls=urls)

    async def run() -> Any:
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            url = "http://api.internal:8000"
            workers: Workers = (
                ExternalWorkers(model, client, Resolver())
                if urls
                else NativeWorkers(model, client, idle=idle, callback_url=url, setup_timeout=setup_timeout)
            )
            try:
                return await work(workers)
            finally:
                await workers.close()

    return asyncio.run(run())


async def lend_once(workers: Workers) -> str:
    """Lend a server, which is ready. Return its URL."""
    async with workers.lend() as server:
        assert await server.health() == "READY"
        return server.url


async def wait_until_gone(mark: str) -> None:
    while processes_with(mark):
        await asyncio.sleep(0.05)


def commands(mark: str) -> dict[int, bytes]:
    """Return the commands of the processes by their ids."""
    found = {}
    for pid in processes_with(mark):
        with contextlib.suppress(OSError):  # it has ended
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


def cog_servers(mark: str) -> list[int]:
    """Return the ids of the processes that are Cog servers."""
    return [pid for pid, command in commands(mark).items() if b"cog.server.http" in command]


def test_a_server_starts_at_the_first_lend_without_secrets_and_is_lent_again(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("REPLICATE_API_TOKEN", "DBOS_SYSTEM_DATABASE_URL", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "secret")

    async def work(workers: Workers) -> None:
        assert processes_with(mark) == []
        assert await lend_once(workers) == await lend_once(workers)
        assert len(cog_servers(mark)) == 1
        environ = Path(f"/proc/{cog_servers(mark)[0]}/environ").read_text()
        assert [name for name in secrets if name in environ] == []  # a model is third-party code

    use(work)
    wait_until_ended(mark)


def test_a_server_is_lent_to_one_borrower_at_a_time() -> None:
    async def work(workers: Workers) -> list[str]:
        order: list[str] = []

        async def borrow(name: str) -> None:
            async with workers.lend():
                order.append(f"{name} begins")
                await asyncio.sleep(0.01)
                order.append(f"{name} ends")

        await asyncio.gather(borrow("a"), borrow("b"))
        return order

    assert use(work) == ["a begins", "a ends", "b begins", "b ends"]


@pytest.mark.parametrize("killed", [b"cog.server.http", b"cog_model", b"cog"])
def test_a_killed_server_is_reported_immediately_and_started_again(mark: str, killed: bytes) -> None:
    async def work(workers: Workers) -> None:
        async with workers.lend() as server:
            running = commands(mark)
            for pid, command in running.items():
                if b"_run_worker" in command:  # it would end by itself after 12 s
                    os.kill(pid, signal.SIGSTOP)
            for pid, command in running.items():
                if killed in command:
                    with contextlib.suppress(ProcessLookupError):  # its server or its parent has ended it
                        os.kill(pid, signal.SIGKILL)
            assert "ended while it ran this prediction" in await server.wait_for_failure()
            await wait_until_gone(mark)
        await lend_once(workers)

    use(work)


def test_a_server_with_a_crashed_worker_is_started_again(mark: str) -> None:
    async def work(workers: Workers) -> None:
        async with workers.lend() as server:
            before = server.url
            (worker,) = (pid for pid, command in commands(mark).items() if b"_run_worker" in command)
            os.kill(worker, signal.SIGKILL)
            while await server.health() == "READY":
                await asyncio.sleep(0.02)
        assert await lend_once(workers) != before

    use(work)


def test_an_idle_server_is_stopped_and_started_again_at_the_next_lend(mark: str) -> None:
    async def work(workers: Workers) -> None:
        for _ in range(2):
            await lend_once(workers)
            await wait_until_gone(mark)

    use(work, idle=0.1)


def test_a_lent_server_is_not_stopped_as_idle() -> None:
    async def work(workers: Workers) -> None:
        await lend_once(workers)
        async with workers.lend() as server:  # another one, if the first one was idle for 0.2 s here
            await asyncio.sleep(0.5)
            assert await server.health() == "READY"

    use(work, idle=0.2)


def test_a_failed_start_raises_its_reason_and_the_next_lend_tries_again(tmp_path: Path) -> None:
    marker = tmp_path / "tried"
    script = (
        f"import os, sys; here = {str(marker)!r}\n"
        "if not os.path.exists(here):\n"
        "    open(here, 'w').close(); sys.exit('no weights in /nowhere')\n"
        f"os.execv({sys.executable!r}, {cog_command('text')!r})\n"
    )

    async def work(workers: Workers) -> None:
        with pytest.raises(StartFailed, match=r"did not start\nno weights in /nowhere"):
            await lend_once(workers)
        await lend_once(workers)

    use(work, command=[sys.executable, "-c", script])


def test_a_missing_command_is_a_failed_start() -> None:
    with pytest.raises(StartFailed, match=r"/nowhere/serve cannot be started: .*No such file"):
        use(lend_once, command=["/nowhere/serve"])


@pytest.mark.parametrize("moment", ["before the process starts", "while Cog starts"])
def test_a_start_whose_borrower_is_cancelled_serves_the_next_borrower(mark: str, moment: str) -> None:
    async def work(workers: Workers) -> None:
        async def lend() -> None:
            async with workers.lend():
                await asyncio.Event().wait()  # until it is cancelled, if a busy machine delays the cancel

        waiting = asyncio.create_task(lend())
        await asyncio.sleep(0)
        while moment == "while Cog starts" and not cog_servers(mark):
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await lend_once(workers)
        assert len(cog_servers(mark)) == 1

    use(work)


def test_a_command_that_does_not_end_is_killed_with_its_child_processes(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictions_api.run.native._STOP_SIGNALS", ((0.1, signal.SIGTERM), (0.1, signal.SIGKILL)))
    script = f"trap '' TERM; sleep 600 & echo it is ready at {NOWHERE}; sleep 600"

    async def work(workers: Workers) -> None:
        started = asyncio.create_task(workers.lend().__aenter__())
        while len(processes_with(mark)) < 3:
            await asyncio.sleep(0.02)
        started.cancel()

    use(work, command=["sh", "-c", script])
    wait_until_ended(mark)


def test_a_stop_while_the_process_is_created_leaves_no_child_process(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = asyncio.create_subprocess_exec
    created, stopping = asyncio.Event(), asyncio.Event()

    async def create_slowly(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*command, **options)
        created.set()
        await stopping.wait()
        return process

    async def work(workers: Workers) -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", create_slowly)
        started = asyncio.create_task(workers.lend().__aenter__())
        await created.wait()
        while len(processes_with(mark)) < 3:
            await asyncio.sleep(0.02)
        started.cancel()
        closing = asyncio.create_task(workers.close())
        await asyncio.sleep(0)  # until it waits
        stopping.set()
        await closing

    use(work, command=["sh", "-c", "sleep 600 & cat; exit"])
    wait_until_ended(mark)


def test_the_child_processes_of_a_command_that_has_ended_are_killed(mark: str) -> None:
    async def work(workers: Workers) -> None:
        with pytest.raises(StartFailed):
            await lend_once(workers)
        await wait_until_gone(mark)

    use(work, command=["sh", "-c", "sleep 600 & exit 1"])


@pytest.mark.parametrize("given", ["", "example.com,localhost", "*"])
def test_a_server_does_not_use_a_proxy_for_callbacks(mark: str, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("NO_PROXY", given)

    async def work(workers: Workers) -> None:
        async with workers.lend():
            environ = Path(f"/proc/{cog_servers(mark)[0]}/environ").read_text().split("\0")
        hosts = [*filter(None, given.split(",")), "127.0.0.1", "::1", "localhost", "api.internal"]
        for name in ("NO_PROXY", "no_proxy"):
            (value,) = [item.partition("=")[2] for item in environ if item.startswith(f"{name}=")]
            assert sorted(value.split(",")) == sorted(set(hosts))

    use(work)


def test_a_server_may_log_long_lines_and_invalid_utf_8() -> None:
    script = (
        "import os, sys\n"
        "sys.stderr.buffer.write(b'x' * 300_000 + b'\\xff\\n'); sys.stderr.flush()\n"
        f"os.execv({sys.executable!r}, {cog_command('text')!r})\n"
    )

    use(lend_once, command=[sys.executable, "-c", script])


def test_the_servers_of_a_killed_parent_end(mark: str) -> None:
    parent = f"""
import asyncio, httpx
from predictions_api.settings import ModelSettings
from predictions_api.run.workers import NativeWorkers
async def run():
    model = ModelSettings("test/text", ("1" * 64,), command=tuple({cog_command("text")!r}))
    async with httpx.AsyncClient(timeout=60) as client:
        workers = NativeWorkers(model, client, idle=600.0, callback_url="http://127.0.0.1", setup_timeout=600.0)
        server = await workers.lend().__aenter__()
        print(server.url, flush=True)
        await asyncio.sleep(600)
asyncio.run(run())
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://")
        assert len(cog_servers(mark)) == 1
        process.kill()
    asyncio.run(wait_until_gone(mark))


@pytest.fixture
def short_poll_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "_POLL_INTERVAL", 0.02)
    monkeypatch.setattr(external, "_STATUS_TIMEOUT", 60.0)  # on a busy machine


@pytest.mark.usefixtures("short_poll_interval")
def test_lend_waits_for_a_server_that_is_busy_with_another_client(tmp_path: Path) -> None:
    with cog_server("text") as one:

        async def work(workers: Workers) -> None:
            async with httpx.AsyncClient(timeout=60) as other:
                inputs = {"hold": str(tmp_path / "never")}
                busy = asyncio.create_task(other.put(f"{one.url}/predictions/x", json={"input": inputs}))
                while (await other.get(f"{one.url}/health-check")).json()["status"] != "BUSY":
                    pass
                waiting = asyncio.create_task(lend_once(workers))
                await asyncio.sleep(0.2)
                assert not waiting.done()
                await other.post(f"{one.url}/predictions/x/cancel", json={})
                await busy
                assert await waiting == one.url

        use(work, urls=(one.url,))


@pytest.mark.usefixtures("short_poll_interval")
def test_lend_waits_for_an_unreachable_server_to_start(mark: str, tmp_path: Path) -> None:
    port = free_port()

    async def work(workers: Workers) -> None:
        waiting = asyncio.create_task(lend_once(workers))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        with cog_at("127.0.0.1", port, tmp_path):
            await waiting

    use(work, urls=(f"http://127.0.0.1:{port}",))
    asyncio.run(wait_until_gone(mark))


class Requests(httpx.AsyncBaseTransport):
    """Count the requests to Cog servers. `down` servers refuse connections, as after a restart of their host."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.down: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(f"{request.method} {request.url.path}")
        if request.url.host in self.down:
            raise httpx.ConnectError("refused", request=request)
        if request.method == "PUT":
            return httpx.Response(202, json={"status": "starting"})
        return httpx.Response(200, json={"status": self.health})

    health = "READY"


TWO_URLS = ("http://one", "http://two")


def test_a_server_is_asked_for_its_state_unless_a_prediction_has_just_succeeded_there() -> None:
    requests = Requests()

    async def work(workers: Workers) -> None:
        for number in range(4):
            async with workers.lend() as server:
                await server.start(str(number), {}, NOWHERE)
                if number < 2:
                    server.note("READY")  # as after a success

    use(work, urls=TWO_URLS, transport=requests)
    puts = [f"PUT /predictions/{number}" for number in range(4)]
    assert requests.paths == ["GET /health-check", *puts[:3], "GET /health-check", puts[3]]


def test_a_server_that_does_not_answer_any_more_is_passed_over_until_it_is_ready_again() -> None:
    requests = Requests()

    async def start(workers: Workers) -> str:
        async with workers.lend() as server:
            await server.start("x", {}, NOWHERE)
            server.note("READY")
            return server.url

    async def work(workers: Workers) -> None:
        assert await start(workers) == "http://one"
        requests.down = {"one"}
        with pytest.raises(NotConnected):
            await start(workers)
        assert await start(workers) == "http://two"
        requests.down = set()
        assert await start(workers) == "http://one"

    use(work, urls=TWO_URLS, transport=requests)


def test_a_native_server_that_does_not_become_ready_is_stopped_with_an_error(mark: str) -> None:
    async def work(workers: Workers) -> None:
        assert workers.status() == "cold"
        with pytest.raises(StartFailed, match=r"not ready within 0\.5 s"):
            await lend_once(workers)
        assert workers.status() == "cold"
        await wait_until_gone(mark)

    use(work, command=[sys.executable, "-c", "import sys; sys.stdin.read()"], setup_timeout=0.5)


@pytest.mark.parametrize(("health", "status"), [("READY", "ready"), ("STARTING", "starting"), ("DEFUNCT", "cold")])
def test_the_status_of_servers_at_urls_is_what_they_report(health: str, status: str) -> None:
    requests = Requests()
    requests.health = health
    requests.down = {"one"}

    async def work(workers: Workers) -> str:
        await workers.refresh()
        return workers.status()

    assert use(work, urls=TWO_URLS, transport=requests) == status
