"""What waiting clients cost: the time of a request alone and with 50 clients that ask for its status ten times a second.

    python jobs/bench_serve.py

Starts ``latentsync-ray serve`` with the shipped model on this machine, and the clients in a process of their own. Requests
alternate, so that both see the same machine; the figure is the ratio of the medians.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2
import typer
from rich.console import Console

APP = "fal-ai/latentsync"
KEY = "bench"
HEADERS = {"Authorization": f"Key {KEY}"}
WAITERS, RATE = 50, 10.0
out = Console()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 4,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run the benchmark and print what came out."""
    if child:
        asyncio.run(poll(child))
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [str(Path(sys.executable).parent / "latentsync-ray"), "serve", "--model", "nano", "--steps", "6"]
        server = subprocess.Popen(
            [*command, "--port", str(port), "--folder", f"{folder}/data"],
            env={**os.environ, "LATENTSYNC_RAY_KEY": KEY},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout
            next(line for line in server.stdout if "playground" in line)
            measure(f"http://127.0.0.1:{port}", rounds)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def measure(url: str, rounds: int) -> None:
    """Dub the shipped clip again and again, every other time with waiters."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    replies: list[dict[str, Any]] = []
    with httpx2.Client(base_url=url, headers=HEADERS, timeout=300) as client:
        work(client, url)  # warms up
        for number in range(2 * rounds):
            waiting = number % 2 == 1
            waiters = start_waiters(url) if waiting else None
            seconds[waiting].append(work(client, url, waiters))
            if waiters:
                replies.append(json.loads(waiters.communicate()[0].splitlines()[-1]))
    alone, beside = (statistics.median(seconds[kind]) for kind in (False, True))
    out.print(f"one request alone: {alone:.2f} s (median of {rounds}); with {WAITERS} waiters: {beside:.2f} s")
    out.print(f"ratio {beside / alone:.3f}")
    for each in replies:
        rate, median, most = (f"{each[name]:.{digits}f}" for name, digits in (("rate", 0), ("median", 1), ("p99", 1)))
        out.print(f"status: {each['count']} answers, {rate} a second, median {median} ms, 99 % within {most} ms")


def work(client: httpx2.Client, url: str, waiters: subprocess.Popen[str] | None = None) -> float:
    """Seconds of work on the shipped clip, as the server measured them, with ``waiters`` from its start to its end."""
    told = client.post(f"/queue/{APP}", json=pair(url)).raise_for_status().json()
    if waiters and waiters.stdin:
        waiters.stdin.write(told["request_id"] + "\n")
        waiters.stdin.flush()
    while (status := client.get(told["status_url"])).status_code == 202:
        time.sleep(0.5)
    if waiters:
        waiters.send_signal(signal.SIGINT)
    client.get(told["response_url"]).raise_for_status()
    return status.json()["metrics"]["inference_time"]


def pair(url: str) -> dict[str, Any]:
    """The shipped clip and speech as input."""
    return {"video_url": f"{url}/demo/demo.mp4", "audio_url": f"{url}/demo/demo.wav", "seed": 1}


def start_waiters(url: str) -> subprocess.Popen[str]:
    """A process that is ready to wait for the request whose id it is told."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    return process


async def poll(url: str) -> None:
    """Half the clients ask for the request in work, half for others that wait behind it, until interrupted."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)
    address = urlsplit(url)
    times: list[float] = []
    async with httpx2.AsyncClient(base_url=url, headers=HEADERS, timeout=30) as client:
        print("ready", flush=True)
        in_work = sys.stdin.readline().strip()
        others = [
            (await client.post(f"/queue/{APP}", json=pair(url), headers={"x-fal-queue-priority": "low"})).json()["request_id"]
            for _ in range(WAITERS // 2)
        ]

        async def wait(request_id: str, phase: float) -> None:
            # A plain connection: what an HTTP library spends here would be taken from the work, as no client far away does.
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            asked = f"GET /queue/{APP}/requests/{request_id}/status?logs=true HTTP/1.1\r\nHost: {address.netloc}\r\n"
            await asyncio.sleep(phase)
            while not ended.is_set():
                began = time.perf_counter()
                writer.write(f"{asked}Authorization: Key {KEY}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                if head[9:12] not in (b"200", b"202"):
                    raise RuntimeError(f"the server answered {head[:60]!r}")
                times.append(time.perf_counter() - began)
                await asyncio.sleep(max(0.0, 1 / RATE - times[-1]))
            writer.close()

        began = time.perf_counter()
        ids = [in_work] * (WAITERS - len(others)) + others
        await asyncio.gather(*(wait(each, number / RATE / WAITERS) for number, each in enumerate(ids)))
        spent = time.perf_counter() - began
        for each in others:
            await client.put(f"/queue/{APP}/requests/{each}/cancel")
    ordered = sorted(times)
    figures = {"median": statistics.median(ordered) * 1e3, "p99": ordered[int(len(ordered) * 0.99)] * 1e3}
    print(json.dumps({"count": len(times), "rate": len(times) / spent, **figures}))


if __name__ == "__main__":
    typer.run(main)
