"""``ray job submit`` and ``ray job stop`` against a cluster that runs already."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed_nodes import RECIPE
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from serve_harness import free_port

from latentsync_ray import Cluster, Job, read_records, run

_HERE = Path(__file__).resolve().parent
_BIN = Path(sys.executable).parent
_CLIPS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (_BIN / "ray").is_file(), reason="needs Ray's command beside Python's"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submit")
    write_clip(folder / "v.mp4", portrait(96))
    write_speech(folder / "a.wav", speech_like(3.8))
    rows = [{"clip_id": f"c{number}", "video": "v.mp4", "audio": "a.wav"} for number in range(_CLIPS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Head:
    """The head of a cluster of its own, with two CPUs, a job server and a token."""

    def __init__(self, folder: Path) -> None:
        self.port, self._log = free_port(), folder / "log"
        path = os.pathsep.join([str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": path, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = {**os.environ, **own}
        ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
        command = ["start", "--head", "--block", "--port=0", "--num-cpus=2", f"--dashboard-port={self.port}", *ports]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [_BIN / "ray", *command, "--include-dashboard=true", "--disable-usage-stats"],
                env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def job(self, verb: str, *arguments: str) -> str:
        """What ``ray job`` answers."""
        command = [_BIN / "ray", "job", verb, f"--address=http://127.0.0.1:{self.port}", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr + self._log.read_text()
        return done.stdout + done.stderr

    def submit(self, name: str, output: Path) -> str:
        """The answer of a job that dubs the pairs into ``output``; it is not waited for."""
        settings = [f"recipe.{key}={value}" for key, value in RECIPE.model_dump(exclude_defaults=True).items()]
        given = [f"manifest={output.parent / 'pairs.jsonl'}", f"output={output}", "cluster={address: auto, device: cpu}"]
        job = [str(_BIN / "latentsync-ray"), "run", str(_HERE.parent / "configs" / "local.yaml"), *given, *settings]
        patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}})
        return self.job("submit", "--no-wait", f"--submission-id={name}", f"--runtime-env-json={patient}", "--", *job)

    def ended(self, name: str) -> str:
        """How a job ended."""
        until = time.monotonic() + 240
        while "RUNNING" in (status := self.job("status", name)) or "PENDING" in status:
            assert time.monotonic() < until, self.job("logs", name)
            time.sleep(1)
        return status

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="ls", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets: short names
        head = Head(Path(folder))
        try:
            yield head
        finally:
            head.end()


def wait_for(path: Path, pattern: str, *, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not list(path.glob(pattern)):
        assert time.monotonic() < until, f"no {pattern} in {path}"
        time.sleep(0.1)


def test_a_submitted_job_that_is_stopped_goes_on_when_it_is_submitted_again(head: Head, pairs: Path) -> None:
    output = pairs / "out"
    until = time.monotonic() + 120
    while True:  # the job server comes up last
        try:
            head.submit("first", output)
            break
        except AssertionError:
            if time.monotonic() > until:
                raise
            time.sleep(1)
    wait_for(output, "clips/*.mp4")
    assert (output / "_work" / "run.json").is_file()
    head.job("stop", "first")
    assert "STOPPED" in head.ended("first") or "stopped" in head.ended("first")
    assert not (output / "_work" / "run.json").exists(), "the stopped run gave the output back"
    told = head.job("logs", "first")
    assert "ended by SIGTERM; finished clips and segments are kept" in told
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("clips/*.mp4")}
    assert 0 < len(before) < _CLIPS
    head.submit("second", output)
    assert "succeeded" in head.ended("second"), head.job("logs", "second")
    rows = read_records(output).to_pylist()
    assert len(rows) == _CLIPS
    assert {row["error_code"] for row in rows} == {None}
    recorded = {path.name: path.stat().st_mtime_ns for path in output.glob("clips/*.mp4")}
    assert f"{_CLIPS} of {_CLIPS} clips done" in head.job("logs", "second")
    kept = [name for name, written in before.items() if recorded[name] == written]
    assert kept, "finished clips were not made again"
    alone = Job(manifest=pairs / "pairs.jsonl", output=pairs / "local", recipe=RECIPE, cluster=Cluster(runner="local"), limit=1)
    run(alone)
    assert {row["sha256"] for row in rows} == {row["sha256"] for row in read_records(pairs / "local").to_pylist()}
