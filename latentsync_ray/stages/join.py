"""Join: the parts of a clip and its speech become one MP4, which is verified, published and only then recorded.

A list of steps, each of which does one thing to the clip and adds what it learned to the clip's record: what signs, labels or
checks clips is one more step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from latentsync_ray import redact, storage
from latentsync_ray.config import Recipe, Signing
from latentsync_ray.disk import scratch
from latentsync_ray.errors import InputNotFound, MixedParts, StorageUnavailable, TryAgain
from latentsync_ray.gate import Quality
from latentsync_ray.layout import relative
from latentsync_ray.measure import sync_score
from latentsync_ray.media.join import Extras, join_parts
from latentsync_ray.media.join import verify as verify_file
from latentsync_ray.models.mel import mel_columns
from latentsync_ray.records import commit_pending
from latentsync_ray.sinks import Sink
from latentsync_ray.stages.failures import provenance, sources
from latentsync_ray.stages.inputs import planned_input
from latentsync_ray.stages.judge import quality_of
from latentsync_ray.stages.mark import Sign, mark
from latentsync_ray.stages.parts import drop_clip, drop_parts
from latentsync_ray.stages.sources import speech_samples
from latentsync_ray.stages.tried import Gate
from latentsync_ray.stages.unfinished import Step, Unfinished
from latentsync_ray.sync import sync_of
from latentsync_ray.types import ClipRecord, Part

__all__ = ["STEPS", "Join", "Step", "Unfinished", "check_parts", "mark", "measure", "mux", "publish", "steps", "verify"]

log = logging.getLogger(__name__)

_DOWNLOADS = 8
"""Parts fetched at once."""


def check_parts(work: Unfinished) -> None:
    """See that the parts belong together, and add up what they know."""
    parts = work.parts
    if len({part.key for part in parts}) > 1:
        raise MixedParts("the parts were made of different inputs, which were replaced meanwhile; run the job again")
    made_by = {f"{part.checkpoint[:12]} on {part.precision}" for part in parts if part.missing < part.stop - part.start}
    if len(made_by) > 1:
        raise MixedParts(
            f"the parts were made by different models ({', '.join(sorted(made_by))}): the weights behind "
            f"{work.recipe.model!r}, the kind of device (cluster.accelerator), the number of windows in a call "
            "(recipe.micro_batch) or whether it could be compiled (recipe.compile) changed during the job; run it again"
        )
    work.facts |= {
        "frames": work.clip.frame_count,
        "fps": float(work.fps),
        "frames_without_face": sum(part.missing for part in parts),
        "faces_path": next((part.faces_path for part in parts if part.faces_path), None),
        **{
            name: sum(getattr(part, name) for part in parts)
            for name in ("corrupt_frames", "track_seconds", "crop_seconds", "paste_seconds")
        },
        **_work_of_device(parts),
    }


def _work_of_device(parts: Sequence[Part]) -> dict[str, Any]:
    """What the model took, and made of its time."""
    names = "generate_seconds", "idle_seconds", "tflop"
    working, idle, tflop = (sum(getattr(part, name) for part in parts) for name in names)
    drawn = sum(part.stop - part.start - part.missing for part in parts)
    return {
        "generate_seconds": working,
        "idle_seconds": idle,
        "busy_share": working / (working + idle) if working else None,
        "frames_per_second": drawn / working if working else None,
        "tflop": tflop if np.isfinite(tflop) else None,
    }


def measure(work: Unfinished) -> None:
    """Hold the lips' motion against the sound, and the new faces against the old ones."""
    motion, change = (
        np.concatenate([getattr(part, each) for part in work.parts]) for each in ("mouth_motion", "speech_change")
    )
    work.facts["sync_correlation"], work.facts["sync_lag_ms"] = sync_score(motion, change, work.fps)
    clip, speech = work.clip, planned_input(work.clip, "audio")
    samples = speech_samples(speech, work.recipe, channel=clip.audio_channel)
    lips = np.concatenate([part.lips for part in work.parts])
    if sync := sync_of(lips, work.fps, lambda first, last: mel_columns(samples, first, last, clip.mel_peak)[0]):
        work.facts["sync_score"], work.facts["sync_offset_ms"] = sync.score, sync.offset_ms
    work.facts |= quality_of(work.parts, work.fps)


