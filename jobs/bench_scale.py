"""Many tiny clips: clips per second, and whether the driver's memory and the output's files stay few. Prints a table.

    python jobs/bench_scale.py                                   # 20,000 clips in one process, then on Ray
    python jobs/bench_scale.py --clips 2000 --runner ray

A clip has five frames of 128 px, and the model is one of the tests', which only paints: what is left is what the package, PyAV
and Ray take for a clip. Each run is a process of its own. CPU times say more than clips per second where others work, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import helpers_of_tests  # noqa: F401
import typer
from bench import out
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from processes import descendants
from rich.table import Table

from latentsync_ray import Cluster, Job, Recipe, read_records, run
from latentsync_ray.progress import Silent
from latentsync_ray.types import ClipRecord

VIDEOS, SPEECHES, SIDE, FRAMES = range(4, 44), 25, 128, 5
"""First frames of the videos, how many speeches there are, and the size of a clip."""
ROWS = 20
"""Lines of the table of memory."""
TICKS = os.sysconf("SC_CLK_TCK")


def write_inputs(folder: Path, clips: int) -> Path:
    """Forty videos and 25 speeches, and a manifest whose rows share them under different ids."""
    frames = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in portrait(VIDEOS.stop + FRAMES)]
    for first in VIDEOS:
        write_clip(folder / f"{first}.mp4", frames[first : first + FRAMES], options={"crf": "12"})
    for number in range(SPEECHES):
        write_speech(folder / f"{number}.wav", speech_like(FRAMES / 25 - number / 4000))
    rows = [
        f"c{number:06d},{VIDEOS[number % len(VIDEOS)]}.mp4,{number // len(VIDEOS) % SPEECHES}.wav" for number in range(clips)
    ]
    manifest = folder / "pairs.csv"
    manifest.write_text("\n".join(["clip_id,video,audio", *rows]) + "\n")
    return manifest


def memory() -> float:
    """MB that this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3


@dataclass
class Counting(Silent):
    """Notes the time and the memory at the first clip and every so many."""

    every: int
    seen: int = 0
    notes: list[tuple[int, float, float]] = field(default_factory=list)
    """Clips, seconds since 1970, MB."""

    def clip(self, record: ClipRecord) -> None:
        if record.error_code:
            raise SystemExit(f"clip {record.clip_id} failed with {record.error_code}: {record.error}")
        if self.seen % self.every == 0:
            self.note("")
        self.seen += 1

    def note(self, text: str) -> None:
        if text:
            sys.stderr.write(text + "\n")
        self.notes.append((self.seen, time.time(), memory()))


def child(folder: Path, runner: str, every: int) -> None:
    """In a process of its own: the job. Prints what was noted."""
    began, progress = time.time(), Counting(every)
    job = Job(
        manifest=folder / "pairs.csv",
        output=folder / runner,
        recipe=Recipe(model="toy:TOY", detector="embedded", preset="ultrafast"),
        cluster=Cluster(runner=runner, device="cpu"),  # pyright: ignore[reportArgumentType]
    )
    summary = run(job, progress=progress)
    progress.note("")
    spent = os.times()
    told = {"began": began, "ok": summary.ok, "notes": progress.notes, "driver": spent.user + spent.system}
    sys.stdout.write(json.dumps(told) + "\n")


def cpu_seconds(pid: int) -> float | None:
    """What a process has used so far; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(folder: Path, runner: str, clips: int) -> dict[str, Any]:
    """Run ``child`` and see what all its processes use meanwhile."""
    command = [sys.executable, __file__, "--child", str(folder), "--runner", runner, "--clips", str(clips)]
    used: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for pid in descendants(process.pid):
                used[pid] = cpu_seconds(pid) or used.get(pid, 0.0)
            time.sleep(1)
        assert process.stdout
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"the run on {runner} ended with {process.returncode}")
    return {**json.loads(lines[-1]), "others": sum(used.values())}


def check(folder: Path, runner: str, clips: int) -> str:
    """See that every clip is there once and nothing else; says what files there are."""
    output = folder / runner
    ids = read_records(output, columns=["clip_id"])["clip_id"].to_pylist()
    files = {path.stem for path in (output / "clips").iterdir()}
    assert len(ids) == len(files) == clips
    assert set(ids) == files
    assert not [path for path in (output / "_work").rglob("*") if path.is_file()]
    tables = [path.stat().st_size for path in (output / "metadata").iterdir()]
    return f"{len(tables)} in metadata/ ({sum(tables) / 1e6:.1f} MB)"


def main(
    clips: int = 20_000,
    runners: Annotated[list[str], typer.Option("--runner")] = ["local", "ray"],  # noqa: B006
    of_child: Annotated[str, typer.Option("--child", hidden=True)] = "",
) -> None:
    """Run the benchmark."""
    every = max(1, clips // ROWS)
    if of_child:
        child(Path(of_child), runners[0], every)
        return
    speed = Table(
        "runner", "clips", "seconds", "clips / s", "CPU ms a clip: driver", "others", "files", title="many tiny clips"
    )
    held = Table("clips", *(f"{runner}: seconds, MB" for runner in runners), title="the driver over time")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, clips)
        found = {runner: measure(folder, runner, clips) for runner in runners}
        for runner, told in found.items():
            seconds = told["notes"][-1][1] - told["began"]
            cells = [f"{seconds:.0f}", f"{clips / seconds:.1f}", f"{1e3 * told['driver'] / clips:.1f}"]
            speed.add_row(runner, str(clips), *cells, f"{1e3 * told['others'] / clips:.1f}", check(folder, runner, clips))
        for lines in zip(*(told["notes"] for told in found.values()), strict=True):
            cells = [f"{line[1] - told['began']:.0f}, {line[2]:.0f}" for line, told in zip(lines, found.values(), strict=True)]
            held.add_row(str(lines[0][0]), *cells)
    out.print(speed, held)


if __name__ == "__main__":
    typer.run(main)
