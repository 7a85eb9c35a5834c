"""How busy a model worker keeps its device: a pretended one that sleeps, on Ray and in one process.

    python jobs/bench_worker.py

A job of several clips runs first with a model whose calls take no time: that gives the host's work for a call, all stages
together. Then each call sleeps ``--ratio`` times as long; the busy share is the time inside calls from the first to the last.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from latentsync_ray import Cluster, Job, Recipe, assets, read_records, run
from latentsync_ray.models.find import find_model
from latentsync_ray.stages.table import TIMED

FOLDER = "BENCH_WORKER_FOLDER"
"""Environment of the workers: where "seconds" says how long a call takes, and calls are noted in "calls"."""
out = Console()


class SleeperInfo:
    """Another model's template and window, and no network."""

    name = "sleeper"

    def __init__(self, other: str) -> None:
        self._other = other

    def __getattr__(self, name: str) -> Any:
        return getattr(find_model(self._other), name)

    def fetch(self, **_: Any) -> None:
        """See ``models.ModelInfo``: it needs no files."""

    def load(self, **_: Any) -> Sleeper:
        """See ``models.ModelInfo``."""
        return Sleeper(self)


class Sleeper:
    """Gives back what it sees after a while, and notes when it was busy."""

    device, checkpoint, precision = torch.device("cpu"), "0" * 64, "cpu float32"

    def __init__(self, info: SleeperInfo) -> None:
        self.info = info

    def listen(self, speech: np.ndarray, span: Any) -> torch.Tensor:
        """See ``models.Model``."""
        return torch.zeros(span.stop - span.start, 1)

    def compile(self) -> None:
        """See ``models.Model``."""

    def silence(self, windows: int) -> torch.Tensor:
        """See ``models.Model``."""
        return torch.zeros(windows, self.info.window, 1)

    def generate(self, faces: np.ndarray, speech: torch.Tensor, *, seed: int, **_: Any) -> torch.Tensor:
        """See ``models.Model``."""
        began, folder = time.time(), Path(os.environ[FOLDER])
        time.sleep(float((folder / "seconds").read_text()))
        drawn = torch.from_numpy(faces / np.float32(127.5) - 1)
        with (folder / "calls").open("a") as log:
            log.write(json.dumps([began, time.time(), os.getpid(), seed]) + "\n")
        return drawn


SLEEPER, LARGE_SLEEPER = SleeperInfo("nano"), SleeperInfo("latentsync-1.5")


@dataclass(frozen=True, slots=True)
class Measured:
    """One job."""

    busy: float
    """Share of the time from the first call to the last one's end."""
    between: float
    """Seconds between two calls, median."""
    calls: int
    host: float
    """Seconds that all stages but the model worked for a call."""


def measure(folder: Path, runner: str, *, clips: int, seconds: float, micro_batch: int) -> Measured:
    """Run a job whose calls take so long."""
    log = folder / "calls"
    log.unlink(missing_ok=True)
    (folder / "seconds").write_text(str(seconds))
    os.environ[FOLDER] = str(folder)  # a process of Ray keeps the environment that it began with
    manifest = folder / "pairs.csv"
    rows = [f"{number},{assets.demo_video()},{assets.demo_audio()}" for number in range(clips)]
    manifest.write_text("\n".join(["clip_id,video,audio", *rows]) + "\n")
    job = Job(
        manifest=manifest,
        output=folder / f"{runner}-{seconds}-{micro_batch}",
        recipe=Recipe(model="bench_worker:SLEEPER", micro_batch=micro_batch, preset="ultrafast", segment_frames=48),
        cluster=Cluster(runner=runner),  # pyright: ignore[reportArgumentType]
    )
    summary = run(job)
    assert summary.ok == clips
    calls = np.array(sorted(json.loads(line) for line in log.read_text().splitlines()))
    records = read_records(job.output)
    worked = sum(sum(records[f"{stage}_seconds"].to_pylist()) for stage in TIMED if stage != "generate")
    return Measured(
        busy=float((calls[:, 1] - calls[:, 0]).sum() / (calls[-1, 1] - calls[0, 0])),
        between=float(np.median(calls[1:, 0] - calls[:-1, 1])),
        calls=len(calls),
        host=worked / len(calls),
    )


def main(
    clips: int = 6,
    runners: Annotated[list[str], typer.Option("--runner")] = ["ray", "local"],  # noqa: B006
    ratio: Annotated[list[float], typer.Option(help="A call of the model over the host's work for it.")] = [10.0, 2.0],  # noqa: B006
    micro_batch: Annotated[list[int], typer.Option()] = [1, 4],  # noqa: B006
) -> None:
    """Measure every combination of the settings."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    table = Table("runner", "micro_batch", "host, ms a call", "model, ms a call", "calls", "busy", "between calls, ms")
    with tempfile.TemporaryDirectory() as name:
        for runner in runners:
            for size in micro_batch:
                host = measure(Path(name), runner, clips=clips, seconds=0, micro_batch=size).host
                for each in ratio:
                    found = measure(Path(name), runner, clips=clips, seconds=each * host, micro_batch=size)
                    cells = f"{1e3 * host:.0f}", f"{1e3 * each * host:.0f}", str(found.calls), f"{found.busy:.1%}"
                    table.add_row(runner, str(size), *cells, f"{1e3 * found.between:.1f}")
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
