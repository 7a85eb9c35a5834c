"""A command that is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from latentsync_ray.cli.ending import Ended, ending_in_time

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


def test_it_ends_in_time_whatever_keeps_it() -> None:
    with started(0.5, 60) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_it_ends_in_time_in_the_middle_of_c_code() -> None:
    """Python calls no handler there."""
    with started(0.5, 0, "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_in_time():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert issubclass(Ended, KeyboardInterrupt), "whatever tidies up after Ctrl-C does so here"
