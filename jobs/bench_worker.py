"""How busy a model worker keeps its device: a pretended one that sleeps, on Ray and in one process.

    python jobs/bench_worker.py

A job of several clips runs with a model whose every call takes ``--milliseconds``; the busy share is the time inside such calls
from the first to the last. What the worker does between two calls is printed beside it: with all else that a clip needs, it has
to fit beside the device's time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from latentsync_ray import Cluster, Job, Recipe, assets, run
from latentsync_ray.models.find import find_model

LOG, CALL = "BENCH_WORKER_LOG", "BENCH_WORKER_SECONDS"
"""Environment of the workers: the file that calls are noted in, and how long each takes."""
out = Console()


class SleeperInfo:
    """``nano``'s template and window, and no network."""

    name = "sleeper"

    def __getattr__(self, name: str) -> Any:
        return getattr(find_model("nano"), name)

    def load(self, **_: Any) -> Sleeper:
        """See ``models.ModelInfo``."""
        return Sleeper()


class Sleeper:
    """Gives back what it sees after a while, and notes when it was busy."""

    info, device, checkpoint, precision = SleeperInfo(), torch.device("cpu"), "0" * 64, "cpu float32"

    def listen(self, speech: np.ndarray, span: Any) -> torch.Tensor:
        """See ``models.Model``."""
        return torch.zeros(span.stop - span.start, 1)

    def silence(self, windows: int) -> torch.Tensor:
        """See ``models.Model``."""
        return torch.zeros(windows, self.info.window, 1)

    def generate(self, faces: np.ndarray, speech: torch.Tensor, **_: Any) -> torch.Tensor:
        """See ``models.Model``."""
        began = time.time()
        time.sleep(float(os.environ[CALL]))
        drawn = torch.from_numpy(faces / np.float32(127.5) - 1)
        with Path(os.environ[LOG]).open("a") as log:
            log.write(json.dumps([began, time.time()]) + "\n")
        return drawn


SLEEPER = SleeperInfo()


def measure(folder: Path, runner: str, *, clips: int, seconds: float, micro_batch: int) -> tuple[float, float, int]:
    """Busy share, milliseconds between calls (median), and calls."""
    log = folder / "calls"
    log.unlink(missing_ok=True)
    os.environ |= {LOG: str(log), CALL: str(seconds)}
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
    gaps = calls[1:, 0] - calls[:-1, 1]
    return float((calls[:, 1] - calls[:, 0]).sum() / (calls[-1, 1] - calls[0, 0])), float(np.median(gaps) * 1e3), len(calls)


def main(
    clips: int = 6,
    milliseconds: Annotated[list[float], typer.Option(help="Of a call of the model.")] = [500.0, 250.0],  # noqa: B006
    micro_batch: Annotated[list[int], typer.Option()] = [1, 4],  # noqa: B006
) -> None:
    """Measure every combination of the settings."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    table = Table("runner", "micro_batch", "call, ms", "calls", "busy", "between calls, ms")
    with tempfile.TemporaryDirectory() as name:
        for runner in ("ray", "local"):
            for size in micro_batch:
                for each in milliseconds:
                    share, gap, calls = measure(Path(name), runner, clips=clips, seconds=each / 1e3, micro_batch=size)
                    table.add_row(runner, str(size), f"{each:g}", str(calls), f"{share:.1%}", f"{gap:.1f}")
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
