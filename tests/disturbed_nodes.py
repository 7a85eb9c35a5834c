"""A job on several nodes in one machine that are disturbed while it runs, in a process of its own.

    python disturbed_nodes.py FOLDER node_killed|worker_killed|node_late|from_nothing

The manifest is FOLDER/pairs.jsonl. Prints, as JSON, the ids of the nodes that were there first, came late and were killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from processes import descendants, model_workers
from ray.cluster_utils import Cluster as Nodes

from latentsync_ray import Cluster, Job, Recipe, run
from latentsync_ray.progress import Silent

RECIPE = Recipe(model="toy:TOY", detector="embedded", segment_frames=48, preset="ultrafast")
_WAIT = 8.0
"""Seconds without any CPU or GPU but the driver's."""


def write_pairs(folder: Path, clip_ids: Sequence[str]) -> Path:
    """Pairs of two segments each; returns the manifest."""
    write_clip(folder / "v.mp4", portrait(96))
    write_speech(folder / "a.wav", speech_like(3.8))
    rows = [{"clip_id": clip_id, "video": "v.mp4", "audio": "a.wav"} for clip_id in clip_ids]
    manifest = folder / "pairs.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def on_nodes(address: str | None, *, fewest: int = 1) -> Cluster:
    """One or two model workers, each on a node with a GPU."""
    return Cluster(
        address=address,
        device="cpu",  # Ray counts GPUs that are not there
        generate_gpus=1,
        generate_workers=(fewest, 2),
        generate_cpus=0.25,
        no_progress_seconds=240,
    )


class Disturbed(Silent):
    """Does something once: when the job begins to wait for the first frames, or when the part number ``after`` has come."""

    def __init__(
        self, *, waiting: Callable[[], None] | None = None, in_the_middle: Callable[[], None] | None = None, after: int = 1
    ) -> None:
        self._waiting, self._in_the_middle, self._left = waiting, in_the_middle, after

    def phase(self, text: str) -> None:
        if text.startswith("waiting for the first frames") and self._waiting:
            self._waiting, todo = None, self._waiting
            todo()

    def frames(self, count: int) -> None:
        self._left -= 1
        if self._in_the_middle and self._left <= 0:
            self._in_the_middle, todo = None, self._in_the_middle
            todo()


def main(folder: Path, what: str) -> int:
    nothing = what == "from_nothing"
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0 if nothing else 1}, shutdown_at_exit=False)
    told: dict[str, list[str]] = {"first": [], "late": [], "killed": [], "pids": []}

    def add() -> None:
        told["late"].append(nodes.add_node(num_cpus=2, num_gpus=1).node_id)

    def add_later() -> None:
        threading.Timer(_WAIT, add).start()

    def kill_worker() -> None:
        for pid in model_workers()[:1]:
            os.kill(pid, signal.SIGKILL)
            told["pids"].append(str(pid))

    def kill_node() -> None:
        for node in list(nodes.worker_nodes):
            if any(model_workers(raylet.process.pid) for raylet in node.all_processes["raylet"]):
                below = [pid for raylet in node.all_processes["raylet"] for pid in descendants(raylet.process.pid)]
                told["killed"].append(node.node_id)
                nodes.remove_node(node, allow_graceful=False)
                for pid in below:  # a machine that is switched off takes its workers along at once
                    if Path(f"/proc/{pid}").exists():
                        os.kill(pid, signal.SIGKILL)
                return

    scenes: dict[str, tuple[int, Disturbed]] = {
        "node_killed": (2, Disturbed(in_the_middle=kill_node)),
        "worker_killed": (2, Disturbed(in_the_middle=kill_worker)),
        "node_late": (1, Disturbed(in_the_middle=add)),
        "from_nothing": (0, Disturbed(waiting=add_later)),
    }
    count, progress = scenes[what]
    try:
        for _ in range(count):
            told["first"].append(nodes.add_node(num_cpus=1, num_gpus=1).node_id)
        job = Job(
            manifest=folder / "pairs.jsonl",
            output=folder / what / "out",
            sink="three_nodes:TellingSink",
            recipe=RECIPE,
            cluster=on_nodes(nodes.address, fewest=0 if nothing else 1),
        )
        began = time.monotonic()
        summary = run(job, progress=progress)
        sys.stderr.write(f"{what}: {time.monotonic() - began:.1f} s, {summary}\n")
    finally:
        ray.shutdown()
        nodes.shutdown()
    sys.stdout.write(f"{json.dumps(told)}\n")
    return summary.exit_code


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
