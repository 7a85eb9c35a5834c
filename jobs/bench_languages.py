"""What another language of a video costs when a worker remembers how its pictures were encoded, and when it does not.

    python jobs/bench_languages.py
    python jobs/bench_languages.py --steps 20 --seconds 4

The shipped portrait, repeated, is dubbed with three speeches of different lengths by ``nano``, in one process. Seconds are CPU
time, so that a busy machine tells about the same; "share" is that of encoding in ``generate``. Prints a table, and fails unless
both ways give the same files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from bench import make_clip, out
from rich.table import Table

from latentsync_ray import LipSync, Pair, Recipe
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech, write_wav
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.types import ClipRecord

LENGTHS = {"first": 1.0, "second": 0.85, "third": 1.1}
"""Languages, and how long they are: the last goes on after the video's end, which is played backwards."""


@dataclass(slots=True)
class Spent:
    """CPU seconds of one clip."""

    encode: float = 0.0
    generate: float = 0.0
    crop: float = 0.0
    everything: float = 0.0


class Watched:
    """A runner that tells what a clip took."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.runner = LipSync(folder, recipe=recipe, device="cpu")
        self.model = cast("LatentSync", self.runner.model)
        self.spent = Spent()
        for owner, call, name in ((self.model, "encode", "encode"), (self.model, "generate", "generate")):
            setattr(owner, call, self._timed(getattr(owner, call), name))
        self.runner.stages["crop"] = self._timed(self.runner.stages["crop"], "crop")

    def _timed(self, function: Any, name: str) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self._added(name, time.thread_time):
                return function(*arguments, **options)

        return timed

    @contextmanager
    def _added(self, name: str, clock: Any) -> Iterator[None]:
        began = clock()
        yield
        setattr(self.spent, name, getattr(self.spent, name) + clock() - began)

    def dub(self, video: Path, audio: Path) -> tuple[ClipRecord, Spent]:
        """The record of a clip, and what it took."""
        self.spent = Spent()
        with self._added("everything", time.process_time):
            record = self.runner(Pair(clip_id=audio.stem, video=str(video), audio=str(audio)))
        if record.status != "ok":
            raise SystemExit(f"{record.error_code}: {record.error}")
        return record, self.spent


def speeches(folder: Path, audio: Path, seconds: float) -> dict[str, Path]:
    """One speech a language: the shipped one, begun elsewhere."""
    decode_speech(audio, folder / "speech.raw", max_seconds=3600)
    samples = read_speech(folder / "speech.raw")
    made = {}
    for number, (language, length) in enumerate(LENGTHS.items()):
        made[language] = folder / f"{language}.wav"
        write_wav(made[language], np.resize(np.roll(samples, number * SAMPLE_RATE), int(length * seconds * SAMPLE_RATE)))
    return made


@dataclass(frozen=True, slots=True)
class Measured:
    """One dubbing."""

    language: str
    remembers: bool
    """Or all that was encoded before was forgotten."""
    known: float
    """Share of the pictures that were asked for."""
    record: ClipRecord
    spent: Spent


def measure(folder: Path, recipe: Recipe, seconds: float) -> Iterator[Measured]:
    """Each language without, and then with what the one before it left. Raises SystemExit when a clip fails or files differ."""
    video, audio = make_clip(folder, max(1, round(seconds)))
    languages, watched = speeches(folder, audio, seconds), Watched(folder / "out", recipe)
    latents, files = watched.model.latents, dict[str, str | None]()
    for remembers in (False, True):
        latents.forget()
        for language, speech in languages.items():
            if not remembers:
                latents.forget()
            asked, found = latents.asked, latents.found
            record, spent = watched.dub(video, speech)
            if files.setdefault(language, record.sha256) != record.sha256:
                raise SystemExit(f"the files of the {language} language differ")
            yield Measured(language, remembers, (latents.found - found) / (latents.asked - asked), record, spent)
    out.print(f"{latents.bytes / 1e6:.2f} MB are held of at most {latents.limit / 1e6:.0f} MB")


def main(
    seconds: Annotated[float, typer.Option(help="Of the video.")] = 10.0,
    steps: int = 4,
) -> None:
    """Dub one video into three languages, each with and without what the one before it left."""
    heads = "language", "known", "encode", "share", "generate", "crop", "all", "TFLOP"
    table = Table(*heads, title=f"nano, {steps} steps, guidance 1; CPU seconds")
    with tempfile.TemporaryDirectory() as place:
        for one in measure(Path(place), Recipe(model="nano", steps=steps, cpu_threads=1), seconds):
            spent = one.spent
            table.add_row(
                f"{one.language}, {'warm' if one.remembers else 'cold'}",
                f"{one.known:.0%}",
                f"{spent.encode:.2f}",
                f"{spent.encode / spent.generate:.0%}",
                f"{spent.generate:.2f}",
                f"{spent.crop:.2f}",
                f"{spent.everything:.2f}",
                f"{one.record.tflop:.4f}",
            )
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
