"""All of the server on Ray Serve, by Serve's own YAML: two ingress replicas on PostgreSQL, workers that come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from serve_harness import SECRET, free_port, make_settings

APP = "fal-ai/latentsync"
HEADERS = {"Authorization": f"Key {SECRET}"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an application that Serve was told to run."""
    folder = tmp_path_factory.mktemp("cluster")
    more = {"database": postgres, "replicas": (1, 2), "replica_cpus": 0.5, "ingress_replicas": 2, "lease_seconds": 5}
    settings = make_settings(folder / "data", **more)
    (folder / "serve.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    port = free_port()
    application = {
        "name": "latentsync",
        "import_path": "latentsync_ray.serve:build",
        "route_prefix": "/",
        "args": {"config": str(folder / "serve.yaml")},
    }
    deployed = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
    (folder / "deployed.yaml").write_text(yaml.safe_dump(deployed))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "serve"), "run", str(folder / "deployed.yaml")],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=30) as client:
            until = time.monotonic() + 120
            while not ready(client):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(1)
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def workers() -> list[int]:
    """Process ids of the model workers."""
    found = subprocess.run(["pgrep", "-f", "ray::ServeReplica:latentsync:Dubber"], capture_output=True, text=True)
    return [int(each) for each in found.stdout.split()]


def test_workers_that_come_and_go(cluster: httpx.Client, pair: tuple[Path, Path]) -> None:
    urls = []
    for path in pair:
        told = cluster.post("/rest/storage/upload/initiate", json={"file_name": path.name}).json()
        cluster.put(told["upload_url"], content=path.read_bytes()).raise_for_status()
        urls.append(told["file_url"])
    before = workers()
    assert len(before) == 1
    asked = {"video_url": urls[0], "audio_url": urls[1]}
    ids = [cluster.post(f"/queue/{APP}", json={**asked, "seed": n}).json()["request_id"] for n in range(40)]
    most, killed, until = 1, False, time.monotonic() + 240
    while (counts := cluster.get("/ready").json()["requests"])["COMPLETED"] < len(ids):
        most = max(most, len(workers()))
        if not killed and counts["COMPLETED"] >= 3:
            os.kill(before[0], signal.SIGKILL)
            killed = True
        assert time.monotonic() < until, counts
        time.sleep(0.3)
    assert killed
    assert most == 2, "more wait than one worker does"
    bodies = [cluster.get(f"/queue/{APP}/requests/{each}") for each in ids]
    assert [each.status_code for each in bodies] == [200] * len(ids)
    assert len({each.json()["video"]["url"] for each in bodies}) == len(ids)
    assert all(cluster.head(each.json()["video"]["url"]).status_code == 200 for each in bodies)
