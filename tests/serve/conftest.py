"""A running server for the tests of a file, and a clip that is short enough to be dubbed in a second."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from serve_harness import Running, make_settings, running
from sqlalchemy import create_engine

from latentsync_ray.media.speech import SAMPLE_RATE, write_wav
from latentsync_ray.nano.evaluate import make_take, write_take
from latentsync_ray.serve import dispatcher

_JS_CLIENT = "@fal-ai/client@1.10.1"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A portrait of one second and something to say: video and audio."""
    draw = np.random.default_rng(3)
    loud = np.repeat(draw.uniform(0, 1, 10), SAMPLE_RATE // 10)
    speech = (draw.normal(0, 5000, SAMPLE_RATE) * loud).astype(np.int16)
    return write_take(make_take(speech, speech[::-1].copy(), size=256), tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def blink(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same portrait with less to say: one window of frames."""
    audio = tmp_path_factory.mktemp("blink") / "blink.wav"
    write_wav(audio, np.random.default_rng(4).integers(-9000, 9000, SAMPLE_RATE // 2).astype(np.int16))
    return pair[0], audio


@pytest.fixture(scope="session")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos that cannot be dubbed, by the code of the error: a text, and a picture of nobody."""
    folder = tmp_path_factory.mktemp("unfit")
    text, faceless = folder / "text.mp4", folder / "faceless.mp4"
    text.write_text("this is no video\n" * 100)
    with av.open(str(faceless), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width = stream.height = 128
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(128, 128, "yuv420p")))
        container.mux(stream.encode())
    return {"unreadable_video": text, "no_face": faceless}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatcher, "_MINUTE", 3.0)  # records are collected every half second
        with running(make_settings(tmp_path_factory.mktemp("served") / "data")) as state:
            yield state


@pytest.fixture
def live(server: Running) -> Iterator[Running]:
    """A server with random weights, without Ray, and with nothing to do."""
    yield server
    server.settle()


@pytest.fixture
def paused(live: Running) -> None:
    """Nothing is handed to the worker, until the test lets it."""
    live.paused.set()


@pytest.fixture
def fal(live: Running, monkeypatch: pytest.MonkeyPatch):
    """fal's own Python client, pointed at the server."""
    import fal_client
    import fal_client.client as wires
    from serve_harness import SECRET

    monkeypatch.setattr(wires, "RUN_URL_FORMAT", f"{live.url}/")
    monkeypatch.setattr(wires, "QUEUE_URL_FORMAT", f"{live.url}/queue/")
    monkeypatch.setattr(wires, "REST_URL", f"{live.url}/rest")
    monkeypatch.setattr(wires, "CDN_URL", f"{live.url}/cdn")
    monkeypatch.setenv("FAL_KEY", SECRET)
    for name in ("_client", "_token_manager"):  # kept from the server of an earlier file
        fal_client.sync_client.__dict__.pop(name, None)
    yield fal_client
    gc.collect()  # the client leaves its connections to it: here, where their warnings are expected


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the client."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", _JS_CLIENT],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm cannot install {_JS_CLIENT}: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def postgres_bin() -> Path | None:
    """Where Debian puts PostgreSQL's server programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="module")
def postgres(postgres_server: str) -> str:
    """The URL of a new database on a PostgreSQL server."""
    name = f"tests_{uuid.uuid4().hex}"
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the tests."""
    programs = postgres_bin()
    if programs is None:
        pytest.skip("needs PostgreSQL's server (Debian: apt-get install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no runuser to become somebody else")
        as_user = ["runuser", "-u", "postgres", "--"]
        for each in (folder, *folder.parents[:3]):
            each.chmod(0o755)
        shutil.chown(folder, "postgres")
    data = folder / "data"

    def call(*command: str, check: bool = True) -> None:
        subprocess.run([*as_user, *command], check=check, capture_output=True, timeout=60, cwd="/")

    call(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    call(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    finally:
        call(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop", check=False)
