from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from latentsync_ray import Cluster, Job, Recipe, driver, lease, storage
from latentsync_ray.errors import ConfigError, InputNotFound, StorageUnavailable
from latentsync_ray.layout import join, run_uri
from latentsync_ray.lease import Lease
from latentsync_ray.records import Records, commit_pending
from latentsync_ray.records.files import read_table
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.types import ClipRecord

HERE = socket.gethostname()


def sign(output: str) -> str:
    return run_uri(output)


def signed(output: str, *, host: str = "elsewhere", pid: int = 17, ago: float = 5, here: bool = True) -> dict[str, object]:
    """Leave the sign of another run: of this machine's processes, or of a container's of its own."""
    beat = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="seconds")
    run = {"host": host, "pid": pid, "started": "2026-01-02T03:04:05+00:00", "beat": beat, "token": "other"}
    run["processes"] = lease._processes() if here and host == HERE else "others"
    storage.write_bytes(sign(output), json.dumps(run).encode())
    return run


def read(output: str) -> dict[str, object]:
    return json.loads(storage.read_bytes(sign(output)))


def dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_run_signs_and_takes_its_sign_along(output):
    with Lease(output):
        assert (read(output)["host"], read(output)["pid"]) == (HERE, os.getpid())
    assert storage.find_files(output) == []
    with pytest.raises(ZeroDivisionError), Lease(output):
        raise ZeroDivisionError
    assert storage.find_files(output) == []


def test_a_second_run_is_refused(output):
    run = signed(output, host=HERE, pid=(pid := os.getppid()))
    remedy = f"to end it, kill {pid}: then this one can start at once"
    told = rf"process {pid} on {HERE}, since 2026-01-02T03:04:05\+00:00, last sign of life 20.*{remedy}"
    with pytest.raises(ConfigError, match=told), Lease(output):
        pass
    assert read(output) == run


def test_an_output_that_cannot_be_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("cannot write there: read-only file system")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    monkeypatch.setattr(storage, "delete", refuse)
    with pytest.raises(ConfigError, match="read-only"), Lease(str(tmp_path)):
        pass
    assert caplog.messages == []


def test_a_second_run_of_the_same_process_is_refused(output):
    with Lease(output):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on {HERE}"), Lease(output):
            pass
        assert storage.exists(sign(output))


def test_a_run_whose_process_is_gone_stops_nobody(output, monkeypatch):
    monkeypatch.setattr(lease, "_BEAT", 0.01)
    signed(output, host=HERE, pid=dead())
    with Lease(output):
        assert read(output)["pid"] == os.getpid()
    signed(output, host=HERE, pid=os.getpid())  # a container's first process, started again
    with Lease(output):
        pass
    signed(output, ago=200)
    with Lease(output):
        assert read(output)["host"] == HERE
    storage.write_bytes(sign(output), b"{}")
    with Lease(output):
        assert read(output)["host"] == HERE


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are asked for their state on Linux only")
def test_a_run_that_was_killed_and_not_waited_for_stops_nobody(output):
    with subprocess.Popen(["sleep", "60"]) as process:
        signed(output, host=HERE, pid=process.pid)
        with pytest.raises(ConfigError, match=f"process {process.pid}"), Lease(output):
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with Lease(output):
            assert read(output)["pid"] == os.getpid()


@pytest.mark.parametrize(("host", "ago"), [("elsewhere", 5), ("elsewhere", 600), ("elsewhere", -600), (HERE, 5)])
@pytest.mark.parametrize("alive", [True, False])
def test_the_sign_of_a_run_elsewhere_is_watched(output, monkeypatch, host, ago, alive):
    """Another machine, clocks that are apart, and another container with this one's host name."""
    monkeypatch.setattr(lease, "_STALE", 120.0 if alive or abs(ago) > 300 else 0.3)
    monkeypatch.setattr(lease, "_BEAT", 5.0 if alive else 0.1)
    monkeypatch.setattr(lease, "_LOOK", 0.01)
    run, notes = signed(output, host=host, ago=ago, here=False), []

    def heard(note: str) -> None:
        notes.append(note)
        if alive:
            signed(output, host=host, ago=ago - 30, here=False)

    held = Lease(output, note=heard)
    if alive:
        with pytest.raises(ConfigError, match=f"process 17 on {host}"), held:
            pass
    else:
        with held:
            assert read(output)["pid"] == os.getpid()
    assert run["started"] in notes[0]
    assert "whether it renews it" in notes[0]
    assert f"up to {lease._STALE if (host, ago) == ('elsewhere', 5) else 1.2 * lease._BEAT:.0f} s" in notes[0]


