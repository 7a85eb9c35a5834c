"""Crop: one sequential pass over a clip's video: detect, track, align, crop; segment after segment comes out.

Full-resolution frames live here a few at a time. When a loop turns back, the affines of the pass are known already, and only
the frames that a segment shows are decoded again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from latentsync_ray import redact
from latentsync_ray.config import Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.errors import NoFace
from latentsync_ray.faces.align import OfficialBias, affine, crop_face, of_stored_pixels, square_pixels
from latentsync_ray.faces.follow import Follower
from latentsync_ray.measure import sound_columns, speech_change
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.speech import decode_speech, read_speech
from latentsync_ray.models.find import find_model
from latentsync_ray.models.mel import mel_columns
from latentsync_ray.registry import DETECTORS, lookup
from latentsync_ray.stages.inputs import open_video, planned_input
from latentsync_ray.types import ClipPlan, FaceCrops, Segment

__all__ = ["Crop"]


class Crop:
    """``Crop(recipe)(plan)`` yields one ``FaceCrops`` per segment.

    In the clip's order, whatever is finished, so that a Ray task that is run again gives the same rows in the same order.
    Segments whose parts are finished come out empty. Raises NoFace, before any row, when no frame of the clip shows a face.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.model = recipe, find_model(recipe.model)
        cv2.setNumThreads(recipe.cpu_threads)  # more of them take more CPU for the same time
        self.follower = Follower(lookup(DETECTORS, recipe.detector, "detector")(), self.model.template)

    def __call__(self, plan: ClipPlan) -> Iterator[FaceCrops]:
        if len(plan.finished) == plan.segment_count:
            yield from (FaceCrops.of(segment) for segment, _ in _segments(plan))
            return
        began = time.perf_counter()
        samples, aligned = self._speech(plan), _Aligned(self, plan)
        held: list[FaceCrops] = []  # of a beginning without a face
        seen = len(plan.finished) > 0  # a part is made only once a face was seen
        for segment, rows in _segments(plan):
            if segment.index in plan.finished:
                yield FaceCrops.of(segment)
                continue
            crops = aligned.crops(segment, rows)
            crops = self._with_speech(crops, samples)
            seen = seen or bool(crops.found.any())
            held.append(replace(crops, crop_seconds=time.perf_counter() - began))
            began = time.perf_counter()
            if seen:
                yield from held
                held = []
                began = time.perf_counter()
        if not seen:
            raise NoFace(
                f"no frame of {redact.shown(plan.video)} shows a face that the {self.recipe.detector!r} detector finds; the "
                "embedded one needs a mostly frontal, upright face of at least a twelfth of the picture's shorter side"
            )

    def _with_speech(self, crops: FaceCrops, samples: np.ndarray) -> FaceCrops:
        span = crops.span
        mel, first = mel_columns(samples, *sound_columns(span.start, span.stop, span.fps), span.peak)
        change = speech_change(mel, first, span.start, span.stop, span.fps)
        return replace(
            crops, speech=self.model.hear(samples, span) if crops.found.any() else crops.speech, speech_change=change
        )

    def _speech(self, plan: ClipPlan) -> np.ndarray:
        with scratch() as folder:
            path = folder / "speech.raw"
            audio = planned_input(plan, "audio").path
            decode_speech(audio, path, max_seconds=self.recipe.max_seconds, channel=plan.audio_channel)
            return read_speech(path)  # mapped: it stays readable when the folder goes, and leaves nothing behind


def _segments(plan: ClipPlan) -> Iterator[tuple[Segment, np.ndarray]]:
    """The clip's segments, and the source frames that each shows."""
    start = 0
    for index, stop in enumerate(plan.segment_stops.tolist()):
        yield Segment.of(plan, index=index, start=start, stop=stop), plan.source_frames[start:stop]
        start = stop


class _Aligned:
    """The aligned faces of a video, followed once in display order."""

    def __init__(self, crop: Crop, plan: ClipPlan) -> None:
        self.template, self.follower, self.plan, self.recipe = crop.model.template, crop.follower, plan, crop.recipe
        self.bias = OfficialBias() if crop.recipe.parity else None
        self.affines: dict[int, np.ndarray | None] = {}
        """Of pictures with square pixels, as are all that are looked at here."""
        self.corrupt: set[int] = set()
        _, index = open_video(self.plan, self.recipe)
        self.pixel_aspect, self.size = float(index.pixel_aspect), (index.width, index.height)
        self.row = -1
        self.face: np.ndarray | None = None
        # From the first frame that the clip shows, also when its segments are finished: whose face is followed, and how, must
        # not depend on where an earlier run was interrupted. And beyond the last, for what the follower looks ahead.
        rows = plan.source_frames
        self.pass_over = self._follow(int(rows.min()), int(rows.max()) + 1 + self.follower.warm_up)

    def crops(self, segment: Segment, rows: np.ndarray) -> FaceCrops:
        """The segment that shows the source frames ``rows``, with its faces, affines and what was found."""
        distinct = np.unique(rows)
        faces = dict(self._forwards(distinct) if distinct[0] >= self.row else self._again(distinct))
        affines = [self._stored(self.affines[row]) for row in rows.tolist()]
        found = np.array([each is not None for each in affines])
        nowhere = np.zeros((2, 3), np.float32)
        side = self.template.side
        cut = np.zeros((len(rows) if found.any() else 0, side, side, 3), np.uint8)
        for position in np.flatnonzero(found):
            face = faces[int(rows[position])]
            assert face is not None
            cut[position] = face
        return FaceCrops.of(
            segment,
            source_frames=rows,
            faces=cut,
            affines=np.stack([nowhere if each is None else each for each in affines]),
            found=found,
            corrupt_frames=sum(row in self.corrupt for row in rows.tolist()),
        )

    def _stored(self, known: np.ndarray | None) -> np.ndarray | None:
        return None if known is None else of_stored_pixels(known, self.pixel_aspect, size=self.size)

    def _forwards(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
        """Faces of rows that the pass has yet to reach (or stands at)."""
        wanted = set(rows.tolist())
        if self.row in wanted:
            yield self.row, self.face
        while self.row < rows[-1]:
            self.row, self.face = next(self.pass_over)
            if self.row in wanted:
                yield self.row, self.face

    def _again(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
        """Faces of rows that the pass has seen, at least in part: decoded again, aligned as then."""
        for _ in self._forwards(rows[-1:]):
            pass
        for row, picture in self._pictures(rows):
            known = self.affines[row]
            yield row, None if known is None else crop_face(picture, known, self.template)

    def _follow(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray | None]]:
        _, index = open_video(self.plan, self.recipe)
        for followed in self.follower(self._pictures(np.arange(first, min(last, len(index)), dtype=np.int32))):
            if followed.landmarks is None:
                self.affines[followed.row] = None
                yield followed.row, None
                continue
            known = self.bias(followed.landmarks, self.template) if self.bias else affine(followed.landmarks, self.template)
            self.affines[followed.row] = known
            yield followed.row, crop_face(followed.region, known, self.template, origin=followed.origin)

    def _pictures(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        path, index = open_video(self.plan, self.recipe)  # each time: a cache may have dropped it in the meantime
        for row, picture in read_frames(path, index, rows):
            if picture.corrupt:
                self.corrupt.add(row)
            yield row, square_pixels(picture.rgb(), self.pixel_aspect)
