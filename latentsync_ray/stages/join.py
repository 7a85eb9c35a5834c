"""Join: the parts of a clip and its speech become one MP4, which is verified, published and only then recorded."""

from __future__ import annotations

import dataclasses as dc
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync_ray import __version__, redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.errors import InputNotFound, MixedParts
from latentsync_ray.measure import sync_score
from latentsync_ray.media.join import Extras, join_parts, verify
from latentsync_ray.records import commit_pending
from latentsync_ray.sinks import Sink
from latentsync_ray.stages.parts import drop_parts
from latentsync_ray.types import Clip, ClipRecord, Pair, Part, Row

__all__ = ["Join", "failed_record"]

_ASKED = {field.name for field in dc.fields(Pair)}


class Join:
    """``Join(recipe, output, sink)(parts) -> ClipRecord``; raises ClipError when the clip cannot be finished.

    With ``commit`` the record is made safe before the parts go, for a driver that collects records into the table.
    """

    def __init__(self, recipe: Recipe, output: str, sink: Sink, *, commit: bool = True) -> None:
        self.recipe, self.output, self.sink, self.commit = recipe, output, sink, commit

    def __call__(self, parts: Sequence[Part], *, sink: Sink | None = None) -> ClipRecord:
        """``sink`` takes this clip in place of the usual one."""
        began = time.perf_counter()
        parts = sorted(parts, key=lambda part: part.index)
        clip = parts[0]
        if [part.index for part in parts] != list(range(clip.segment_count)):
            raise ValueError(f"clip {clip.clip_id!r}: joining {[part.index for part in parts]} of {clip.segment_count} parts")
        fps = Fraction(clip.fps_num, clip.fps_den)
        motion, change = (np.concatenate([getattr(part, each) for part in parts]) for each in ("mouth_motion", "speech_change"))
        correlation, lag = sync_score(motion, change, fps)
        with scratch() as folder:
            finished = folder / f"{clip.clip_id}.mp4"
            try:
                self._check(parts)
                joined = join_parts(_fetched(parts), storage.fetch(clip.audio), finished, fps=fps, extras=_extras(clip))
            except MixedParts:
                drop_parts(parts)  # they will not become a clip; another run has to make others
                raise
            verify(finished, clip.frame_count, sound_start=joined.sound_start)
            published = (sink or self.sink).publish(finished, clip.clip_id)
        record = ClipRecord.of(
            clip,
            status="ok",
            **_sources(clip),
            output=redact.shown(published.uri),
            output_path=storage.relative(published.uri, self.output),
            sha256=published.sha256,
            bytes=published.bytes,
            content_type=published.content_type,
            frames=clip.frame_count,
            frames_without_face=sum(part.missing for part in parts),
            corrupt_frames=sum(part.corrupt_frames for part in parts),
            fps=float(fps),
            sync_correlation=correlation,
            sync_lag_ms=lag,
            duration=joined.duration,
            crop_seconds=sum(part.crop_seconds for part in parts),
            sync_seconds=sum(part.sync_seconds for part in parts),
            paste_seconds=sum(part.paste_seconds for part in parts),
            join_seconds=time.perf_counter() - began,
            **_provenance(self.recipe),
        )
        if self.commit:
            commit_pending(self.output, record)
        drop_parts(parts)
        return record

    def _check(self, parts: Sequence[Part]) -> None:
        made_by = {f"{part.checkpoint[:12]} on {part.arithmetic}" for part in parts if part.missing < part.stop - part.start}
        if len(made_by) > 1:
            raise MixedParts(
                f"the parts were made by different models ({', '.join(sorted(made_by))}): the weights behind "
                f"{self.recipe.model!r} or the kind of device changed during the job; run it again"
            )


def _extras(clip: Clip) -> Extras:
    return Extras(
        language=clip.language,
        texts=json.loads(clip.tags),
        subtitled=storage.fetch(clip.video) if clip.subtitle_seconds else None,
        subtitle_seconds=Fraction(clip.subtitle_seconds),
    )


def _fetched(parts: Sequence[Part]) -> list[Path]:
    try:
        return [storage.fetch(part.uri) for part in parts]
    except InputNotFound as error:
        raise MixedParts(f"a finished part went away ({error}); run the job again to have it made again") from error


def failed_record(row: Row, recipe: Recipe) -> ClipRecord:
    """The record of a clip that failed, from whatever row carries its error: what was asked, and nothing of what was begun."""
    asked = {name: value for name, value in row.to_row().items() if name in _ASKED}
    return ClipRecord.from_row({**asked, **_sources(row), "status": "failed", **_provenance(recipe)})


def _sources(row: Row) -> dict[str, str]:
    """The addresses of the inputs, as a record may keep them: whoever reads the table must not get at what they open."""
    return {name: redact.shown(getattr(row, name)) for name in ("video", "audio")}


def _provenance(recipe: Recipe) -> dict[str, object]:
    return {
        "steps": recipe.steps,
        "model": redact.shown(recipe.model),
        "recipe": recipe.fingerprint(),
        "version": __version__,
        "finished_at": datetime.now(UTC),
    }