def mux(work: Unfinished) -> None:
    """Put the parts and the speech into one file, without encoding pictures again."""
    clip = work.clip
    extras = Extras(
        language=clip.language,
        texts=json.loads(clip.tags),
        subtitled=planned_input(clip, "video").path if clip.subtitle_seconds else None,
        subtitle_seconds=Fraction(clip.subtitle_seconds),
    )
    fetched, audio = _fetched(work.parts, work.file.parent), planned_input(clip, "audio").path
    joined = join_parts(fetched, audio, work.file, fps=work.fps, extras=extras)
    work.sound_start, work.facts["duration"] = joined.sound_start, joined.duration


def verify(work: Unfinished) -> None:
    """Read the file back."""
    verify_file(work.file, work.clip.frame_count, sound_start=work.sound_start)


def publish(work: Unfinished) -> None:
    """Deliver the file, whole or not at all."""
    published = work.sink.publish(work.file, work.clip.clip_name or work.clip.clip_id)
    work.facts |= {
        "output": redact.shown(published.uri),
        "output_path": relative(published.uri, work.output),
        "sha256": published.sha256,
        "content_sha256": work.facts.get("content_sha256", published.sha256),
        "bytes": published.bytes,
        "content_type": published.content_type,
    }


STEPS: tuple[Step, ...] = (check_parts, measure, mux, mark, verify, publish)
"""From parts to a clip in its place. What changes the file stands before ``verify``, what needs its address last."""


def steps(signing: Signing | None = None, quality: Quality | None = None) -> tuple[Step, ...]:
    """``STEPS``, and between the marked file and its publication what a job asks for."""
    last = STEPS.index(mark) + 1
    asked = [*([Gate(quality)] if quality else []), *([Sign(signing)] if signing else [])]
    return (*STEPS[:last], *asked, *STEPS[last:])


class Join:
    """``Join(recipe, output, sink)(parts) -> ClipRecord``; raises ClipError when the clip cannot be finished.

    With ``commit`` the record is made safe before the parts go, for a driver that collects records into the table.
    """

    def __init__(self, recipe: Recipe, output: str, sink: Sink, *, commit: bool = True, steps: Sequence[Step] = STEPS) -> None:
        self.recipe, self.output, self.sink, self.commit, self.steps = recipe, output, sink, commit, steps

    def __call__(self, parts: Sequence[Part], *, sink: Sink | None = None) -> ClipRecord:
        """``sink`` takes this clip in place of the usual one."""
        began = time.perf_counter()
        parts = sorted(parts, key=lambda part: part.index)
        clip = parts[0]
        if [part.index for part in parts] != list(range(clip.segment_count)):
            raise ValueError(f"clip {clip.clip_id!r}: joining {[part.index for part in parts]} of {clip.segment_count} parts")
        with scratch() as folder:
            file = folder / f"{clip.clip_id}.mp4"
            work = Unfinished(recipe=self.recipe, output=self.output, sink=sink or self.sink, parts=parts, file=file)
            try:
                for step in self.steps:
                    step(work)
            except (MixedParts, TryAgain):
                drop_parts(parts)  # they will not become a clip; others are made
                raise
        seconds = {"join_seconds": time.perf_counter() - began}
        told = {"status": "ok", **sources(clip), **work.facts, **seconds, **provenance(self.recipe)}
        record = ClipRecord.of(clip, **told)
        if self.commit:
            try:
                commit_pending(self.output, record)
            except (
                StorageUnavailable
            ) as error:  # the clip is in its place, and the driver writes its row; until then parts stay
                log.warning("clip %s: its record could not be made safe before the driver has it: %s", clip.clip_id, error)
                return record
        drop_parts(parts)
        if clip.attempt:
            drop_clip(self.output, clip.clip_id)  # with the attempts that lie aside
        return record


def _fetched(parts: Sequence[Part], folder: Path) -> list[Path]:
    """The parts as local files, in ``folder`` where they have to be downloaded: nobody else wants them."""
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        files = pool.map(lambda part: storage.download(part.uri, folder / f"part-{part.index}.mp4"), parts)
    try:
        return list(files)
    except InputNotFound as error:
        raise MixedParts(f"a finished part went away ({error}); run the job again to have it made again") from error
