"""What a window costs besides its arithmetic: dispatches, copies, and bytes between host and device. Prints a table.

    python jobs/count_work.py

Dispatches and bytes are counted on the full-size network without data, copies by PyTorch's profiler on a small one. "before" is
the form of the network that is trained (``unet.py``), one window at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import typer
from bench import out
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentsync_ray.models.latentsync.counting import empty_model
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.latentsync.specs import MODELS, WINDOW

STEPS = 20


class Dispatches(TorchDispatchMode):
    """Counts all that PyTorch is asked for, views too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.count += 1
        return function(*arguments, **(options or {}))


class Moves(TorchDispatchMode):
    """Adds up the bytes that go from the host to the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        if any(isinstance(each, torch.Tensor) and each.device.type == "meta" for each in tree_leaves(made)):
            given = [each for each in tree_leaves((arguments, options)) if isinstance(each, torch.Tensor)]
            self.bytes += sum(each.nbytes for each in given if each.device.type == "cpu" and each.ndim)
        return made


def call(model: LatentSync, windows: int, *, steps: int = STEPS, guidance: float = 1.0) -> torch.Tensor:
    """New faces of distinct pictures, float32 (windows, 16, R, R, 3)."""
    side = model.resolution
    faces = np.random.default_rng(0).integers(0, 256, (windows, WINDOW, side, side, 3), np.uint8)
    return model.generate(faces, model.silence(windows), steps=steps, guidance_scale=guidance, seed=1)


def dispatches(model: LatentSync, windows: int) -> tuple[float, int]:
    """Of the network, for one window and all steps: today, and in the other form."""
    side = model.resolution // model.codec.stride
    speech = model.silence(windows)
    latents, conditions = (torch.empty(windows, channels, WINDOW, side, side, device="meta") for channels in (4, 9))
    with torch.inference_mode():
        with Dispatches() as before:
            model.unet(torch.cat([latents[:1], conditions[:1]], dim=1), 0, speech[:1])
        with Dispatches() as now:
            question = model.sampler.about(conditions, speech, timesteps=torch.zeros(STEPS), guided=False)
            for step in range(STEPS):
                question(latents, step)
    return now.count / windows, STEPS * before.count


def copies(model: LatentSync) -> int:
    """``aten::copy_`` in one forward of the network, as the profiler counts."""
    side = model.resolution // model.codec.stride
    latents, conditions = (torch.zeros(1, channels, WINDOW, side, side) for channels in (4, 9))
    with torch.inference_mode():
        question = model.sampler.about(conditions, model.silence(1), timesteps=torch.zeros(1), guided=False)
        question(latents, 0)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            question(latents, 0)
    return sum(event.count for event in seen.key_averages() if event.key == "aten::copy_")


def main() -> None:
    """Count, and print."""
    table, full = Table("what", "before", "now"), empty_model(MODELS["latentsync-1.5"])
    for windows in (1, 4):
        now, before = dispatches(full, windows)
        table.add_row(f"dispatches for a window of {STEPS} steps, {windows} in a call", f"{before:,}", f"{now:,.0f}")
    table.add_row("copies in a forward", "", str(copies(load_model("tiny-random", device="cpu", dtype="float32"))))
    call(full, 1)  # what is kept from call to call
    with Moves() as moves:
        call(full, 1)
    pixels = full.resolution**2 * 3
    table.add_row("bytes of a frame to the device, over its pixels", "", f"{moves.bytes / WINDOW / pixels:.4f}")
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
