"""Join: the parts of a clip and its speech become one MP4, which is verified, published and only then recorded.

A list of steps, each of which does one thing to the clip and adds what it learned to the clip's record: what signs, labels or
checks clips is one more step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from latentsync_ray import __version__, redact, storage
from latentsync_ray.config import Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.errors import InputNotFound, MixedParts, StorageUnavailable
from latentsync_ray.layout import relative
from latentsync_ray.measure import sync_score
from latentsync_ray.media.join import Extras, join_parts
from latentsync_ray.media.join import verify as verify_file
from latentsync_ray.media.xmp import SOURCE_TYPE, embed_xmp, xmp_packet
from latentsync_ray.models.mel import mel_columns
from latentsync_ray.records import commit_pending
from latentsync_ray.sinks import Sink
from latentsync_ray.stages.failures import provenance, sources
from latentsync_ray.stages.inputs import planned_input
from latentsync_ray.stages.parts import drop_parts
from latentsync_ray.stages.sources import speech_samples
from latentsync_ray.sync import sync_of
from latentsync_ray.types import Clip, ClipRecord, Part

__all__ = ["STEPS", "Join", "Step", "Unfinished", "check_parts", "mark", "measure", "mux", "publish", "verify"]

log = logging.getLogger(__name__)

_DOWNLOADS = 8
"""Parts fetched at once."""


@dataclass(slots=True, kw_only=True)
class Unfinished:
    """A clip between its last part and its record."""

    recipe: Recipe
    output: str
    sink: Sink
    parts: Sequence[Part]
    """All of the clip, in its order."""
    file: Path
    """The MP4, in a folder that goes when the steps are done; ``mux`` writes it."""
    sound_start: Fraction = Fraction(0)
    """Seconds from the first frame to the first sample."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Columns of the record."""

    @property
    def clip(self) -> Clip:
        return self.parts[0]

    @property
    def fps(self) -> Fraction:
        return Fraction(self.clip.fps_num, self.clip.fps_den)


Step = Callable[[Unfinished], None]
"""Changes the clip. Raises ClipError when it cannot be finished, MixedParts when its parts will never make one."""


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
    """Hold the lips' motion against the sound."""
    motion, change = (
        np.concatenate([getattr(part, each) for part in work.parts]) for each in ("mouth_motion", "speech_change")
    )
    work.facts["sync_correlation"], work.facts["sync_lag_ms"] = sync_score(motion, change, work.fps)
    clip, speech = work.clip, planned_input(work.clip, "audio")
    samples = speech_samples(speech, work.recipe, channel=clip.audio_channel)
    lips = np.concatenate([part.lips for part in work.parts])
    if sync := sync_of(lips, work.fps, lambda first, last: mel_columns(samples, first, last, clip.mel_peak)[0]):
        work.facts["sync_score"], work.facts["sync_offset_ms"] = sync.score, sync.offset_ms


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


def mark(work: Unfinished) -> None:
    """Have the file say that a model changed it, and which, of what. No address is in it, nor a folder's name."""
    clip, recipe = work.clip, work.recipe
    name = redact.shown(recipe.model).partition("?")[0].rstrip("/").rpartition("/")[2]
    properties = {
        "xmp:CreatorTool": f"latentsync_ray {__version__}",
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": name,
        "latentsync:checkpoint": next((part.checkpoint for part in work.parts if part.checkpoint), ""),
        "latentsync:recipe": recipe.fingerprint(),
        "latentsync:seed": str(clip.seed),
        "latentsync:guidanceScale": str(clip.guidance_scale),
        "latentsync:videoSha256": clip.video_sha256,
        "latentsync:audioSha256": clip.audio_sha256,
    }
    embed_xmp(work.file, xmp_packet(properties))


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
        "bytes": published.bytes,
        "content_type": published.content_type,
    }


STEPS: tuple[Step, ...] = (check_parts, measure, mux, mark, verify, publish)
"""From parts to a clip in its place. What changes the file stands before ``verify``, what needs its address last."""


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
            except MixedParts:
                drop_parts(parts)  # they will not become a clip; another run has to make others
                raise
        seconds = {"join_seconds": time.perf_counter() - began}
        record = ClipRecord.of(clip, status="ok", **sources(clip), **work.facts, **seconds, **provenance(self.recipe))
        if self.commit:
            try:
                commit_pending(self.output, record)
            except (
                StorageUnavailable
            ) as error:  # the clip is in its place, and the driver writes its row; until then parts stay
                log.warning("clip %s: its record could not be made safe before the driver has it: %s", clip.clip_id, error)
                return record
        drop_parts(parts)
        return record


def _fetched(parts: Sequence[Part], folder: Path) -> list[Path]:
    """The parts as local files, in ``folder`` where they have to be downloaded: nobody else wants them."""
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        files = pool.map(lambda part: storage.download(part.uri, folder / f"part-{part.index}.mp4"), parts)
    try:
        return list(files)
    except InputNotFound as error:
        raise MixedParts(f"a finished part went away ({error}); run the job again to have it made again") from error
