"""What a card makes of the model: frames per second, share of the card's peak and memory, by setting. Prints Markdown.

    python jobs/bench_gpu.py                                   # both full-size models, about ten minutes on a large card
    python jobs/bench_gpu.py --model latentsync-1.5 --micro-batch 4 --cache 3
    python jobs/bench_gpu.py --model tiny-random --steps 2     # a try, on any machine

Weights are random, which costs the same arithmetic, and nothing is downloaded. Only the model is measured: Whisper, video and
sound are left out. "foreseen" is the memory that ``micro_batch: auto`` reckons with.
"""

from __future__ import annotations

import itertools
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench import out, random_model

from latentsync_ray.cards import peak_of
from latentsync_ray.errors import OutOfMemory
from latentsync_ray.levels import to_uint8
from latentsync_ray.models.devices import card_of, device_named, dtype_named
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.latentsync.specs import MODELS, WINDOW
from latentsync_ray.types import Device

HEAD = (
    "| model | compile | guidance | cache_interval | micro_batch | frames/s | of the peak | TFLOP a frame | memory | foreseen |"
)


def measure(model: LatentSync, *, steps: int, guidance: float, cache: int, batch: int, seconds: float) -> tuple[float, int]:
    """Frames per second, and the bytes that were held at most on the device."""
    side, random = model.resolution, np.random.default_rng(0)
    faces = random.integers(0, 256, (batch, WINDOW, side, side, 3), np.uint8)
    speech = torch.randn(model.silence(batch).shape, generator=torch.Generator().manual_seed(0)).to(model.device)

    def generate() -> None:
        to_uint8(model.generate(faces, speech, steps=steps, guidance_scale=guidance, seed=1, cache_interval=cache)).cpu()

    on_card = model.device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    generate()  # warm: algorithms are chosen, memory is reserved
    began, windows = time.perf_counter(), 0
    while windows < 2 * batch or time.perf_counter() - began < seconds:
        generate()  # its result is on the host, so the device has finished
        windows += batch
    spent = time.perf_counter() - began
    return windows * WINDOW / spent, torch.cuda.max_memory_allocated() if on_card else 0


def compiled(model: LatentSync, **setting: Any) -> float:
    """Seconds that compiling for a setting takes, first call included."""
    model.compile()
    began = time.perf_counter()
    measure(model, seconds=0, **setting)
    return time.perf_counter() - began


def main(
    model: Annotated[list[str], typer.Option(help="Names of models.")] = ["latentsync-1.5", "latentsync-1.6"],  # noqa: B006
    guidance: Annotated[list[float], typer.Option()] = [1.0, 1.5],  # noqa: B006
    cache: Annotated[list[int], typer.Option()] = [1, 3],  # noqa: B006
    micro_batch: Annotated[list[int], typer.Option()] = [1, 4],  # noqa: B006
    compile: Annotated[bool, typer.Option(help="Once more with recipe.compile.")] = False,  # noqa: A002 - the recipe's name
    steps: int = 20,
    seconds: Annotated[float, typer.Option(help="Least time of each measurement.")] = 10.0,
    device: Device = "auto",
    peak: Annotated[float | None, typer.Option(help="Dense bf16 TFLOP/s of a card that is not known here.")] = None,
) -> None:
    """Measure every combination of the settings."""
    where = device_named(device)
    card, dtype = card_of(where), dtype_named("auto", where)
    kind: Any = str(dtype).removeprefix("torch.")
    best = peak or peak_of(card)
    known = f"{best:g} TFLOP/s dense bf16" if best else "peak not known: --peak gives it"
    show(f"{card}, {known}; {dtype}, torch {torch.__version__}, {steps} steps\n")
    show(HEAD)
    show("|" + "---|" * 10)
    for name, compiling in itertools.product(model, (False, True) if compile else (False,)):
        published = MODELS[name].source.startswith("hf://")
        loaded = random_model(MODELS[name], device=where, dtype=dtype) if published else load_model(name, device=device)
        loaded.latents.limit = 0  # the same pictures come again, and are encoded again
        for scale, interval, batch in itertools.product(guidance, cache, micro_batch):
            setting: dict[str, Any] = {"steps": steps, "guidance": scale, "cache": interval, "batch": batch}
            each = loaded.info.flops(steps=steps, guidance_scale=scale, cache_interval=interval) / WINDOW
            foreseen = loaded.info.memory(windows=batch, guidance_scale=scale, dtype=kind)
            row = f"| {scale:g} | {interval} | {batch} |"
            try:
                row = f"{compiled(loaded, **setting):.0f} s {row}" if compiling else row
                speed, memory = measure(loaded, seconds=seconds, **setting)
            except OutOfMemory:
                show(f"| {name} | {row} does not fit | | {each / 1e12:.3g} | | {foreseen / 1e9:.1f} GB |")
                continue
            share = f"{speed * each / best / 1e12:.0%}" if best else ""
            held = f"{memory / 1e9:.1f} GB" if memory else ""
            show(f"| {name} | {row} {speed:.3g} | {share} | {each / 1e12:.3g} | {held} | {foreseen / 1e9:.1f} GB |")


def show(line: str) -> None:
    """A line of Markdown as it is."""
    out.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
