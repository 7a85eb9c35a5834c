"""Speed by stage and memory by length, as ratios measured in one run on one machine.

    python jobs/bench.py                # everything: memory, stages, one full-size window
    python jobs/bench.py stages         # one part of it

Clips are the shipped portrait, repeated. The model is ``nano`` for speed and ``tiny-random`` for memory; the full-size one has
random weights (the arithmetic costs the same). Each measurement of memory is a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from rich.console import Console
from rich.table import Table

from latentsync_ray import LipSync, Pair, Recipe, assets, lipsync
from latentsync_ray.media.encode import encode_part
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.join import join_parts
from latentsync_ray.media.playback import play
from latentsync_ray.media.source import probe_video
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech, write_wav
from latentsync_ray.models import Model
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.models.latentsync.sampling import Question
from latentsync_ray.models.latentsync.specs import MODELS, ModelSpec
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.models.latentsync.whisper import build_encoder

FPS = Fraction(25)
SHORT, LONG = 20, 200
LIMIT = 1.25
out = Console()


def make_clip(folder: Path, seconds: int) -> tuple[Path, Path]:
    """The shipped portrait and speech, repeated to ``seconds``."""
    raw, audio, video = folder / "speech.raw", folder / f"{seconds}s.wav", folder / f"{seconds}s.mp4"
    decode_speech(assets.demo_audio(), raw, max_seconds=60)
    write_wav(audio, np.resize(read_speech(raw), seconds * SAMPLE_RATE))
    portrait = assets.demo_video()
    index = probe_video(portrait, max_pixels=1 << 24, max_seconds=60)
    rows = repeat(frame_grid(index, FPS, "near"), int(seconds * FPS), "pingpong")
    frames = (picture.planes() for picture in play(portrait, index, rows))
    part = encode_part(frames, fps=FPS, size=(index.width, index.height), colour=index.colour, crf=20, preset="superfast")
    join_parts([part], audio, video, fps=FPS)
    return video, audio


def child(video: Path, audio: Path, output: Path) -> None:
    """In a process of its own: dub one clip, print its record's timings and the process's peak memory."""
    recipe = Recipe(model="tiny-random", steps=1)
    record = lipsync(video, audio, output, recipe=recipe)
    if record.status != "ok":
        raise SystemExit(f"{record.error_code}: {record.error}")
    out.print_json(json.dumps({"peak": peak_memory(), "frames": record.frames}), indent=None)


def peak_memory() -> int:
    """Bytes this process held at most."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not getrusage: on Linux a child starts with the peak of the process that made it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def memory() -> bool:
    """Peak memory of a long clip against a short one, at the same size."""
    table = Table("clip", "frames", "peak memory", "seconds", title="memory by length, one process each (local runner)")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seconds in (SHORT, LONG):
            video, audio = make_clip(folder, seconds)
            began = time.perf_counter()
            command = [sys.executable, __file__, "child", str(video), str(audio), str(folder / "out.mp4")]
            measured = json.loads(
                subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            )
            peaks.append(measured["peak"])
            table.add_row(
                f"{seconds} s",
                str(measured["frames"]),
                f"{measured['peak'] / 1e6:.0f} MB",
                f"{time.perf_counter() - began:.0f}",
            )
    out.print(table)
    ratio = peaks[1] / peaks[0]
    out.print(f"{LONG} s takes {ratio:.2f} times the memory of {SHORT} s (limit {LIMIT})\n")
    return ratio <= LIMIT


class Clock:
    """Adds up the seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of ``owner.attribute`` under ``name``."""
        function: Callable[..., Any] = getattr(owner, attribute)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        setattr(owner, attribute, timed)

    def watch_model(self, model: Model) -> None:
        """Time the parts of a model by themselves."""
        assert isinstance(model, LatentSync)
        model.latents.limit = 0  # what it costs to encode, also where pictures repeat
        self.watch(model, "features", "Whisper")
        self.watch(model.codec, "encode", "VAE encode")
        self.watch(Question, "__call__", "UNet")
        self.watch(model.codec, "decode", "VAE decode")


def stages(seconds: int = SHORT) -> None:
    """Seconds per frame by stage, for the shipped model."""
    with tempfile.TemporaryDirectory() as name:
        video, audio = make_clip(Path(name), seconds)
        runner = LipSync(name, recipe=Recipe(model="nano", steps=4))
        clock = Clock()
        clock.watch_model(runner.model)
        record = runner(Pair(clip_id="bench", video=str(video), audio=str(audio)))
    own = {
        "plan (probe, speech level)": record.plan_seconds,
        "track (decode, detect, follow)": record.track_seconds,
        "crop": record.crop_seconds,
        **clock.seconds,
        "rest of generate": (record.generate_seconds or 0) - sum(clock.seconds.values()),
        "paste + encode": record.paste_seconds,
        "join": record.join_seconds,
    }
    size = f"{runner.model.info.template.side} px, 4 steps, guidance 1, {record.width}x{record.height} video"
    title = f"nano, {size}, {record.frames} frames"
    _print_seconds(title, own, record.frames or 0)


def random_model(spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> LatentSync:
    """A model of a published size with random weights."""
    stable_diffusion: dict[str, Any] = {  # the autoencoder of the official models
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    with torch.device(device):  # drawn where they are needed: a card takes a second
        vae, unet, whisper = AutoencoderKL(**stable_diffusion), LatentSyncUNet(spec.unet), build_encoder(spec.whisper)
    for network in (vae, unet):
        torch.nn.Module.to(network, device, dtype)
    for network in (vae, unet, whisper):
        network.eval().requires_grad_(False)
    return LatentSync(spec, unet=unet, whisper=whisper, vae=vae, checkpoint="random")


def full_size() -> None:
    """One 16-frame window of the full-size 256 px model, one step, random weights."""
    began = time.perf_counter()
    model = random_model(MODELS["latentsync-1.5"], device=torch.device("cpu"), dtype=torch.float32)
    parameters = sum(parameter.numel() for parameter in model.unet.parameters())
    out.print(f"drawing {parameters / 1e9:.2f} G random weights took {time.perf_counter() - began:.0f} s")
    clock = Clock()
    clock.watch_model(model)
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (1, 16, 256, 256, 3), np.uint8)
    features = model.features(random.standard_normal((1, 80, 3000)).astype(np.float32))
    tokens = model.audio_tokens(features, 0, np.arange(160, dtype=np.int32).reshape(16, 10))
    model.generate(faces, tokens[None], steps=1, guidance_scale=1.0, seed=1)
    _print_seconds(
        f"{model.info.name} (random weights), one window of 16 frames, 1 step, guidance 1, {model.device}", clock.seconds, 16
    )
    out.print("20 steps cost 20 times the UNet's row; guidance above 1 doubles it.\n")


def _print_seconds(title: str, seconds: dict[str, float], frames: int) -> None:
    table = Table("stage", "ms / frame", "share", title=title)
    total = sum(seconds.values())
    for name, spent in seconds.items():
        table.add_row(name, f"{spent / frames * 1e3:.1f}", f"{spent / total:.0%}")
    table.add_row("all", f"{total / frames * 1e3:.1f}", "", style="bold")
    out.print(table)


def main(parts: Annotated[list[str] | None, typer.Argument(help="memory, stages, full; all by default")] = None) -> None:
    """Run the benchmarks."""
    if parts and parts[0] == "child":
        child(*(Path(part) for part in parts[1:]))
        return
    chosen = parts or ["stages", "full", "memory"]
    if "stages" in chosen:
        stages()
    if "full" in chosen:
        full_size()
    if "memory" in chosen and not memory():
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
