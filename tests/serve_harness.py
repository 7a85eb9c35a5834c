"""Servers to test: one in this process, without Ray (application, dispatcher, one worker in threads), or a process to kill."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from latentsync_ray.config import Recipe
from latentsync_ray.serve.app import build_app
from latentsync_ray.serve.dispatcher import Dispatcher, WorkFailed
from latentsync_ray.serve.server import Server
from latentsync_ray.serve.settings import Key, Settings, hash_key
from latentsync_ray.serve.tables import IN_PROGRESS, IN_QUEUE
from latentsync_ray.serve.worker import Worker

SECRET = "a-secret-for-tests"
OTHER = "another-secret-for-tests"
_ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Running:
    """What tests hold of a server."""

    server: Server
    port: int
    worker: Worker | None
    sent: list[str] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    """While set, nothing is handed to the worker."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Key {SECRET}"}

    def settle(self) -> None:
        """Cancel what is unfinished and wait until nothing is."""
        self.paused.clear()
        queue = self.server.queue

        def idle() -> bool:
            counts = queue.counts()
            for request_id in (*queue.waiting(1000), *self.sent[-1:]):  # one at a time is worked on
                queue.cancel(request_id)
            return counts[IN_QUEUE] == counts[IN_PROGRESS] == 0

        wait_until(idle)


def make_settings(folder: Any, **more: Any) -> Settings:
    """Settings for a quick server on this machine, which may fetch from it."""
    keys = (Key(name="tester", sha256=hash_key(SECRET)), Key(name="other", sha256=hash_key(OTHER)))
    defaults: dict[str, Any] = {
        "recipe": Recipe(model="tiny-random", steps=1),
        "device": "cpu",
        "folder": str(folder),
        "keys": keys,
        "network": {"allow": ("127.0.0.0/8",), "read_seconds": 30, "total_seconds": 120},
        "webhooks": {"first_wait_seconds": 0.2, "timeout_seconds": 30},
    }
    return Settings.model_validate({**defaults, **more})


@contextmanager
def running(settings: Settings, *, work: bool = True, **options: Any) -> Iterator[Running]:
    """A server that answers at ``Running.url`` and, with ``work``, does what it accepts. ``options`` are uvicorn's."""
    server = Server.of(settings)
    worker = Worker(settings, server.queue, server.files) if work else None
    web = {"host": "127.0.0.1", "port": 0, "log_level": "warning", "lifespan": "off", **options}
    config = uvicorn.Config(build_app(server), **web)
    site = uvicorn.Server(config)
    ended = threading.Event()
    state = Running(server=server, port=0, worker=worker)
    threads = [threading.Thread(target=site.run, daemon=True)]
    if worker:
        threads.append(threading.Thread(target=_dispatch, args=(state, worker, ended), daemon=True))
    for thread in threads:
        thread.start()
    while not site.started:
        time.sleep(0.01)
    state.port = site.servers[0].sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        if worker:
            state.settle()
        site.should_exit = True
        ended.set()
        for thread in threads:
            thread.join(timeout=120)
            assert not thread.is_alive()


def _dispatch(state: Running, worker: Worker, ended: threading.Event) -> None:
    one_at_a_time = asyncio.Lock()

    async def send(request_id: str) -> None:
        while state.paused.is_set():
            await asyncio.sleep(0.02)
        async with one_at_a_time:
            state.sent.append(request_id)
            try:
                await asyncio.to_thread(worker.work, request_id)
            except RuntimeError as error:
                raise WorkFailed(repr(error)) from error

    async def main() -> None:
        task = asyncio.create_task(Dispatcher(state.server, send, ahead=3).run())
        while not ended.is_set() and not task.done():
            await asyncio.sleep(0.05)
        if task.done():
            task.result()
        task.cancel()

    asyncio.run(main())


class Process:
    """A server in a process group of its own, once it has said ``ready``."""

    def __init__(self, command: list[str], port: int, ready: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "LATENTSYNC_RAY_KEY": SECRET}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment, cwd=_ROOT
        )
        assert self.process.stdout
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if ready in line:
                return
        raise AssertionError(f"the server did not start: {''.join(self.said)}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    """As long as it takes on a busy machine, and no longer."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
