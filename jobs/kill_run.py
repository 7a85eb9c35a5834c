"""Kills processes of a job on Ray, runs the job again, and holds what comes out against an undisturbed run. Prints a table.

    python jobs/kill_run.py                       # everything, about twenty minutes
    python jobs/kill_run.py driver raylet         # some of it

The cluster has two nodes on this machine, one of them with the model worker; a node that is killed is replaced. The job runs,
something is killed at a certain moment, and the job runs again. That has to leave the same bytes, one record per clip and no
other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import helpers_of_tests  # noqa: F401
import numpy as np
import torch
import typer
from bench import out
from disturbed_nodes import RECIPE, Disturbed, on_nodes, write_pairs
from processes import cpu_workers, descendants, kill_soon, model_workers
from ray.cluster_utils import Cluster as Nodes
from rich.table import Table
from toy import Toy, ToyInfo

from latentsync_ray import Job, read_records, run
from latentsync_ray.cli.ending import Ended, ending_in_time, leave

CLIPS = [f"c{number}" for number in range(6)]
KINDS = {
    "driver": "driver SIGKILL",
    "terminated": "driver SIGTERM",
    "cpu": "CPU worker",
    "model": "model worker",
    "raylet": "raylet of a node",
}
MOMENTS = (0, 1, 4, 7, 10)
"""Parts that have come by then. Each clip has two."""


class Slow(Toy):
    """Takes half a second for a part, so that there is something left to kill."""

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **asked: Any) -> torch.Tensor:
        """See ``models.Model``."""
        time.sleep(0.05)
        return super().generate(faces, speech, **asked)


class SlowInfo(ToyInfo):
    """The tests' model, but slower."""

    def load(self, **_: Any) -> Slow:
        """See ``models.ModelInfo``."""
        return Slow()


SLOW = SlowInfo()


@dataclass(frozen=True)
class Told:
    """What the driver is told."""

    manifest: str
    output: str
    address: str
    nodes: int
    """Process that started the nodes."""
    head: int
    """The head's raylet, which is spared."""
    what: str = ""
    after: int = 0


def victims(told: Told) -> list[int]:
    """Processes of which one is to be killed, now."""
    if told.what.startswith("driver"):
        return [os.getpid()]
    if told.what == "CPU worker":
        return cpu_workers(told.nodes)
    if told.what == "model worker":
        return model_workers(told.nodes)
    started = descendants(told.nodes)
    raylets = [pid for pid, name in started.items() if b"raylet/raylet" in name.partition(b"\0")[0] and pid != told.head]
    return [pid for pid in raylets if model_workers(pid)]


def kill(told: Told) -> None:
    """As soon as there is one, and say so before: it may be this process."""

    def say(pid: int) -> None:
        sys.stdout.write(f"killed {pid}\n")
        sys.stdout.flush()

    kill_soon(lambda: victims(told), told=signal.SIGTERM if told.what.endswith("SIGTERM") else signal.SIGKILL, say=say)


def drive(told: Told) -> int:
    """In a process of its own: the job."""
    recipe = RECIPE.model_copy(update={"model": "kill_run:SLOW"})
    job = Job(manifest=told.manifest, output=told.output, recipe=recipe, cluster=on_nodes(told.address))
    disturb: Callable[[], None] | None = (lambda: kill(told)) if told.what else None
    moment = {"in_the_middle": disturb, "after": told.after} if told.after else {"waiting": disturb}
    try:
        with ending_in_time():
            return run(job, progress=Disturbed(**moment)).exit_code  # pyright: ignore[reportArgumentType]
    except Ended as ended:
        leave(ended.exit_code)


def start(told: Told, complete: Callable[[], None]) -> tuple[int, bool, float]:
    """Run a driver: its exit code, whether something was killed, seconds. Meanwhile nodes that are gone are made up for."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--told", json.dumps(vars(told))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            complete()
            time.sleep(0.5)
        said, complained = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL, 128 + signal.SIGTERM):
        raise SystemExit(f"a driver ended with {process.returncode}:\n{complained[-3000:]}")
    return process.returncode, "killed" in said, time.monotonic() - began


def hashes(output: Path) -> dict[str, str]:
    """Clip -> SHA-256 of its file."""
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((output / "clips").glob("*.mp4"))}


def leftovers(output: Path) -> list[str]:
    """Files that are neither clips nor the table."""
    known = {*(output / "clips").glob("*.mp4"), *(output / "metadata").rglob("*.parquet")}
    return [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file() and path not in known]


@contextmanager
def two_nodes() -> Iterator[tuple[Nodes, Callable[[], None]]]:
    """A head and a node with a GPU that only Ray counts; and what makes up for one that is gone."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1}, shutdown_at_exit=False)

    def complete() -> None:
        for node in list(nodes.worker_nodes):
            if any(raylet.process.poll() is not None for raylet in node.all_processes["raylet"]):
                nodes.remove_node(node, allow_graceful=False)
        while not nodes.worker_nodes:
            nodes.add_node(num_cpus=1, num_gpus=1)

    try:
        complete()
        yield nodes, complete
    finally:
        nodes.shutdown()


def row(told: Told, complete: Callable[[], None], expected: dict[str, str]) -> tuple[bool, list[str]]:
    """Disturb a run, run again, and look: whether all is as it should be, and what to print."""
    output = Path(told.output)
    code, killed, seconds = start(told, complete)
    before = {path: path.stat().st_mtime_ns for path in (output / "clips").glob("*.mp4")}
    start(replace(told, what=""), complete)
    made = [path for path in (output / "clips").glob("*.mp4") if before.get(path) != path.stat().st_mtime_ns]
    same, left = hashes(output) == expected, leftovers(output)
    alone = sorted(read_records(output)["clip_id"].to_pylist()) == CLIPS
    ended = "not killed" if not killed else f"exit {code}" if code >= 0 else f"ended by {-code}"
    cells = [f"{ended}, {seconds:.0f} s", str(len(before)), str(len(made)), str(same), str(alone), ", ".join(left) or "nothing"]
    return killed and same and alone and not left, [
        told.what,
        f"after part {told.after}" if told.after else "before any",
        *cells,
    ]


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(KINDS)}; all by default")] = None,
    moments: Annotated[list[int], typer.Option("--moment", help="Parts that have come.")] = list(MOMENTS),  # noqa: B006
    told: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Kill, and look."""
    if told:
        raise typer.Exit(drive(Told(**json.loads(told))))
    columns = ("killed", "moment", "first run", "clips", "second run made", "same bytes", "one record each", "left over")
    table, rows = Table(*columns, title=f"{len(CLIPS)} clips of two parts each"), []
    with tempfile.TemporaryDirectory() as name, two_nodes() as (nodes, complete):
        folder = Path(name)
        assert nodes.head_node
        assert nodes.address
        head = nodes.head_node.all_processes["raylet"][0].process.pid
        plain = Told(str(write_pairs(folder, CLIPS)), str(folder / "plain"), nodes.address, os.getpid(), head)
        start(plain, complete)
        expected = hashes(folder / "plain")
        assert sorted(expected) == CLIPS
        for after in moments:
            for kind in kinds or KINDS:
                told_each = replace(plain, output=str(folder / f"{kind}-{after}"), what=KINDS[kind], after=after)
                rows.append(row(told_each, complete, expected))
                out.print(*rows[-1][1], sep=" | ", style="dim", highlight=False)
    for _, cells in sorted(rows, key=lambda each: list(KINDS.values()).index(each[1][0])):
        table.add_row(*cells)
    out.print(table)
    raise typer.Exit(not all(good for good, _ in rows))


if __name__ == "__main__":
    typer.run(main)
