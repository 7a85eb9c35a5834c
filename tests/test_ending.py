"""A command that is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import ray
from ray._private import utils as ray_utils

from latentsync_ray import Cluster
from latentsync_ray.cli.ending import Ended, ending_in_time
from latentsync_ray.pipeline import connect

SCRIPT = """
import sys, time
from latentsync_ray.cli import ending

ending.GRACE_SECONDS = float(sys.argv[1])
try:
    with ending.ending_in_time():
        print("ready", flush=True)
        exec(sys.argv[3])
except ending.Ended as ended:
    print(ended, flush=True)
    time.sleep(float(sys.argv[2]))  # storage that hangs, a thread that does not end
    sys.exit(ended.exit_code)
"""


def started(grace: float, afterwards: float, work: str = "time.sleep(60)") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(grace), str(afterwards), work]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_what_runs(told: signal.Signals) -> None:
    with started(60, 0) as process:
        process.send_signal(told)
        assert process.communicate(timeout=30)[0] == f"{told.name}\n"
    assert process.returncode == 128 + told


def test_the_second_one_ends_it_at_once() -> None:
    with started(60, 60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "SIGTERM\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    with started(60, 2) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(30) == 143
        assert time.monotonic() - began > 1, "it was left its time"


def test_it_ends_in_time_whatever_keeps_it() -> None:
    with started(0.5, 60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_it_ends_in_time_in_the_middle_of_c_code() -> None:
    """Python calls no handler there."""
    with started(0.5, 0, "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


@pytest.mark.parametrize("does", ["sys.exit(number)", "None"])
def test_a_signal_that_another_handler_took_tells_the_exit_code(does: str) -> None:
    work = f"import signal; signal.signal(signal.SIGTERM, lambda number, frame: {does}); signal.raise_signal(signal.SIGTERM)"
    with started(60, 0, work) as process:
        assert process.stdout is not None
        assert process.stdout.read() == ("" if does == "None" else "SIGTERM\n")
    assert process.returncode == 143


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_in_time():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert issubclass(Ended, KeyboardInterrupt), "whatever tidies up after Ctrl-C does so here"


def test_a_handler_of_sigterm_stays_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []

    def init(**_: object) -> None:
        ray_utils.set_sigterm_handler(pytest.fail)
        found.append(signal.getsignal(signal.SIGTERM))

    def ours(number: int, frame: object) -> None: ...

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        connect(Cluster())
        monkeypatch.delattr(ray_utils, "set_sigterm_handler")  # another version of Ray
        monkeypatch.setattr(ray, "init", lambda **_: None)
        connect(Cluster())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [ours]
