"""See that the record's measures of quality find planted faults: tables of undamaged clips and of damaged ones, as Markdown.

    python jobs/judge_quality.py                             # rendered heads, drawn perfectly and by nano
    python jobs/judge_quality.py --clips 0 --video talk.mp4 --audio talk.wav    # real footage, given its own mouth

Twenty clips of the rendered portrait differ in voice, sentence, light, size, motion and seed. A perfect model draws what the
head would look like; ``nano`` draws what it can. Each fault is then planted into what either drew. Last, heads that talk are
given silence. Needs espeak-ng; the heads take about ten minutes on one core.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from latentsync_ray import Pair, Recipe
from latentsync_ray.media.speech import SAMPLE_RATE
from latentsync_ray.models import Model
from latentsync_ray.models.find import find_model
from latentsync_ray.nano.evaluate import Take, aligned, make_take, write_take
from latentsync_ray.nano.evaluate.stand_ins import DAMAGES, Damaged, Known, Remembering, dub_with, truth_of
from latentsync_ray.nano.portrait import Light
from latentsync_ray.nano.training.speech import HELD_OUT, held_out
from latentsync_ray.preflight import resolved
from latentsync_ray.quality.verdict import COLUMNS

STEPS = 4
LOW_IS_BAD = ("sharpness", "identity", "speech_motion")
FOUND_BY = (
    ("mouth frozen", "speech_motion"),
    ("mouth blurred (sigma 3)", "sharpness"),
    ("patch 6 px right", "identity"),
    ("patch 6 px right", "seam"),
    ("patch 6 px down", "identity"),
    ("patch 6 px down", "seam"),
    ("8 levels red", "skin_shift"),
    ("8 levels blue", "skin_shift"),
    ("8 levels brighter", "skin_shift"),
    ("8 levels brighter", "seam"),
    ("every third frame original", "flicker"),
)
"""Which column each fault is looked for in."""
SILENT = 3
"""Heads that are given silence."""
UNDAMAGED = "undamaged"
out = Console(width=200)

Figures = dict[str, dict[str, list[float]]]
"""Of clips of one kind: fault -> column -> a value per clip, NaN where nothing is told."""


def take_of(number: int) -> Take:
    """The clip of that number; every third one is silent for 0.8 s in the middle of its speech."""
    voice, start = number % len(HELD_OUT), number // len(HELD_OUT) * SAMPLE_RATE // 4
    speech = held_out(voice)[start : start + int((2.6 + number % 4 * 0.4) * SAMPLE_RATE)]
    if number % 3 == 0:
        speech = np.insert(speech, SAMPLE_RATE, np.zeros(int(0.8 * SAMPLE_RATE), np.int16))
    size, motion, light = (384, 256, 512, 320)[number % 4], (1.0, 0.5, 1.5)[number % 3], Light.random(number)
    own = held_out((voice + 1 + number // len(HELD_OUT)) % len(HELD_OUT))
    return make_take(own, speech, seed=200 + number, size=size, light=light if number % 2 else Light(), motion=motion)


def judged(model: Model, pair: Pair, folder: Path, *, recipe: Recipe, figures: Figures) -> None:
    """Dub a pair without a fault and with each, and note what the records say."""
    for fault in (UNDAMAGED, *DAMAGES):
        drawing = model if fault == UNDAMAGED else Damaged(model, DAMAGES[fault]())
        record = dub_with(drawing, pair, folder, recipe=recipe)
        for column in COLUMNS:
            value = getattr(record, column)
            figures[fault][column].append(np.nan if value is None else value)


def new_figures() -> Figures:
    """Nothing known yet."""
    return defaultdict(lambda: defaultdict(list))


def table(title: str, figures: Figures) -> Table:
    """For each fault: how many of its clips read worse than the worst undamaged one, and the ranges of both."""
    head = ("fault", "column", "undamaged", "worst of them", "with the fault", "beyond the worst")
    rows = Table(*head, title=title, box=box.MARKDOWN)
    for fault, column in FOUND_BY:
        good, bad = np.array(figures[UNDAMAGED][column]), np.array(figures[fault][column])
        low = column in LOW_IS_BAD
        worst = np.nanmin(good) if low else np.nanmax(good)
        beyond = int((bad < worst).sum() if low else (bad > worst).sum())
        rows.add_row(fault, column, _range(good), f"{worst:.2f}", _range(bad), f"{beyond} of {len(bad)}")
    return rows


def all_columns(title: str, figures: Figures) -> Table:
    """The median of every column, by fault."""
    rows = Table("fault", *COLUMNS, title=f"{title}: medians", box=box.MARKDOWN)
    for fault, told in figures.items():
        known = ([value for value in told[column] if np.isfinite(value)] for column in COLUMNS)
        rows.add_row(fault, *(f"{np.median(values):.2f}" if values else "-" for values in known))
    return rows


def _range(values: np.ndarray) -> str:
    return f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}"


def silence(models: dict[str, Callable[[dict[bytes, np.ndarray]], Model]], folder: Path, *, recipe: Recipe) -> Table:
    """How much lips move that are given silence, by who draws them."""
    rows = Table("given silence", *(f"head {number}" for number in range(SILENT)), box=box.MARKDOWN)
    told: dict[str, list[str]] = defaultdict(list)
    for number in range(SILENT):
        take = make_take(held_out(number), np.zeros(3 * SAMPLE_RATE, np.int16), seed=number, light=Light.random(number))
        film, speech = write_take(take, folder, f"silence-{number}")
        crops = aligned(film, speech, folder / "aligned", recipe=recipe)
        truth = truth_of(take, crops, find_model("nano"))
        for name, model in models.items():
            record = dub_with(model(truth), Pair(clip_id="silent", video=film, audio=speech), folder, recipe=recipe)
            told[name].append(f"{record.silence_motion:.2f}")
    for name, values in told.items():
        rows.add_row(name, *values)
    return rows


def main(
    clips: int = 20,
    video: Annotated[list[Path] | None, typer.Option(help="Real footage.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="The speech of each.")] = None,
    model: Annotated[str, typer.Option(help="Whose template it is cut by; its weights are not needed.")] = "latentsync-1.5",
) -> None:
    """Dub, damage, print tables."""
    recipe, info = resolved(Recipe(model="nano", steps=STEPS)), find_model("nano")
    perfect, drawn, real = new_figures(), new_figures(), new_figures()
    with tempfile.TemporaryDirectory() as name:
        folder, nano = Path(name), info.load(device="cpu")
        for number in range(clips):
            take = take_of(number)
            film, speech = write_take(take, folder, str(number))
            pair = Pair(clip_id=str(number), video=film, audio=speech, seed=number)
            truth = truth_of(take, aligned(film, speech, folder / "aligned", recipe=recipe), info)
            judged(Known(info, truth), pair, folder, recipe=recipe, figures=perfect)
            judged(Remembering(nano), pair, folder, recipe=recipe, figures=drawn)
        for film, speech in zip(video or [], audio or [], strict=True):
            own, pair = resolved(Recipe(model=model)), Pair(clip_id=film.stem, video=film, audio=speech)
            judged(Known(find_model(model)), pair, folder, recipe=own, figures=real)
        for title, figures in (("drawn perfectly", perfect), ("drawn by nano", drawn), ("real footage, its own mouth", real)):
            if figures:
                out.print(table(title, figures), all_columns(title, figures))
        if clips:
            who = {
                "drawn perfectly": lambda truth: Known(info, truth),
                "drawn by nano": lambda _: nano,
                "its own mouth": lambda _: Known(info),
            }
            out.print(silence(who, folder, recipe=recipe))


if __name__ == "__main__":
    typer.run(main)
