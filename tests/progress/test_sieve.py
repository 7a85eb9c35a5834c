"""Standard error as a run on Ray has it: what is dropped, what comes out, and what a crash leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest

RAY = (
    "[2026-11-26 11:57:17,277 E 5017 5017] core_worker.cc:2465: Actor with class name: 'MapWorker(Map(_GenerateWorker))' has "
    "constructor arguments in the object store and max_restarts > 0."
)
FATAL = RAY.replace(" E ", " C ")
SCRIPT = """
import os, subprocess, sys
from latentsync_ray.progress import sieve
from latentsync_ray.progress.sieve import without_ray_lines

def native(text):
    os.write(2, text.encode() + b"\\n")

before = sys.stderr
with without_ray_lines():
    held = sys.stderr
    {inside}
assert sys.stderr is before
{after}
native("after")
print("after, held", file=held)
"""


def stderr(inside: str, after: str = "") -> list[str]:
    """What the process that does ``inside`` in the sieve and ``after`` behind it writes on standard error: lines, sorted."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(inside=inside, after=after)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return sorted(ended.stderr.splitlines())


def test_only_lines_of_rays_core_are_dropped() -> None:
    inside = f"native({RAY!r}); native('native'); print('python', file=sys.stderr); native({FATAL!r})"
    assert stderr(inside) == sorted(["native", "python", FATAL, "after", "after, held"])


def test_colours_do_not_hide_a_line() -> None:
    assert stderr(f"native('\\x1b[1m\\x1b[31m' + {RAY!r})") == ["after", "after, held"]


def test_what_a_crash_writes_last_comes_out() -> None:
    assert stderr(f"native({RAY!r}); native('free(): invalid pointer'); os.abort()") == ["free(): invalid pointer"]


def test_an_error_inside_is_raised() -> None:
    assert stderr(f"native({RAY!r}); raise ValueError('why')")[-1] == "ValueError: why"


def test_a_child_that_lives_on_is_not_waited_for() -> None:
    inside = "sieve._PATIENCE = 0.01; child = subprocess.Popen(['sleep', '1'], stdout=subprocess.DEVNULL)"
    assert stderr(inside, "native(f'ended: {child.poll()}')") == ["after", "after, held", "ended: None"]


@pytest.mark.parametrize("closed", ["sys.stderr = None", "import io; sys.stderr = io.StringIO()"])
def test_another_stderr_is_left_alone(closed: str) -> None:
    code = f"import os, sys\nfrom latentsync_ray.progress.sieve import without_ray_lines\n{closed}\nshown = sys.stderr\n"
    code += f"with without_ray_lines():\n    assert sys.stderr is shown\n    os.write(2, {RAY.encode()!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == RAY
