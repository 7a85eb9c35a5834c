"""How work flows through Ray, with a pretended model that sleeps: prints a table for each question.

    python jobs/bench_flow.py ratio     # 32 short clips on Ray, which is up, against one process
    python jobs/bench_flow.py workers   # 1, 2, 4 and 8 model workers, each with as much to do
    python jobs/bench_flow.py store     # object store when the model is ten times slower than the crop stage; is it spilled?
    python jobs/bench_flow.py long      # a long clip, begun first or last, beside short ones
    python jobs/bench_flow.py           # all of these

Sleeping takes no CPU, so a few cores feed many workers; but they have to be idle otherwise.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import bench_worker
import helpers_of_tests  # noqa: F401
import numpy as np
import ray
import typer
from bench import make_clip, out
from bench_scale import write_inputs
from ray._private import internal_api
from ray._private.state import state
from rich.table import Table

from latentsync_ray import Cluster, Job, Recipe, read_records, run
from latentsync_ray.pipeline import connect
from latentsync_ray.progress import Silent
from latentsync_ray.types import ClipRecord

SLEEPER = "bench_worker:SLEEPER"
LONG = 1
"""The seed of the long clip: this is how the model knows it."""


@dataclass
class Heard(Silent):
    """When each clip was finished: id -> seconds since 1970."""

    clips: dict[str, float] = field(default_factory=dict)

    def clip(self, record: ClipRecord) -> None:
        if record.error_code:
            raise SystemExit(f"clip {record.clip_id} failed with {record.error_code}: {record.error}")
        self.clips[record.clip_id] = time.time()


@dataclass
class Store:
    """Bytes of Ray's object store."""

    peak: int = 0
    spilled: int = 0
    capacity: int = 0


@contextmanager
def watched_store() -> Iterator[Store]:
    """Looks ten times a second."""
    store, ended = Store(), threading.Event()

    def look() -> None:
        before = internal_api.get_memory_info_reply(state).store_stats.spilled_bytes_total
        while not ended.wait(0.1):
            stats = internal_api.get_memory_info_reply(state).store_stats
            store.peak = max(store.peak, stats.object_store_bytes_used)
            store.spilled, store.capacity = stats.spilled_bytes_total - before, stats.object_store_bytes_avail

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield store
    finally:
        ended.set()
        thread.join()


class Bench:
    """A folder with inputs, and jobs on them."""

    def __init__(self, folder: Path, share: float) -> None:
        self.folder, self.share, self._number = folder, share, 0
        os.environ[bench_worker.FOLDER] = str(folder)

    def some(self, count: int) -> int:
        """The share of so many that this machine has time for."""
        return max(1, round(self.share * count))

    def job(self, rows: list[str], model: str, *, cluster: Cluster, segment_frames: int = 48) -> Job:
        """With a new output. A row is ``clip_id,video,audio,seed``."""
        self._number += 1
        manifest = self.folder / f"{self._number}.csv"
        manifest.write_text("\n".join(["clip_id,video,audio,seed", *rows]) + "\n")
        return Job(
            manifest=manifest,
            output=self.folder / f"out-{self._number}",
            recipe=Recipe(model=model, steps=4, detector="embedded", preset="ultrafast", segment_frames=segment_frames),
            cluster=cluster,
        )

    def run(self, job: Job, seconds: float = 0.0) -> tuple[Heard, np.ndarray]:
        """Calls of the model take so long. When clips were finished, and the calls: begin, end, process, seed."""
        (self.folder / "calls").unlink(missing_ok=True)
        (self.folder / "seconds").write_text(str(seconds))
        progress = Heard()
        run(job, progress=progress)
        log = self.folder / "calls"
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return progress, np.array(sorted(calls)).reshape(-1, 4)

    def tiny(self, clips: int, seed: int = 2) -> list[str]:
        """Rows of clips of one call each."""
        manifest = write_inputs(self.folder, clips)
        return [f"{row},{seed}" for row in manifest.read_text().splitlines()[1:]]


def on_ray(**settings: Any) -> Cluster:
    """Ray on this machine; model workers take hardly a CPU, as they only sleep."""
    return Cluster(device="cpu", **{"generate_cpus": 0.05, "no_progress_seconds": 600, **settings})


def ratio(bench: Bench, clips: int = 32, rounds: int = 3) -> None:
    """Short clips on Ray against one process, in turns."""
    rounds = bench.some(rounds)
    table = Table(
        "clips", "model", "one process, s", "Ray, s", "ratio", title=f"{clips} short clips, Ray is up (medians of {rounds})"
    )
    video, audio = make_clip(bench.folder, 1)
    second = [f"{number},{video},{audio},2" for number in range(clips)]
    kinds = (
        ("5 frames, 128 px", "paints", "toy:TOY", bench.tiny(clips)),
        ("25 frames, 384 px", "sleeps 1 s a clip", SLEEPER, second),
    )
    for what, how, model, rows in kinds:
        seconds: dict[str, list[float]] = {"local": [], "ray": []}
        for _ in range(rounds):
            for runner, each in seconds.items():
                cluster = on_ray(generate_cpus=0.5) if runner == "ray" else Cluster(runner="local", device="cpu")
                began = time.monotonic()
                bench.run(bench.job(rows, model, cluster=cluster), 0.5)  # 25 frames are two calls
                each.append(time.monotonic() - began)
        local, other = median(seconds["local"]), median(seconds["ray"])
        table.add_row(what, how, f"{local:.1f}", f"{other:.1f}", f"{other / local:.2f}")
    out.print(table)


