"""Train the networks that judge sync, from nothing.

    python jobs/train_sync.py                       # half an hour on 2 cores
    python jobs/train_sync.py --work /tmp/sync      # where unfinished work is kept: run again, it goes on where it was
    python jobs/train_sync.py --output latentsync_ray/sync/weights.safetensors      # in place of those that ship

Needs espeak-ng's library (apt-get install espeak-ng). Speech is synthesized, mouths are drawn; no data and no weights of
anybody else are used. ``jobs/judge_sync.py`` measures the result.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import typer

from latentsync_ray.nano.sync.calibrate import calibrated
from latentsync_ray.nano.sync.ear import train_ear
from latentsync_ray.nano.sync.eye import load_mouths, save_mouths, train_eye
from latentsync_ray.nano.sync.tracks import load_tracks, save_tracks
from latentsync_ray.nano.sync.weights import weights_of, write_weights

HELD_OUT = 200
"""Tracks, the last ones, that only the calibration hears."""


def main(
    output: Annotated[Path | None, typer.Option(help="File of the weights.", show_default="WORK/weights.safetensors")] = None,
    work: Annotated[Path, typer.Option(help="Folder for data and unfinished trainings.")] = Path("sync-work"),
    tracks: Annotated[int, typer.Option(min=HELD_OUT + 20)] = 2600,
    people: Annotated[int, typer.Option(min=120)] = 3000,
    ear_steps: Annotated[int, typer.Option(min=1)] = 5000,
    eye_steps: Annotated[int, typer.Option(min=1)] = 2600,
    processes: Annotated[int, typer.Option(min=1, help="That make data side by side.")] = os.cpu_count() or 1,
) -> None:
    """Make tracks and mouths, train both networks, calibrate, and write the file."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # two do not go faster: the networks are tiny
    spoken, drawn = work / f"tracks-{tracks}.npz", work / f"mouths-{people}.npz"
    if not spoken.exists():
        save_tracks(spoken, tracks, processes=processes)
    if not drawn.exists():
        save_mouths(drawn, people, processes=processes)
    heard = load_tracks(spoken)
    eye = train_eye(work / f"eye-{eye_steps}.pt", *load_mouths(drawn), steps=eye_steps)
    ear = train_ear(work / f"ear-{ear_steps}.pt", heard[:-HELD_OUT], steps=ear_steps)
    weights = weights_of(eye, ear)
    weights |= calibrated(weights, heard[-HELD_OUT:], excerpts=6000)
    sizes = {"tracks": tracks, "people": people, "ear_steps": ear_steps, "eye_steps": eye_steps}
    made = {name: str(value) for name, value in sizes.items()}
    place = output or work / "weights.safetensors"
    write_weights(place, weights, {**made, "licence": "Apache-2.0", "made_by": "jobs/train_sync.py"})
    print(f"{place}: {place.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
