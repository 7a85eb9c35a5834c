"""The gate: a clip that falls short of the job's quality is kept aside and made again, and the best attempt is published.

Attempts lie beside the clip's parts until one is published. Which comes next is read from there, so that a run that was killed
goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentsync_ray import storage
from latentsync_ray.errors import BelowQuality, InputNotFound, TryAgain
from latentsync_ray.gate import MEASURES, Quality
from latentsync_ray.layout import declaration, drafts_folder, parts_folder
from latentsync_ray.stages.unfinished import Unfinished
from latentsync_ray.types import Part

__all__ = ["Gate", "attempts_made"]

_OWN = ("seed", "guidance_scale", "checkpoint", "precision", "micro_batch", "card")
"""What made an attempt: columns of its record that parts know."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One that was made."""

    number: int
    facts: dict[str, Any]
    """Columns of its record."""
    missed: dict[str, float]
    """See ``Quality.failing``."""

    def told(self) -> dict[str, Any]:
        """For the record's ``attempts``."""
        asked = {name: self.facts.get(name) for name in ("seed", "guidance_scale", *MEASURES)}
        return {**asked, "passed": not self.missed}


def attempts_made(output: str, clip_id: str, key: str) -> int:
    """How many attempts at a clip lie aside, from the first on without a gap: the number of the next. ``key`` names them."""
    aside = set(storage.list_files(_folder(output, clip_id, key)))
    return next(number for number in itertools.count() if declaration(_uri(output, clip_id, key, number)) not in aside)


class Gate:
    """A step between the finished file and its publication. Raises TryAgain and BelowQuality."""

    def __init__(self, quality: Quality) -> None:
        self.quality = quality

    def __call__(self, work: Unfinished) -> None:
        clip = work.clip
        work.facts |= {name: getattr(clip, name) for name in _OWN}
        mine = _Attempt(clip.attempt, work.facts, self.quality.failing(work.facts))
        made = [*self._before(work), mine]
        best = min(made, key=lambda each: (sum(each.missed.values()), each.number))
        if best.missed and clip.attempt < self.quality.retry:
            self._put_aside(work)
            raise TryAgain(f"attempt {clip.attempt + 1}: {_reason(mine)}")
        told = [each.told() for each in made]
        if best.missed and self.quality.otherwise == "withhold":
            failed = BelowQuality(f"{_reason(best)}; the best of {len(made)} attempt{'s' * (len(made) > 1)}")
            failed.learned = {**{name: told[0][name] for name in ("seed", "guidance_scale")}, "attempts": told}
            raise failed
        if best is not mine:
            self._take(best, work)
        work.facts = {**work.facts, "attempts": told, "status": "ok_below_quality" if best.missed else "ok"}

    def _put_aside(self, work: Unfinished) -> None:
        """The file, then the facts that declare it made."""
        uri = _aside(work, work.clip.attempt)
        storage.publish(work.file, uri, drafts=drafts_folder(work.output))
        facts = {**work.facts, "bytes": work.file.stat().st_size}
        storage.write_bytes(declaration(uri), json.dumps(facts, default=np.generic.item).encode())

    def _before(self, work: Unfinished) -> Sequence[_Attempt]:
        """The attempts that lie aside."""
        made = []
        for number in range(work.clip.attempt):
            with _whole(work, number):
                facts = json.loads(storage.read_bytes(declaration(_aside(work, number))))
            made.append(_Attempt(number, facts, self.quality.failing(facts)))
        return made

    def _take(self, best: _Attempt, work: Unfinished) -> None:
        """Have ``work`` go on with an attempt that lies aside."""
        with _whole(work, best.number):
            aside = storage.download(_aside(work, best.number), work.file.with_suffix(".tried.mp4"))
            shutil.copyfile(aside, work.file)
            if work.file.stat().st_size != best.facts["bytes"]:
                raise ValueError(f"{aside} is not whole")
        work.facts = best.facts
        work.parts = [Part.of(part, **{name: best.facts[name] for name in _OWN}) for part in work.parts]


@contextmanager
def _whole(work: Unfinished, number: int) -> Iterator[None]:
    """Meanwhile, an attempt that went away, or was torn as a machine died, is forgotten: TryAgain has it made again."""
    try:
        yield
    except (InputNotFound, ValueError) as error:
        storage.delete([declaration(_aside(work, number))])
        raise TryAgain(f"attempt {number + 1} went away") from error


def _reason(attempt: _Attempt) -> str:
    values = (f"{name} {attempt.facts[name]:.3g}" for name in attempt.missed)
    return f"below the job's quality: {', '.join(values)}"


def _folder(output: str, clip_id: str, key: str) -> str:
    return parts_folder(output, clip_id, f"{key}-tried")


def _uri(output: str, clip_id: str, key: str, number: int) -> str:
    return f"{_folder(output, clip_id, key)}/{number:02d}.mp4"


def _aside(work: Unfinished, number: int) -> str:
    return _uri(work.output, work.clip.clip_id, work.clip.first_key, number)