def workers(bench: Bench, seconds: float = 2.5, each: int = 12, counts: tuple[int, ...] = (1, 2, 4, 8)) -> None:
    """As many clips for each worker, however many there are."""
    each = bench.some(each)
    title = f"{each} clips of one call of {seconds} s for each model worker"
    table = Table("workers", "clips", "seconds", "efficiency", "once all work", "calls of a worker", title=title)
    for count in counts:
        cluster = on_ray(generate_workers=(count, count))
        _, calls = bench.run(bench.job(bench.tiny(count * each), SLEEPER, cluster=cluster), seconds)
        mine = [calls[calls[:, 2] == pid] for pid in np.unique(calls[:, 2])]
        spent = calls[:, 1].max() - calls[:, 0].min()
        since, until = max(own[0, 0] for own in mine), min(own[-1, 1] for own in mine)
        between = sum((np.minimum(own[:, 1], until) - np.maximum(own[:, 0], since)).clip(0).sum() for own in mine)
        shares = sorted(map(len, mine))
        table.add_row(
            f"{len(mine)} of {count}",
            str(len(calls)),
            f"{spent:.1f}",
            f"{(calls[:, 1] - calls[:, 0]).sum() / spent / count:.1%}",
            f"{between / (until - since) / len(mine):.1%}" if until > since else "-",
            f"{shares[0]} to {shares[-1]}",
        )
    out.print(table)


def store(bench: Bench, clips: int = 120, slower: float = 10.0) -> None:
    """Crops of 256 px pile up before a slow model, or are made as it takes them."""
    clips = bench.some(clips)
    video, audio = make_clip(bench.folder, 2)
    rows, model = [f"{number},{video},{audio},2" for number in range(clips)], "bench_worker:LARGE_SLEEPER"
    table = Table("", "", title=f"object store, the model {slower:g} times slower than the crop stage")
    first = bench.job(rows[:12], model, cluster=on_ray())
    _, calls = bench.run(first)
    crop = sum(read_records(first.output)["crop_seconds"].to_pylist()) / len(calls)
    with watched_store() as seen:
        _, calls = bench.run(bench.job(rows, model, cluster=on_ray()), slower * crop)
    row = 50 * 256 * 256 * 3
    for name, value in {
        "crop, s a call": f"{crop:.3f}",
        "model, s a call": f"{slower * crop:.3f}",
        "faces of all segments": f"{clips * row / 1e6:.0f} MB, of one {row / 1e6:.1f} MB",
        "object store": f"{seen.capacity / 1e6:.0f} MB",
        "most that was in it": f"{seen.peak / 1e6:.0f} MB, as much as {seen.peak / row:.0f} segments",
        "spilled": f"{seen.spilled / 1e6:.0f} MB",
        "model busy": f"{(calls[:, 1] - calls[:, 0]).sum() / (calls[-1, 1] - calls[0, 0]):.1%}",
    }.items():
        table.add_row(name, value)
    out.print(table)


def long(bench: Bench, segments: int = 100, shorts: int = 100, seconds: float = 1.2, count: int = 4) -> None:
    """A clip of many segments beside clips of one, on some workers."""
    segments, shorts = bench.some(segments), bench.some(shorts)
    video, audio = make_clip(bench.folder, round(48 / 25 * segments))
    short = [f"{row[:-1]}2" for row in bench.tiny(shorts)]
    cluster = on_ray(generate_workers=(count, count))
    table = Table("long clip", "of the time", "calls for the long clip", "for short ones", "short clips finished")
    totals = []
    for place in ("first", "last"):
        row = [f"long,{video},{audio},{LONG}"]
        rows = row + short if place == "first" else short + row
        with watched_store() as seen:
            heard, calls = bench.run(bench.job(rows, SLEEPER, cluster=cluster), seconds / 3)
        began, spent = calls[0, 0], max(heard.clips.values()) - calls[0, 0]
        of_long = calls[calls[:, 3] == LONG]
        for tenth in range(10):
            since, until = (began + spent * share / 10 for share in (tenth, tenth + 1))
            now = calls[(calls[:, 1] > since) & (calls[:, 1] <= until)]
            finished = [when for clip_id, when in heard.clips.items() if clip_id != "long" and since < when <= until]
            mine = int((now[:, 3] == LONG).sum())
            table.add_row(
                place if not tenth else "", f"{10 * tenth + 10} %", str(mine), str(len(now) - mine), str(len(finished))
            )
        table.add_section()
        processes = np.unique(of_long[:, 2], return_counts=True)[1]
        busy = (calls[:, 1] - calls[:, 0]).sum()
        totals.append(
            f"long clip {place}: {spent:.0f} s, ideal {busy / count:.0f} s ({busy / count / spent:.0%}); it was finished after "
            f"{heard.clips['long'] - began:.0f} s, by {len(processes)} of {count} workers ({processes.min()} to "
            f"{processes.max()} calls each); object store {seen.peak / 1e6:.0f} MB at most, {seen.spilled / 1e6:.0f} MB spilled"
        )
    out.print(table, *totals, sep="\n")


QUESTIONS: dict[str, Callable[[Bench], None]] = {"ratio": ratio, "workers": workers, "store": store, "long": long}


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(QUESTIONS)}; all by default")] = None,
    store_gb: Annotated[float, typer.Option(help="Ray's object store.")] = 0.5,
    share: Annotated[float, typer.Option(help="Of the clips, where time is short.")] = 1.0,
) -> None:
    """Answer the questions."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), share)
        connect(on_ray(object_store_gb=store_gb))
        try:
            for part in parts or QUESTIONS:
                QUESTIONS[part](bench)
        finally:
            ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
