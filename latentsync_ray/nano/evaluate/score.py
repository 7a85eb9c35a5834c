"""A dubbed clip of the portrait against the truth: does the mouth follow, how good is its picture, does the seam show?"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.faces.align import crop_face
from latentsync_ray.measure import best_lag
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.source import probe_video
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.evaluate.take import Take
from latentsync_ray.nano.portrait import mouth_points, read_aperture
from latentsync_ray.preflight import resolved
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.track import Track
from latentsync_ray.types import FaceCrops, Pair

__all__ = ["Score", "aligned", "read_clip", "score_take"]

_REACH = 10
"""Frames of offset that are tried."""
_SIDE = 256
"""The seam is looked for in crops of this side in px."""
_SEAM = range(0, 13, 2)
"""Distances from the border, inwards, at which a step is looked for: the blend reaches about 10 px in."""
_APART = 4
"""px to either side of it that are compared: a face is small in the picture, and what is one px there is three here."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a dubbed clip compares with the truth."""

    correlation: float
    """Of the mouth's aperture, read back from the picture, with the curve that the truth was drawn from, at offset 0."""
    lag: int | None
    """Frames by which the mouth is late, where the correlation is highest; None when it never moves."""
    source_correlation: float
    """Of the same with the curve of the filmed clip: what is left of the old mouth."""
    aperture_error: float
    """Root mean square, against the aperture read back from the truth's picture (which runs to about 0.3)."""
    mouth_psnr: float
    """dB, of the mouth's region against the truth."""
    seam: float
    """By how many grey levels the steps across the border exceed those of the filmed clip, at the worst distance.

    Coarse: texture hides most of a small step (a hard one of 8 levels reads about 2), blurred skin steps less than sharp skin,
    and another mouth moves the jaw's edge. A look at the clips tells more.
    """


def score_take(take: Take, dubbed: Path, crops: Sequence[FaceCrops]) -> Score:
    """Compare a dubbed clip of ``take``; ``crops`` say where the pipeline saw the face (see ``aligned``)."""
    pictures, truth = list(read_clip(dubbed)), list(take.truth())
    if len(pictures) != len(truth):
        raise ValueError(f"{dubbed} has {len(pictures)} frames, the truth {len(truth)}")
    pose, wanted = take.wanted.pose, take.wanted.aperture
    aperture = read_aperture(pictures, pose=pose)
    _, lag = best_lag(wanted, aperture, reach=_REACH)
    errors = [_mouth_error(*each) for each in zip(pictures, truth, pose, strict=True)]
    return Score(
        correlation=_correlation(wanted, aperture),
        lag=lag,
        source_correlation=_correlation(take.filmed.aperture, aperture),
        aperture_error=float(np.sqrt(np.mean((aperture - read_aperture(truth, pose=pose)) ** 2))),
        mouth_psnr=float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9))),
        seam=_seam(pictures, take.source(), crops),
    )


def read_clip(path: Path) -> Iterator[np.ndarray]:
    """All frames of a video, uint8 (H, W, 3) RGB."""
    limits = Recipe()
    index = probe_video(path, max_pixels=limits.max_pixels, max_seconds=limits.max_seconds)
    return (picture.rgb() for _, picture in read_frames(path, index, np.arange(len(index), dtype=np.int32)))


def aligned(video: Path, audio: Path, work: Path, *, recipe: Recipe) -> list[FaceCrops]:
    """What the pipeline cuts out of a clip for the recipe's model: its segments."""
    recipe = resolved(recipe)
    plan = Plan(recipe, str(work))(Pair(clip_id="aligned", video=str(video), audio=str(audio)))
    cut = Crop(recipe)
    return [cut(faces) for faces in Track(recipe, str(work))(plan)]


def _correlation(curve: np.ndarray, read: np.ndarray) -> float:
    """0 when either never changes."""
    return best_lag(curve, read, reach=0)[0] or 0.0


def _mouth_error(picture: np.ndarray, truth: np.ndarray, pose: np.ndarray) -> float:
    """Mean squared difference in the upright box around the mouth."""
    points = mouth_points(pose, size=picture.shape[0])
    (left, top), (right, bottom) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    box = np.s_[max(0, top) : bottom, max(0, left) : right]
    return float(np.mean((picture[box].astype(np.float32) - truth[box]) ** 2))


def _seam(pictures: Iterable[np.ndarray], source: Iterable[np.ndarray], crops: Sequence[FaceCrops]) -> float:
    affines = [affine for segment in crops for affine in segment.affines]
    resolution = next(segment.faces.shape[1] for segment in crops if len(segment.faces))
    contours = _contours()
    steps = []
    for picture, filmed, affine in zip(pictures, source, affines, strict=True):
        scaled = affine * (_SIDE / resolution)
        scaled[:, 2] += (_SIDE / resolution - 1) / 2  # pixel centres are whole numbers
        both = (
            cv2.cvtColor(crop_face(each, scaled, template(_SIDE)), cv2.COLOR_RGB2GRAY).astype(np.float32)
            for each in (picture, filmed)
        )
        steps.append([[np.abs(grey[inner] - grey[outer]).mean() for inner, outer in contours] for grey in both])
    dubbed, before = np.mean(steps, axis=0)
    return float((dubbed - before).max())


def _contours() -> list[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Pairs of pixels to either side of each contour, _APART px from it: (rows, columns) within, (rows, columns) without."""
    depth = cv2.distanceTransform((template(_SIDE).keep < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    contours = []
    for distance in _SEAM:
        inside = depth > distance
        inner, outer = [], []
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):  # the way out
            rows, columns = np.nonzero(inside & ~np.roll(inside, (-down, -right), (0, 1)))
            reach = [np.clip((rows + sign * _APART * down, columns + sign * _APART * right), 0, _SIDE - 1) for sign in (-1, 1)]
            inner.append(reach[0])
            outer.append(reach[1])
        contours.append(tuple(tuple(np.concatenate(side, axis=1)) for side in (inner, outer)))
    return contours
