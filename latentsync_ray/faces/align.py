"""From three points of a face to the square picture that the model sees.

Knows LatentSync's similarity fit and its way of sampling (LatentSync 1.6, ``AlignRestore``). Knows nothing about detectors, and
of the model only its template. Pixel coordinates: the centre of the top-left pixel is (0, 0). Needs OpenCV 5: older versions
place bilinear samples on a 1/32 px grid, which changes 4 % of the crop's values by a grey level or two.
"""

from __future__ import annotations

import cv2
import numpy as np

from latentsync_ray.template import Shares, Template

__all__ = [
    "OUTSIDE",
    "OfficialBias",
    "affine",
    "box_around",
    "crop_box",
    "crop_face",
    "of_stored_pixels",
    "shown_size",
    "square_pixels",
]

OUTSIDE = 127
"""Grey level of crop pixels that lie outside the frame."""

_FACE = Template(
    side=256,
    size=(210, 280),
    points=np.array([[47.6, 56], [162.4, 56], [105, 112]]),
    keep=np.ones((1, 1), np.float32),
    drawn=(0, 0, 1, 1),
    mouth=(0, 0, 1, 1),
)
"""What of a picture is a face to whoever looks for it again, forehead to chin: no model's, but like LatentSync's."""
_FLATTEST = 4
"""Pixels that are said to be wider or taller than this are taken for square: no format has such, so the header is damaged."""


def square_pixels(picture: np.ndarray, aspect: float) -> np.ndarray:
    """A uint8 (H, W, 3) picture as it is shown: stretched along one side where its pixels are not square.

    ``aspect`` is width over height of a pixel. Faces are found and aligned in such pictures, since they know circles from eggs.
    """
    height, width = picture.shape[:2]
    size = shown_size(width, height, aspect)
    return picture if size == (width, height) else cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)


def of_stored_pixels(matrix: np.ndarray, aspect: float, *, size: tuple[int, int]) -> np.ndarray:
    """The affine for stored pictures of ``size`` (width, height), given that for the same ones after ``square_pixels``."""
    width, height = shown_size(*size, aspect)
    if (width, height) == size:
        return matrix
    scale = np.array([width / size[0], height / size[1]])
    stored = matrix.astype(np.float64)
    stored[:, 2] += stored[:, :2] @ ((scale - 1) / 2)  # pixel centres are whole numbers
    stored[:, :2] *= scale
    return stored.astype(np.float32)


def shown_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height of a picture after ``square_pixels``."""
    if not 1 / _FLATTEST <= aspect <= _FLATTEST:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def affine(landmarks: np.ndarray, template: Template) -> np.ndarray:
    """The similarity that takes a face's (3, 2) points in the frame to the template: float32 (2, 3), frame px -> crop px.

    Scale is the ratio of standard deviations (over all six numbers), not the least-squares one, as in the official code.
    Raises ValueError when the three points coincide or are not finite.
    """
    return _fit(landmarks, template)[0].astype(np.float32)


def _fit(landmarks: np.ndarray, template: Template) -> tuple[np.ndarray, np.ndarray]:
    """The affine in float64, and how far the nose stays off the template's, in standard deviations."""
    source, target = np.asarray(landmarks, np.float64), template.points
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_std, target_std = (source - source_mean).std(ddof=1), (target - target_mean).std(ddof=1)
    if not (np.isfinite(source_std) and source_std > 0):
        raise ValueError(f"three distinct, finite points are needed, got {source.tolist()}")
    source_unit, target_unit = (source - source_mean) / source_std, (target - target_mean) / target_std
    u, _, vt = np.linalg.svd(source_unit.T @ target_unit)
    if np.linalg.det(vt.T @ u.T) < 0:  # a mirrored face is rotated, never reflected
        vt[1] *= -1
    linear = target_std / source_std * vt.T @ u.T
    return np.column_stack([linear, target_mean - linear @ source_mean]), target_unit[2] - source_unit[2]


class OfficialBias:
    """``affine`` as the official code runs it over a clip, for parity: whole pixels, and a running bias. Improves nothing.

    The bias is the nose's offset from the template in standard deviations, averaged over time, and then added to the
    translation as if it were pixels. Call it once per frame in display order; frames without a face are left out.
    """

    def __init__(self) -> None:
        self.bias: np.ndarray | None = None

    def __call__(self, landmarks: np.ndarray, template: Template) -> np.ndarray:
        """float32 (2, 3), frame px -> crop px."""
        matrix, offset = _fit(np.round(landmarks), template)
        self.bias = offset if self.bias is None else 0.2 * self.bias + 0.8 * offset
        matrix[:, 2] += self.bias
        return matrix.astype(np.float32)


def crop_box(matrix: np.ndarray, template: Template, *, part: Shares = (0, 0, 1, 1)) -> tuple[int, int, int, int]:
    """Whole-pixel box (x0, y0, x1, y1), ends excluded, around the crop in the frame; may reach outside the frame.

    ``part`` asks for the same of a part of the crop, or of more than it. The box is a pixel wider on every side, for the
    interpolation.
    """
    corners = np.array([[[part[x], part[y]] for x, y in ((0, 1), (2, 1), (2, 3), (0, 3))]]) * template.size - 0.5
    in_frame = cv2.transform(corners, cv2.invertAffineTransform(np.asarray(matrix, np.float64)))[0]
    x0, y0 = np.floor(in_frame.min(0)).astype(int) - 1
    x1, y1 = np.ceil(in_frame.max(0)).astype(int) + 2
    return int(x0), int(y0), int(x1), int(y1)


def box_around(landmarks: np.ndarray) -> tuple[int, int, int, int]:
    """The box around a face with these (3, 2) points, px of the frame: left, top, right, bottom."""
    return crop_box(affine(landmarks, _FACE), _FACE)


def crop_face(
    image: np.ndarray, matrix: np.ndarray, template: Template, *, origin: tuple[int, int] = (0, 0), official: bool = True
) -> np.ndarray:
    """Cut the aligned face out of a frame: uint8 (R, R, 3).

    ``image`` is the uint8 (H, W, 3) frame, or a region of it whose top-left pixel is at ``origin`` (x, y) and that holds all of
    the crop that lies inside the frame. One bilinear sampling; ``official`` does as LatentSync, which samples at 3:4, truncates
    and squeezes that to a square with Lanczos: 50 dB from it, half a level darker, and four times as slow.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = crop_box(matrix, template)
    left, top = min(max(x0 - origin[0], 0), width - 1), min(max(y0 - origin[1], 0), height - 1)
    needed = image[top : max(y1 - origin[1], top + 1), left : max(x1 - origin[0], left + 1)]
    shifted = np.asarray(matrix, np.float64).copy()
    shifted[:, 2] += shifted[:, :2] @ (origin[0] + left, origin[1] + top)
    square = (template.side, template.side)
    if not official:
        squeeze = np.divide(square, template.size)
        shifted[:, 2] += 0.5  # pixel centres are whole numbers
        shifted = shifted * squeeze[:, None]
        shifted[:, 2] -= 0.5
        return cv2.warpAffine(needed, shifted, square, borderMode=cv2.BORDER_CONSTANT, borderValue=(OUTSIDE,) * 3)
    crop = cv2.warpAffine(
        needed.astype(np.float32), shifted, template.size, borderMode=cv2.BORDER_CONSTANT, borderValue=(OUTSIDE,) * 3
    )
    squeezed = cv2.resize(crop.astype(np.uint8), square, interpolation=cv2.INTER_LANCZOS4)
    return squeezed.astype(np.uint8, copy=False)
