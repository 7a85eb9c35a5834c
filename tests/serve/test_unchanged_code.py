"""The page's own examples, unchanged, against a server with https: only host and key come from the environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serve_examples import CURL, PYTHON, certificates, environment, playable, with_urls
from serve_harness import Running, make_settings, running


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server with https: its port, and the folder of its certificates."""
    folder = tmp_path_factory.mktemp("secure")
    _, certificate, key = certificates(folder)
    with running(make_settings(folder / "data"), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as state:
        yield state.port, folder


def run(command: list[str], secure: tuple[int, Path]) -> str:
    port, folder = secure
    known = environment(folder, port, dict(os.environ))
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_python_example(secure: tuple[int, Path], tmp_path: Path) -> None:
    port, folder = secure
    *lines, result = run([sys.executable, "-c", with_urls(PYTHON, port)], secure).splitlines()
    assert any("frames" in line for line in lines)
    url = eval(result)["video"]["url"]
    assert url.startswith(f"https://127.0.0.1:{port}/files/")
    assert playable(url, folder, tmp_path / "got.mp4") == 154


def test_the_curl_example(secure: tuple[int, Path], tmp_path: Path) -> None:
    port, folder = secure
    result = json.loads(run(["bash", "-c", with_urls(CURL, port)], secure))
    assert playable(result["video"]["url"], folder, tmp_path / "got.mp4") == 154


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_upload_of_120_megabytes_in_parts(live: Running, fal: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    path.write_bytes(np.random.default_rng(1).bytes(120 * 10**6))
    url = fal.upload_file(path)
    with httpx.stream("GET", url) as answer:
        digest = hashlib.sha256()
        for block in answer.iter_bytes():
            digest.update(block)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert answer.headers["content-type"] == "video/mp4"
    assert not list((Path(live.server.settings.folder) / "_work" / "uploads").rglob("*")), "parts are gone"
