"""``latentsync-ray serve`` as a newcomer starts it: the shipped model on Ray, https, the page's three examples, metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_examples import CURL, JAVASCRIPT, JAVASCRIPT_HOST, PYTHON, certificates, environment, playable, with_urls
from serve_harness import Process, free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, int]]:
    """The command at work: its port, the folder of its certificates, the port of its metrics."""
    folder = tmp_path_factory.mktemp("command")
    _, certificate, key = certificates(folder)
    port, metrics = free_port(), free_port()
    command = [str(Path(sys.executable).parent / "latentsync-ray"), "serve", "--model", "nano", "--steps", "6"]
    command += ["--port", str(port), "--metrics-port", str(metrics), "--folder", str(folder / "data")]
    server = Process([*command, "--tls", str(certificate), str(key)], port, "Ctrl-C")
    try:
        assert f":{metrics}/metrics" in "".join(server.said)
        yield port, folder, metrics
    finally:
        server.kill()


def run(command: list[str], served: tuple[int, Path, int], cwd: Path | None = None) -> str:
    known = environment(served[1], served[0], dict(os.environ))
    done = subprocess.run(command, env=known, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_python_example(served: tuple[int, Path, int], tmp_path: Path) -> None:
    *lines, result = run([sys.executable, "-c", with_urls(PYTHON, served[0])], served).splitlines()
    assert any("frames" in line for line in lines)
    assert playable(eval(result)["video"]["url"], served[1], tmp_path / "python.mp4") == 154


def test_the_curl_example(served: tuple[int, Path, int], tmp_path: Path) -> None:
    result = json.loads(run(["bash", "-c", with_urls(CURL, served[0])], served))
    assert playable(result["video"]["url"], served[1], tmp_path / "curl.mp4") == 154


def test_the_javascript_example(served: tuple[int, Path, int], node: Path, tmp_path: Path) -> None:
    imported, _, rest = JAVASCRIPT.strip().partition("\n")
    script = node / "page.mjs"
    script.write_text(with_urls(f"{imported}\n{JAVASCRIPT_HOST}\n{rest}", served[0]))
    said = run([shutil.which("node") or "node", str(script)], served, node)
    url = re.search(r"url: '([^']+)'", said)
    assert url
    assert "frames" in said
    assert playable(url[1], served[1], tmp_path / "javascript.mp4") == 154


def test_metrics(served: tuple[int, Path, int]) -> None:
    port, _, metrics = served
    run(["bash", "-c", with_urls(CURL, port)], served)
    until, wanted = time.monotonic() + 60, r'ray_latentsync_requests_total\{[^}]*code="ok"[^}]*\} [1-9]'
    while not re.search(wanted, text := httpx.get(f"http://127.0.0.1:{metrics}/metrics").text):
        assert time.monotonic() < until, text
        time.sleep(1)
    for name in ("queue_depth", "waiting_seconds_count", "stage_seconds_sum", "output_seconds_total"):
        assert f"ray_latentsync_{name}{{" in text
