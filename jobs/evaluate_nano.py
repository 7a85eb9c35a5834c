"""Measure the shipped model on speech that it never heard, and write what came out into its card.

    python jobs/evaluate_nano.py

Six clips of the rendered portrait (voices, sentences and a language held out from training) are dubbed through the whole
pipeline and held against the truth, with the points of each detector. Needs espeak-ng and the face mesh. About a quarter of an
hour on one core.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from latentsync_ray import LipSync, Pair, Recipe
from latentsync_ray.media.speech import SAMPLE_RATE
from latentsync_ray.models.latentsync.specs import MODELS
from latentsync_ray.nano.evaluate import Score, Take, aligned, make_take, read_clip, score_take, write_ceiling, write_take
from latentsync_ray.nano.portrait import Light, read_aperture
from latentsync_ray.nano.training.folder import megabytes
from latentsync_ray.nano.training.speech import HELD_OUT, held_out
from latentsync_ray.types import ClipRecord

STEPS = 6
DETECTORS = ["mesh", "embedded"]
out = Console()


def main(
    work: Annotated[Path, typer.Option(help="Clips and a sheet go to its folder 'evaluation', anew.")] = Path("nano-work"),
    model: Annotated[str, typer.Option(help="A name, or a folder that train_nano.py wrote.")] = "nano",
    steps: int = STEPS,
    cache_interval: int = 1,
    detectors: Annotated[list[str], typer.Option("--detector")] = DETECTORS,
) -> None:
    """Dub, compare, print a table, write the card and a sheet."""
    work = work / "evaluation"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows: list[tuple[str, Score, float]] = []
    for detector in reversed(detectors):  # what the first one gave is shown
        dubber = LipSync(str(work), recipe=Recipe(model=model, steps=steps, cache_interval=cache_interval, detector=detector))
        for number, (voice, _) in enumerate(HELD_OUT):
            take = held_out_take(number)
            for guidance in (1.0, 1.5, 2.0) if number < 2 and detector == detectors[0] else (1.0,):
                name = f"{voice}, guidance {guidance:g}, {detector}"
                rows.append((name, *dub(dubber, take, work, f"{number}", guidance=guidance)))
                out.print("  ".join([name, *cells(*rows[-1][1:])]))
    out.print(table(rows))
    opened = silence(dubber, work)
    out.print(f"silence in: the mouth reads {opened:.3f} at most (a closed one below 0.05)")
    sheet(work, work / "sheet.png")
    folder = Path(MODELS[model].source if model in MODELS else model)
    where, size = dubber.model.device.type, megabytes(folder)
    facts = f"{steps} steps on {where}; {size:.1f} MB in all. Given silence, the mouth reads {opened:.3f} at most."
    if cache_interval == 1:
        card(folder / "README.md", facts, rows)
    out.print(f"filmed, dubbed and true faces: {work / 'sheet.png'}")


def held_out_take(number: int) -> Take:
    """The clip of that number: it says one held-out sentence and shall say another."""
    own = held_out((number + 1) % len(HELD_OUT))
    light = Light.random(number) if number % 2 else Light()
    return make_take(own, held_out(number), seed=100 + number, light=light)


def dub(dubber: LipSync, take: Take, folder: Path, name: str, *, guidance: float) -> tuple[Score, float]:
    """Dub a take: its score, and the dB that the autoencoder alone reaches on it."""
    video, audio = write_take(take, folder, name)
    record = done(dubber(Pair(clip_id=f"{name}-{guidance:g}", video=str(video), audio=str(audio), guidance_scale=guidance)))
    crops = aligned(video, audio, folder / "aligned", recipe=dubber.recipe)
    best = write_ceiling(take, audio, crops, folder / f"{name}-ceiling.mp4", model=dubber.model, recipe=dubber.recipe)
    return score_take(take, Path(str(record.output)), crops), score_take(take, best, crops).mouth_psnr


def done(record: ClipRecord) -> ClipRecord:
    """The record of a clip that has to succeed."""
    if record.status != "ok":
        raise SystemExit(f"{record.clip_id}: {record.error_code}: {record.error}")
    return record


def silence(dubber: LipSync, folder: Path) -> float:
    """The widest that the mouth opens in a clip dubbed with nothing."""
    take = make_take(held_out(0), np.zeros(3 * SAMPLE_RATE, np.int16), seed=7)
    video, audio = write_take(take, folder, "silence")
    record = done(dubber(Pair(clip_id="silence", video=str(video), audio=str(audio))))
    return float(read_aperture(read_clip(Path(str(record.output))), pose=take.wanted.pose).max())


def table(rows: list[tuple[str, Score, float]]) -> Table:
    """The figures, a clip a row."""
    head = ("clip", "correlation", "lag", "with the source", "aperture error", "mouth dB", "autoencoder dB", "seam")
    figures = Table(*head, title="held-out speech, whole pipeline")
    for name, score, ceiling in rows:
        figures.add_row(name, *cells(score, ceiling))
    return figures


def cells(score: Score, ceiling: float) -> list[str]:
    """One row of figures."""
    numbers = (score.source_correlation, score.aperture_error)
    return [
        f"{score.correlation:.3f}",
        "-" if score.lag is None else str(score.lag),
        *(f"{number:.3f}" for number in numbers),
        f"{score.mouth_psnr:.1f}",
        f"{ceiling:.1f}",
        f"{score.seam:+.2f}",
    ]


def sheet(folder: Path, png: Path) -> None:
    """Filmed, dubbed and true faces of every clip, eight moments each."""
    strips = []
    for number in range(len(HELD_OUT)):
        take = held_out_take(number)
        films = [list(take.source()), list(read_clip(folder / "clips" / f"{number}-1.mp4")), list(take.truth())]
        moments = np.linspace(5, len(films[0]) - 5, 8).astype(int)
        strips += [
            np.concatenate([cv2.resize(film[at][60:330, 70:340], (200, 200)) for at in moments], axis=1) for film in films
        ]
    Image.fromarray(np.concatenate(strips, axis=0)).save(png)


def card(path: Path, facts: str, rows: list[tuple[str, Score, float]]) -> None:
    """Replace the figures in a model's card by these; a model that has no such card is left as it is."""
    before, marker, _ = path.read_text(encoding="utf-8").partition("## Figures\n") if path.exists() else ("", "", "")
    if not marker:
        return
    head = "| clip | correlation | lag (frames) | with the source | aperture error | mouth dB | autoencoder dB | seam |"
    lines = [head, "|" + "---|" * 8, *(f"| {name} | {' | '.join(cells(score, ceiling))} |" for name, score, ceiling in rows)]
    path.write_text(f"{before}{marker}\n{facts}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
