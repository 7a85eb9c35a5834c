"""What a card makes of the model: frames per second, share of the card's peak and memory, by setting. Prints Markdown.

    python jobs/bench_gpu.py                                   # both full-size models, about ten minutes on a large card
    python jobs/bench_gpu.py --model latentsync-1.5 --micro-batch 4 --cache 3
    python jobs/bench_gpu.py --model tiny-random --steps 2     # a try, on any machine

Weights are random, which costs the same arithmetic, and nothing is downloaded. Only the model is measured: Whisper, video and
sound are left out. FLOPs are counted on the network itself, without data.
"""

from __future__ import annotations

import itertools
import platform
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench import out, random_model
from torch.utils.flop_counter import FlopCounterMode

from latentsync_ray.errors import OutOfMemory
from latentsync_ray.levels import to_uint8
from latentsync_ray.models.devices import device_named, dtype_named
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.latentsync.sampling import SamplingUNet
from latentsync_ray.models.latentsync.specs import MODELS, WINDOW
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.types import Device

PEAKS = {"H200": 989, "H100": 989, "H100 PCIe": 756, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "RTX 4090": 165}
"""Dense bf16 TFLOP/s with float32 sums, as the makers publish it, by words of a card's name; the longest that fits counts."""
HEAD = "| model | guidance | cache_interval | micro_batch | frames/s | of the peak | TFLOP a frame | peak memory |"


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of one window of frames."""

    whole: int
    """One run of the whole network, one branch."""
    cached: int
    """One run that takes kept features."""
    pictures: int
    """Autoencoder: two pictures a frame in, one out."""

    def of(self, *, steps: int, guidance: float, cache: int) -> int:
        """All of a window."""
        runs = -(-steps // cache)
        return (runs * self.whole + (steps - runs) * self.cached) * (2 if guidance > 1 else 1) + self.pictures


def work_of(model: LatentSync) -> Work:
    """Count what a model does for a window, on tensors without data."""
    side, stride = model.resolution, model.codec.stride
    options, listener = model.unet.options, model.whisper.config
    with torch.device("meta"):
        unet: Any = torch.nn.Module.to(LatentSyncUNet(options), "meta")
        vae: Any = type(model.codec.vae).from_config(model.codec.vae.config)
        small = side // stride
        latents, conditions = (torch.empty(1, channels, WINDOW, small, small) for channels in (4, 9))
        speech = torch.empty(1, WINDOW, 10 * (listener.encoder_layers + 1), listener.d_model)
        picture, latent = torch.empty(1, 3, side, side), torch.empty(1, 4, small, small)
    with torch.no_grad():
        question = SamplingUNet(unet).about(conditions, speech, timesteps=torch.zeros(1), guided=False)
    return Work(
        whole=counted(lambda: question(latents, 0)),
        cached=counted(lambda: question(latents, 0, reuse=True)),
        pictures=WINDOW * (2 * counted(lambda: vae.encode(picture)) + counted(lambda: vae.decode(latent))),
    )


def counted(ask: Any) -> int:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ask()
    return counter.get_total_flops()


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


def card_of(device: torch.device) -> str:
    """What it runs on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def peak_of(card: str) -> float | None:
    """TFLOP/s of a card that is known."""
    fitting = [name for name in PEAKS if all(word in card for word in name.split())]
    return PEAKS[max(fitting, key=len)] if fitting else None


def main(
    model: Annotated[list[str], typer.Option(help="Names of models.")] = ["latentsync-1.5", "latentsync-1.6"],  # noqa: B006
    guidance: Annotated[list[float], typer.Option()] = [1.0, 1.5],  # noqa: B006
    cache: Annotated[list[int], typer.Option()] = [1, 3],  # noqa: B006
    micro_batch: Annotated[list[int], typer.Option()] = [1, 4],  # noqa: B006
    steps: int = 20,
    seconds: Annotated[float, typer.Option(help="Least time of each measurement.")] = 10.0,
    device: Device = "auto",
    peak: Annotated[float | None, typer.Option(help="Dense bf16 TFLOP/s of a card that is not known here.")] = None,
) -> None:
    """Measure every combination of the settings."""
    where = device_named(device)
    card, dtype = card_of(where), dtype_named("auto", where)
    best = peak or peak_of(card)
    known = f"{best:g} TFLOP/s dense bf16" if best else "peak not known: --peak gives it"
    out.print(f"{card}, {known}; {dtype}, torch {torch.__version__}, {steps} steps\n", highlight=False)
    out.print(HEAD, "|" + "---|" * 8, sep="\n", highlight=False, soft_wrap=True)
    for name in model:
        published = MODELS[name].source.startswith("hf://")
        loaded = random_model(MODELS[name], device=where, dtype=dtype) if published else load_model(name, device=device)
        work = work_of(loaded)
        for scale, interval, batch in itertools.product(guidance, cache, micro_batch):
            each = work.of(steps=steps, guidance=scale, cache=interval) / WINDOW
            row = f"| {name} | {scale:g} | {interval} | {batch} |"
            try:
                speed, memory = measure(loaded, steps=steps, guidance=scale, cache=interval, batch=batch, seconds=seconds)
            except OutOfMemory:
                out.print(f"{row} does not fit | | {each / 1e12:.3g} | |", highlight=False, soft_wrap=True)
                continue
            share = f"{speed * each / best / 1e12:.0%}" if best else ""
            held = f"{memory / 1e9:.1f} GB" if memory else ""
            out.print(f"{row} {speed:.3g} | {share} | {each / 1e12:.3g} | {held} |", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
