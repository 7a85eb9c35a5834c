"""Crop: cut the chosen faces of one segment out of its frames, and what the model has to hear for it out of the speech.

Where the faces are is known; only the frames that show one are decoded, one at a time, in any order of segments.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.faces.align import crop_box, crop_face
from latentsync_ray.measure import sound_columns, speech_change
from latentsync_ray.media.decode import FrameReader
from latentsync_ray.models.find import find_model
from latentsync_ray.models.mel import mel_columns
from latentsync_ray.quality.sound import speech_level
from latentsync_ray.stages.inputs import open_video, planned_input
from latentsync_ray.stages.sources import speech_samples
from latentsync_ray.types import FaceCrops, TrackedFaces

__all__ = ["Crop"]


class Crop:
    """``Crop(recipe)(faces) -> FaceCrops``; a segment whose part is finished stays empty."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.model, self.reader = recipe, find_model(recipe.model), FrameReader()
        cv2.setNumThreads(recipe.cpu_threads)  # more of them take more CPU for the same time

    def __call__(self, tracked: TrackedFaces) -> FaceCrops:
        if len(tracked.source_frames) == 0:
            return FaceCrops.of(tracked)
        began, span = time.perf_counter(), tracked.span
        samples = speech_samples(planned_input(tracked, "audio"), self.recipe, channel=tracked.audio_channel)
        mel, first = mel_columns(samples, *sound_columns(span.start, span.stop, span.fps), span.peak)
        learned = {"speech": self.model.hear(samples, span)} if len(tracked.frames) else {}
        faces = self._faces(tracked)
        if tracked.is_last:
            self.reader.close()
        return FaceCrops.of(
            tracked,
            faces=faces,
            speech_change=speech_change(mel, first, span.start, span.stop, span.fps),
            speech_level=speech_level(samples, span.start, span.stop, span.fps),
            crop_seconds=time.perf_counter() - began,
            **learned,
        )

    def _faces(self, tracked: TrackedFaces) -> np.ndarray:
        """The aligned faces, uint8 (P, S, S, 3)."""
        template, rows = self.model.template, tracked.source_frames[tracked.frames]
        faces = np.zeros((len(rows), template.side, template.side, 3), np.uint8)
        if not len(rows):
            return faces
        video, index = open_video(tracked, self.recipe)
        reader = FrameReader() if tracked.damaged else self.reader
        for row, picture in reader.read(video, index, np.unique(rows)):
            places, cut = np.flatnonzero(rows == row), {}
            boxes = np.array([crop_box(matrix, template) for matrix in tracked.affines[places]])
            around = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
            image, origin = picture.rgb_within(around)
            for place in places:
                matrix = tracked.affines[place]
                known = (int(tracked.tracks[place]), matrix.tobytes())  # a loop shows the same face again
                if known not in cut:
                    cut[known] = crop_face(image, matrix, template, origin=origin, official=self.recipe.parity)
                faces[place] = cut[known]
        return faces
