"""Train the model that ships with the package, from nothing: latentsync_ray/assets/nano.

    python jobs/train_nano.py                       # an hour and a quarter on 2 cores; a GPU is used when there is one
    python jobs/train_nano.py --work /tmp/nano      # where unfinished work is kept: run again, it goes on where it was

Needs the espeak-ng program (apt-get install espeak-ng). Speech is synthesized, faces are rendered from the shipped portrait; no
data and no weights of anybody else are used. ``jobs/evaluate_nano.py`` measures the result and writes its card.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from nano.folder import megabytes, write_folder
from nano.listen import train_encoder
from nano.mouth import hear_scenes, train_unet
from nano.paint import encode_scenes, train_autoencoder
from nano.pictures import load_scenes, save_scenes
from nano.speech import load_tracks, save_tracks
from nano.together import end_with, together
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync_ray.model.specs import MODELS
from latentsync_ray.model.unet import LatentSyncUNet
from latentsync_ray.model.vae import build_small_vae

SPEC = MODELS["nano"]
WIDTHS = (16, 32, 48, 64)
"""Of the autoencoder, level by level."""
PROCESSES = 2
"""That train the denoising network, on a CPU."""


def main(
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")] = Path(SPEC.source),
    work: Annotated[Path, typer.Option(help="Folder for data and unfinished trainings.")] = Path("nano-work"),
    tracks: Annotated[int, typer.Option(min=13)] = 1440,
    scenes: Annotated[int, typer.Option(min=1)] = 220,
    encoder_steps: Annotated[int, typer.Option(min=1)] = 3300,
    autoencoder_steps: Annotated[int, typer.Option(min=1)] = 2300,
    unet_steps: Annotated[int, typer.Option(min=1)] = 3300,
) -> None:
    """Render, train the speech encoder and the autoencoder side by side, then the denoiser, and write the folder."""
    began = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    settle(work / "settings.json", [tracks, scenes, encoder_steps, autoencoder_steps, unet_steps])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    if not (work / "tracks.npz").exists():
        save_tracks(work / "tracks.npz", tracks)
    heard = load_tracks(work / "tracks.npz")
    save_scenes(work / "scenes.npy", heard, scenes, resolution=SPEC.resolution)
    pictures, said = load_scenes(work / "scenes.npy", heard)

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with, initargs=(os.getpid(),)) as beside:
        listening = beside.submit(listen, work, encoder_steps, device)  # on one core, as it has to; this one takes the other
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads - 1))
        torch.manual_seed(2)
        vae = train_autoencoder(
            work / "autoencoder.pt", build_small_vae(WIDTHS), pictures, steps=autoencoder_steps, device=device
        )
        listening.result()
    torch.set_num_threads(threads)
    whisper = listen(work, encoder_steps, device)
    encode_scenes(work / "latents.npy", vae, pictures)
    torch.save(hear_scenes(whisper, said, heard), work / "speech.pt")
    if device.type == "cpu":
        together(denoise, work, unet_steps, device, folder=work, processes=PROCESSES)
    unet = denoise(work, unet_steps, device)  # on a CPU it only reads what they trained
    write_folder(output, SPEC, unet=unet, whisper=whisper, vae=vae)
    print(f"{output}: {megabytes(output):.1f} MB after {(time.monotonic() - began) / 60:.0f} minutes", flush=True)


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


def settle(path: Path, sizes: list[int]) -> None:
    """Refuse to go on in a folder that was begun with other sizes: its schedules and data would not be these."""
    if path.exists() and json.loads(path.read_text()) != sizes:
        raise SystemExit(f"{path.parent} was begun with other sizes ({path.read_text()}): use those, or another folder")
    path.write_text(json.dumps(sizes))


if __name__ == "__main__":
    typer.run(main)