def test_the_sign_is_renewed_through_an_outage(output, monkeypatch):
    written, renewed, real = [], threading.Event(), storage.write_bytes

    def write(uri: str, data: bytes) -> None:
        real(uri, data)
        written.append(json.loads(data))
        if len(written) == 2:
            raise StorageUnavailable("the bucket is away")
        if len(written) == 3:
            renewed.set()

    monkeypatch.setattr(lease, "_BEAT", 0.001)
    monkeypatch.setattr(storage, "write_bytes", write)
    with Lease(output) as held:
        assert renewed.wait(60)
        held.check()
    first, _, third, *_ = written
    assert {name: third[name] for name in ("token", "started")} == {name: first[name] for name in ("token", "started")}


def test_a_run_that_was_taken_over_stops_and_leaves_the_sign(output, monkeypatch):
    monkeypatch.setattr(lease, "_BEAT", 0.001)
    with Lease(output) as held:
        held._ended.set()
        held._thread.join()  # no beat comes between
        run = signed(output)
        held._ended.clear()
        held._keep()
        with pytest.raises(ConfigError, match=r"this run stops.*process 17 on elsewhere"):
            held.check()
        assert read(output) == run
        storage.delete([sign(output)])  # the other one has ended
        with pytest.raises(ConfigError, match="this run stops"):
            held.confirm()
    assert not storage.exists(sign(output))


def test_a_sign_that_is_gone_was_written_over_and_taken_along(output, monkeypatch):
    with Lease(output) as held:
        for error, told in ((StorageUnavailable, pytest.raises(StorageUnavailable)), (InputNotFound, nullcontext())):
            with monkeypatch.context() as patched, told:
                for name in ("read_bytes", "exists"):
                    patched.setattr(storage, name, Mock(side_effect=error("away, or not to be read just now")))
                held.confirm()
            held.confirm()
        storage.delete([sign(output)])
        with pytest.raises(ConfigError, match=r"this run stops: another took .*run\.json is gone: that run has ended"):
            held.confirm()


def test_a_run_looks_whether_another_signed_at_once(output, monkeypatch):
    real = storage.write_bytes

    def write(uri: str, data: bytes) -> None:
        real(uri, data)
        monkeypatch.setattr(storage, "write_bytes", real)
        signed(output)

    monkeypatch.setattr(storage, "write_bytes", write)
    with pytest.raises(ConfigError, match="process 17 on elsewhere"), Lease(output):
        pass
    assert read(output)["token"] == "other"


def job_of(names: str, output: str, folder: Path) -> Job:
    """A job of clips with these letters as ids."""
    rows = [{"video": "v.mp4", "audio": "a.wav", "clip_id": name} for name in names]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, cluster = Recipe(model="tiny-random", detector="embedded"), Cluster(runner="local")
    return Job(manifest=folder / "pairs.jsonl", output=output, recipe=recipe, cluster=cluster, failure_budget=1.0)


def test_a_job_holds_a_lease(output, tmp_path, monkeypatch):
    job = job_of("a", output, tmp_path)
    seen = []

    def dub(pairs, job, **_):
        seen.append(read(output)["pid"])
        for pair in pairs:
            yield failed_record(pair, job.recipe, StorageUnavailable("away"))

    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    signed(output, host=HERE, pid=os.getppid())
    with pytest.raises(ConfigError, match="another run is at work"):
        driver.run(job)
    assert storage.find_files(output) == [sign(output)]
    signed(output, host=HERE, pid=dead())
    assert driver.run(job).failed == 1
    assert seen == [os.getpid()]
    assert storage.find_files(join(output, "_work")) == []


def test_a_run_that_was_taken_over_writes_no_more_rows(output, tmp_path, monkeypatch):
    job = job_of("ab", output, tmp_path)

    def dub(pairs, job, **_):
        for pair in pairs:
            record = ClipRecord.of(pair, status="ok", output="o")
            commit_pending(output, record)
            yield record
        signed(output)  # between two beats another run begins, and takes over what lies there
        Records(output)

    monkeypatch.setattr("latentsync_ray.local.one_pass", dub)
    monkeypatch.setattr(driver, "check_inputs", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="this run stops: another took"):
        driver.run(job)
    held = read_table(output, columns=["clip_id"])[0].values()
    assert sorted(clip_id for file in held for clip_id in file["clip_id"].to_pylist()) == ["a", "b"]


@pytest.mark.parametrize("at", ["_write", "_is_ours"])
def test_a_signal_in_its_middle_leaves_nothing(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, told = getattr(Lease, at), list[str]()

    def interrupted(self: Lease) -> Any:
        result = before(self)
        if not told:
            told.append(at)
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Lease, at, interrupted)
    with pytest.raises(KeyboardInterrupt), Lease(str(tmp_path)):
        pass
    assert told == [at]
    assert not (tmp_path / "_work" / "run.json").exists()
