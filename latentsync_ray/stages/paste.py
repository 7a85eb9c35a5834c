"""Paste: put a segment's new faces into the frames they came from, and encode the segment as one closed part.

Works in the frames' own YUV planes and on the face's region only, so that every other pixel reaches the encoder as it was
decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.faces.blend import blend_planes, weight_of
from latentsync_ray.faces.lips import MeshLips
from latentsync_ray.label import BurntLabel
from latentsync_ray.layout import part_uri
from latentsync_ray.levels import from_codes
from latentsync_ray.media.colour import colour_matrix
from latentsync_ray.media.decode import FrameReader, Planes
from latentsync_ray.media.encode import encode_part
from latentsync_ray.media.playback import play
from latentsync_ray.models.find import find_model
from latentsync_ray.quality.marks import Marks, cells_of
from latentsync_ray.quality.views import COARSE
from latentsync_ray.reasons import counted
from latentsync_ray.registry import lookup
from latentsync_ray.stages.inputs import open_video
from latentsync_ray.stages.parts import load_part, save_part
from latentsync_ray.sync import FACTS, LEAST_MOUTH, read_lips
from latentsync_ray.types import GeneratedFaces, Part
from latentsync_ray.watermark import Watermark, apply_watermark

__all__ = ["Paste"]


class Paste:
    """``Paste(recipe, output)(faces) -> Part``; an empty segment is one whose part lies in storage already."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        self.recipe, self.output, self.template = recipe, output, find_model(recipe.model).template
        self.reader, self.mesh = FrameReader(), MeshLips.of_detector(recipe.detector, self.template)
        self.watermark: Watermark | None = lookup({}, recipe.watermark, "watermark")() if recipe.watermark else None
        cv2.setNumThreads(recipe.cpu_threads)

    def __call__(self, faces: GeneratedFaces) -> Part:
        if len(faces.source_frames) == 0:
            return load_part(self.output, faces)
        began, recipe = time.perf_counter(), self.recipe
        video, index = open_video(faces, recipe)
        matrix, offset = colour_matrix(index.colour)
        official, marks = recipe.paste == "crop", Marks(self.template, len(faces.frames))
        label = BurntLabel(recipe.label, (faces.width, faces.height), matrix, offset) if recipe.label else None

        def frames() -> Iterator[Planes]:
            for number, picture in enumerate(
                play(video, index, faces.source_frames, reader=None if faces.damaged else self.reader)
            ):
                planes = picture.planes()
                for place in np.flatnonzero(faces.frames == number):
                    affine, outline = faces.affines[place], faces.outlines[place]
                    before = marks.views(planes.y, planes.u, planes.v, affine)
                    blend_planes(
                        planes.y,
                        planes.u,
                        planes.v,
                        from_codes(faces.faces[place]) if official else faces.faces[place],
                        affine,
                        self.template,
                        share=float(faces.weights[place]),
                        outline=outline,
                        mode=recipe.paste,
                        matrix=matrix,
                        offset=offset,
                    )
                    after = marks.views(planes.y, planes.u, planes.v, affine)
                    marks.note(int(place), before, after, weight_of(self.template, outline, side=COARSE, mode=recipe.paste))
                if self.watermark:
                    apply_watermark(self.watermark, faces.start + number, planes.y, planes.u, planes.v, matrix, offset)
                if label:
                    label(planes.y, planes.u, planes.v)
                yield planes

        data = encode_part(
            frames(),
            fps=Fraction(faces.fps_num, faces.fps_den),
            size=(faces.width, faces.height),
            colour=index.colour,
            crf=recipe.crf,
            preset=recipe.preset,
            pixel_aspect=index.pixel_aspect,
        )
        if faces.is_last:
            self.reader.close()
        part = Part.of(
            faces,
            uri=part_uri(self.output, faces.clip_id, faces.key, faces.index),
            bytes=len(data),
            missing=faces.missing,
            passed=counted(faces.reasons),
            looked_at=np.column_stack([faces.frames, faces.tracks]),
            traits=marks.traits(matrix, offset),
            grids=marks.grids,
            cells=cells_of(self.template),
            lips=self._lips(faces),
            paste_seconds=time.perf_counter() - began,
        )
        save_part(part, data)
        return part

    def _lips(self, faces: GeneratedFaces) -> np.ndarray:
        """What the new lips do in each frame, float32 (F, 3): the mean of the faces that are large enough to tell.

        The codes of ``levels`` will do for grey levels: only contrast counts.
        """
        left, _, right, _ = mouth = self.template.mouth
        wide = (right - left) * self.template.size[0] / np.linalg.norm(faces.affines[:, 0, :2], axis=1)
        each = [np.full((len(faces.source_frames), FACTS), np.nan, np.float32)]
        for track in np.unique(faces.tracks).tolist():
            places = faces.places(track)
            places = np.where(np.append(wide, 0)[places] >= LEAST_MOUTH, places, -1)
            each.append(self.mesh(faces.faces, places) if self.mesh else read_lips(faces.faces, places, mouth))
        return np.ma.masked_invalid(np.stack(each)).mean(0).filled(np.nan).astype(np.float32)
