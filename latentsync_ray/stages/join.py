"""Join: the parts of a clip and its speech become one MP4, which is verified, published and only then recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync_ray import redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.errors import InputNotFound, MixedParts
from latentsync_ray.layout import relative
from latentsync_ray.measure import sync_score
from latentsync_ray.media.join import Extras, join_parts, verify
from latentsync_ray.records import commit_pending
from latentsync_ray.sinks import Sink
from latentsync_ray.stages.failures import provenance, sources
from latentsync_ray.stages.inputs import planned_input
from latentsync_ray.stages.parts import drop_parts
from latentsync_ray.types import Clip, ClipRecord, Part

__all__ = ["Join"]

_DOWNLOADS = 8
"""Parts fetched at once."""


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
                joined = join_parts(
                    _fetched(parts, folder), planned_input(clip, "audio").path, finished, fps=fps, extras=_extras(clip)
                )
            except MixedParts:
                drop_parts(parts)  # they will not become a clip; another run has to make others
                raise
            verify(finished, clip.frame_count, sound_start=joined.sound_start)
            published = (sink or self.sink).publish(finished, clip.clip_id)
        record = ClipRecord.of(
            clip,
            status="ok",
            **sources(clip),
            output=redact.shown(published.uri),
            output_path=relative(published.uri, self.output),
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
            generate_seconds=sum(part.generate_seconds for part in parts),
            paste_seconds=sum(part.paste_seconds for part in parts),
            join_seconds=time.perf_counter() - began,
            **provenance(self.recipe),
        )
        if self.commit:
            commit_pending(self.output, record)
        drop_parts(parts)
        return record

    def _check(self, parts: Sequence[Part]) -> None:
        if len({part.key for part in parts}) > 1:
            raise MixedParts("the parts were made of different inputs, which were replaced meanwhile; run the job again")
        made_by = {f"{part.checkpoint[:12]} on {part.precision}" for part in parts if part.missing < part.stop - part.start}
        if len(made_by) > 1:
            raise MixedParts(
                f"the parts were made by different models ({', '.join(sorted(made_by))}): the weights behind "
                f"{self.recipe.model!r} or the kind of device changed during the job; run it again"
            )


def _extras(clip: Clip) -> Extras:
    return Extras(
        language=clip.language,
        texts=json.loads(clip.tags),
        subtitled=planned_input(clip, "video").path if clip.subtitle_seconds else None,
        subtitle_seconds=Fraction(clip.subtitle_seconds),
    )


def _fetched(parts: Sequence[Part], folder: Path) -> list[Path]:
    """The parts as local files, in ``folder`` where they have to be downloaded: nobody else wants them."""
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        files = pool.map(lambda part: storage.download(part.uri, folder / f"{part.index}.mp4"), parts)
    try:
        return list(files)
    except InputNotFound as error:
        raise MixedParts(f"a finished part went away ({error}); run the job again to have it made again") from error
