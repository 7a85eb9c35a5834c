"""A performance as pictures: the face of each moment, posed, lit and sampled at the wanted size; and the way back.

Knows nothing about files or sound.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator
from typing import Self

import cv2
import numpy as np

from latentsync_ray.nano.portrait.face import MOUTH_BOX, SIDE, make_face
from latentsync_ray.nano.portrait.performance import Performance

__all__ = ["Light", "mouth_points", "posed_points", "read_aperture", "render_clip"]

_NECK = (256.0, 360.0)
"""The head turns about this point (px of the portrait)."""
_HEAD = (256.0, 215.0)
"""Centre of the head; 150 px around it follow the pose entirely, what is further off less and less."""
_LIPS = 12
"""px of lip around what is between the lips."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """How the scene is lit. The default is the photograph's own light."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Multiplies red, green and blue."""
    gamma: float = 1.0
    """Above 1 darkens the middle tones."""
    side: float = 0.0
    """Brightness falls (or rises, below 0) by this share from the left edge to the right one."""

    @classmethod
    def random(cls, seed: int) -> Self:
        """A plausible light: warmer or colder, brighter or darker, from either side."""
        draw = np.random.default_rng(seed)
        red, green, blue = draw.uniform(0.85, 1.1) * draw.uniform(0.95, 1.05, 3)
        return cls(gain=(red, green, blue), gamma=draw.uniform(0.85, 1.2), side=draw.uniform(-0.3, 0.3))

    def shine(self, picture: np.ndarray) -> np.ndarray:
        """``picture`` (H, W, 3), 0 to 255, in this light: uint8."""
        scaled = np.clip(picture, 0, 255) / 255
        if self.gamma != 1:
            scaled = scaled**self.gamma
        across = 1 + self.side * np.linspace(0.5, -0.5, picture.shape[1], dtype=np.float32)
        lit = scaled * across[:, None] * np.array(self.gain, np.float32)
        return np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8)


def render_clip(performance: Performance, *, size: int = SIDE, light: Light | None = None) -> Iterator[np.ndarray]:
    """Frames of the talking head, one by one: (size, size, 3) uint8 RGB.

    The photograph resolves about 256 px, so sizes above 512 gain nothing.
    """
    light = light or Light()
    for aperture, width, lids, pose in zip(
        performance.aperture, performance.width, performance.lids, performance.pose, strict=True
    ):
        yield light.shine(_posed(make_face(float(aperture), float(width), lids=float(lids)), pose, size))


def read_aperture(frames: Iterable[np.ndarray], *, pose: np.ndarray | None = None) -> np.ndarray:
    """How open the mouth looks, per frame: the share of dark or tooth-coloured pixels between the lips, float32 (N,), 0 to 1.

    ``frames`` are square RGB uint8 pictures of the talking head at any size. With the ``pose`` (N, 5) of the performance the
    measured box follows the head; without, it stays where the photograph's mouth is, which suffices for the ordinary sway.
    """
    left, top, right, bottom = MOUTH_BOX
    x, y = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
    shares = []
    for index, frame in enumerate(frames):
        at_x, at_y = x, y
        if pose is not None:
            at_x, at_y = np.moveaxis(posed_points(np.stack([x, y], axis=-1), pose[index]).astype(np.float32), -1, 0)
        scale = frame.shape[0] / SIDE
        mouth = cv2.remap(frame, (at_x + 0.5) * scale - 0.5, (at_y + 0.5) * scale - 0.5, cv2.INTER_LINEAR).astype(np.float32)
        shares.append(_open_share(mouth))
    return np.array(shares, np.float32)


def posed_points(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Where ``points`` (..., 2) of the portrait lie under ``pose`` (5,): px of a frame of SIDE px, for points of the head."""
    x, y = _turned(_matrix(pose), points[..., 0], points[..., 1])
    return np.stack([x + pose[0], y + pose[1]], axis=-1)


def mouth_points(pose: np.ndarray, *, size: int) -> np.ndarray:
    """Corners (4, 2) of the box around the lips at any aperture, in px of a frame of ``size``."""
    left, top, right, bottom = MOUTH_BOX
    corners = np.array([[x, y] for x in (left - _LIPS, right + _LIPS) for y in (top - _LIPS, bottom + _LIPS)], float)
    return (posed_points(corners, pose) + 0.5) * size / SIDE - 0.5


def _open_share(mouth: np.ndarray) -> float:
    """Share of pixels that are neither skin nor lip, judged against the skin in the same box, so that light does not matter."""
    red, green, blue = np.moveaxis(mouth, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    redness = red / (green + 1)
    skin_luma, skin_redness = np.percentile(luma, 75), np.percentile(redness, 40)  # skin also when the mouth is wide open
    teeth = (redness < 0.94 * skin_redness) & (luma > 0.75 * skin_luma)
    return float(((luma < 0.45 * skin_luma) | teeth).mean())


def _posed(face: np.ndarray, pose: np.ndarray, size: int) -> np.ndarray:
    """The face under ``pose``, sampled once at ``size``: the head follows, shoulders and background less and less."""
    x, y = np.meshgrid(*[(np.arange(size, dtype=np.float32) + 0.5) * (SIDE / size) - 0.5] * 2)
    right, down = pose[:2]
    from_x, from_y = _turned(np.linalg.inv(_matrix(pose)), x - right, y - down)
    away = np.hypot((x - _HEAD[0]) / 1.05, (y - _HEAD[1]) / 1.15)
    follow = np.exp(-(np.maximum(0, away - 150) ** 2) / (2 * 80**2))
    return cv2.remap(face, x + (from_x - x) * follow, y + (from_y - y) * follow, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _matrix(pose: np.ndarray) -> np.ndarray:
    """The 2 x 2 part of a pose: roll, shear and size."""
    _, _, roll, size, shear = pose.tolist()
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    return size * np.array([[cos, shear - sin], [sin, cos]], np.float32)


def _turned(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (x, y) after ``matrix`` about the neck."""
    x, y = x - _NECK[0], y - _NECK[1]
    return matrix[0, 0] * x + matrix[0, 1] * y + _NECK[0], matrix[1, 0] * x + matrix[1, 1] * y + _NECK[1]
