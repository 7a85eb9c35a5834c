"""Train the model that ships with the package, from nothing.

    python jobs/train_nano.py                       # an hour and a quarter on 2 cores; a GPU is used when there is one
    python jobs/train_nano.py --work /tmp/nano      # where unfinished work is kept: run again, it goes on where it was
    python jobs/train_nano.py --output latentsync_ray/assets/nano      # in place of the one that ships

Needs the espeak-ng program (apt-get install espeak-ng). Speech is synthesized, faces are rendered from the shipped portrait; no
data and no weights of anybody else are used. ``jobs/evaluate_nano.py`` measures the result and writes its card.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.models.latentsync.specs import MODELS
from latentsync_ray.models.latentsync.unet import LatentSyncUNet
from latentsync_ray.models.latentsync.vae import build_small_vae
from latentsync_ray.nano import portrait, training
from latentsync_ray.nano.training.folder import megabytes, write_folder
from latentsync_ray.nano.training.listen import train_encoder
from latentsync_ray.nano.training.mouth import hear_scenes, train_unet
from latentsync_ray.nano.training.paint import encode_scenes, train_autoencoder
from latentsync_ray.nano.training.pictures import load_scenes, save_scenes
from latentsync_ray.nano.training.speech import load_tracks, save_tracks
from latentsync_ray.nano.training.together import beside, together

SPEC = MODELS["nano"]
WIDTHS = (16, 32, 48, 64)
"""Of the autoencoder, level by level."""
PROCESSES = 2
"""That train the denoising network, on a CPU."""


def main(
    output: Annotated[Path | None, typer.Option(help="Folder of the finished model.", show_default="WORK/model")] = None,
    work: Annotated[Path, typer.Option(help="Folder for data and unfinished trainings.")] = Path("nano-work"),
    tracks: Annotated[int, typer.Option(min=13)] = 1440,
    scenes: Annotated[int, typer.Option(min=1)] = 220,
    encoder_steps: Annotated[int, typer.Option(min=1)] = 3300,
    autoencoder_steps: Annotated[int, typer.Option(min=1)] = 2300,
    unet_steps: Annotated[int, typer.Option(min=1)] = 3300,
) -> None:
    """Render, train the speech encoder and the autoencoder side by side, then the denoiser, and write the folder."""
    sizes = {"tracks": tracks, "scenes": scenes, "encoder": encoder_steps, "autoencoder": autoencoder_steps, "unet": unet_steps}
    work.mkdir(parents=True, exist_ok=True)
    settle(work / "settings.json", {**sizes, "code": code()})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    with timed(work, "tracks"):
        if not (work / "tracks.npz").exists():
            save_tracks(work / "tracks.npz", tracks)
    heard = load_tracks(work / "tracks.npz")
    with timed(work, "scenes"):
        save_scenes(work / "scenes.npy", heard, scenes, resolution=SPEC.resolution)
    pictures, said = load_scenes(work / "scenes.npy", heard)

    threads = torch.get_num_threads()
    with timed(work, "encoder and autoencoder"), beside(listen, work, encoder_steps, device):  # on one core, as it has to
        torch.set_num_threads(max(1, threads - 1))
        torch.manual_seed(2)
        small = build_small_vae(WIDTHS)
        vae = train_autoencoder(work / "autoencoder.pt", small, pictures, steps=autoencoder_steps, device=device)
    torch.set_num_threads(threads)
    with timed(work, "latents"):
        whisper = listen(work, encoder_steps, device)
        encode_scenes(work / "latents.npy", vae, pictures)
        torch.save(hear_scenes(whisper, said, heard), work / "speech.pt")
    with timed(work, "unet"):
        if device.type == "cpu":
            together(denoise, work, unet_steps, device, folder=work, processes=PROCESSES)
        unet = denoise(work, unet_steps, device)  # on a CPU it only reads what they trained
    output = output or work / "model"
    write_folder(output, SPEC, unet=unet, whisper=whisper, vae=vae, facts={**sizes, **spent(work), "machine": machine(device)})
    print(f"{output}: {megabytes(output):.1f} MB after {spent(work)['total']} minutes", flush=True)


def listen(work: Path, steps: int, device: torch.device) -> WhisperEncoder:
    """Train the speech encoder on the tracks in ``work``; a trained one is only read."""
    torch.manual_seed(1)
    return train_encoder(work / "encoder.pt", load_tracks(work / "tracks.npz"), SPEC.whisper, steps=steps, device=device)


def denoise(work: Path, steps: int, device: torch.device) -> LatentSyncUNet:
    """Train the denoising network on what is in ``work``; a trained one is only read."""
    latents, speech = np.load(work / "latents.npy", mmap_mode="r"), torch.load(work / "speech.pt", weights_only=True)
    torch.manual_seed(3)
    network = LatentSyncUNet(SPEC.unet)
    return train_unet(work / "unet.pt", network, latents, speech, side=SPEC.resolution, steps=steps, device=device)


def settle(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on in a folder that was begun with other sizes or other code: its schedules and data would not be these."""
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        others = ", ".join(
            f"{name} {before.get(name)}, now {value}" for name, value in settings.items() if before.get(name) != value
        )
        raise SystemExit(f"{path.parent} was begun with other settings ({others}): go back to those, or take another --work")
    path.write_text(json.dumps(settings))


def code() -> str:
    """A hash of what decides about the data and the trainings."""
    made_of = [file for room in (training, portrait) for file in Path(str(room.__file__)).parent.glob("*.py")]
    files = sorted([Path(__file__), *made_of])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


@contextmanager
def timed(work: Path, stage: str) -> Iterator[None]:
    """Add what is done within to the seconds of ``stage``, also when it is broken off, and say that it begins."""
    print(f"{stage} ...", flush=True)
    path, began = work / "seconds.json", time.monotonic()
    try:
        yield
    finally:
        seconds = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**seconds, stage: seconds.get(stage, 0.0) + time.monotonic() - began}))


def spent(work: Path) -> dict[str, str]:
    """Minutes of each stage so far, over all runs in ``work``, and of all together."""
    seconds = json.loads((work / "seconds.json").read_text())
    return {f"{stage} minutes": f"{value / 60:.1f}" for stage, value in seconds.items()} | {
        "total": f"{sum(seconds.values()) / 60:.0f}"
    }


def machine(device: torch.device) -> str:
    """What it was trained on, for the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores ({platform.machine()})"


if __name__ == "__main__":
    typer.run(main)
