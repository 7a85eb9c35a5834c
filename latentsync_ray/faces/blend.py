"""Put the generated face back where it was cut out, touching nothing else of the frame.

Two masks. ``"mask"`` blends only what the model generated, feathered inward, so that the rest of the skin stays as filmed;
``"crop"`` blends the whole crop as the official code does (LatentSync 1.6, ``restore_img``). Knows the geometry of ``align``;
knows nothing about files or codecs: the caller owns the frame.

A patch is what one box of the frame receives: float32 (h, w, 4), red, green, blue (0..255) times weight, and the weight (0..1).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import cv2
import numpy as np

from latentsync_ray.faces.align import crop_box
from latentsync_ray.template import Template

__all__ = ["PasteMode", "blend_planes", "blend_rgb", "weight_of"]

PasteMode = Literal["mask", "crop"]
_Box = tuple[int, int, int, int]

_SLACK, _JAW = 1.02, 1.12
"""By how much the edge of the face is widened at the sides, for the detector's error, and at the chin, for a jaw that drops."""
_FEATHER = 24
"""In mode "mask" the seam is 1/24 of the face's side wide, 10 px at 256. Chosen by eye."""


def blend_rgb(
    frame: np.ndarray, face: np.ndarray, affine: np.ndarray, template: Template, *, mode: PasteMode = "mask"
) -> np.ndarray:
    """A copy of ``frame`` (uint8 (H, W, 3) RGB) with ``face`` pasted in.

    ``face`` is (R, R, 3), uint8 or float in [-1, 1] (may overshoot); ``affine`` (2, 3) takes frame px to crop px.
    Mode "crop" truncates to whole levels as the official code does, mode "mask" rounds.
    """
    result = frame.copy()
    (x0, y0, x1, y1), patch = _patch(face, affine, template, frame.shape[:2], mode)
    below = result[y0:y1, x0:x1]
    blended = patch[..., :3] + (1 - patch[..., 3:]) * below
    below[:] = blended if mode == "crop" else np.rint(blended)
    return result


def blend_planes(
    y: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    face: np.ndarray,
    affine: np.ndarray,
    template: Template,
    *,
    matrix: np.ndarray,
    offset: np.ndarray,
    mode: PasteMode = "mask",
    share: float = 1.0,
    outline: np.ndarray | None = None,
) -> None:
    """Paste ``face`` into 8-bit YUV 4:2:0 planes, in place: y (H, W), u and v (H/2, W/2), H and W even.

    ``face`` and ``affine`` as in ``blend_rgb``; ``matrix`` (3, 3) and ``offset`` (3,) turn RGB 0..255 into the clip's YUV
    0..255. Only the face is converted: where the weight is zero every sample keeps its value. ``share`` is how much of the new
    face is shown (0 to 1), ``outline`` (A, 2) the edge of the face in px of the crop, beyond which mode "mask" paints nothing;
    A is 0 where it is not known.
    """
    (x0, y0, x1, y1), patch = _patch(face, affine, template, y.shape, mode, outline=outline)
    if not patch.size:
        return
    if share < 1:
        patch *= np.float32(share)
    to_yuv = np.eye(4, dtype=np.float32)
    to_yuv[:3] = np.column_stack([matrix, offset])  # the offset counts as much as the weight says
    yuv = cv2.transform(patch, to_yuv)
    chroma = cv2.resize(yuv, ((x1 - x0) // 2, (y1 - y0) // 2), interpolation=cv2.INTER_AREA)  # the mean of each 2 x 2
    _mix(y[y0:y1, x0:x1], yuv[..., 0], yuv[..., 3])
    _mix(u[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2], chroma[..., 1], chroma[..., 3])
    _mix(v[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2], chroma[..., 2], chroma[..., 3])


def weight_of(template: Template, outline: np.ndarray, *, side: int, mode: PasteMode = "mask") -> np.ndarray:
    """How much of a new face is shown where, 0 to 1: float32 (side, side). As it is pasted, but small."""
    if mode == "mask":
        weight = _small(template, side)
        return weight * _within(outline, template.size, (side, side)) if len(outline) else weight
    edge = max(side // 20, 1)
    core = np.pad(np.ones((side - 2 * edge, side - 2 * edge), np.float32), edge)
    return cv2.GaussianBlur(core, (2 * edge + 1, 2 * edge + 1), 0.3 * (edge - 1) + 0.8)


@cache
def _small(template: Template, side: int) -> np.ndarray:
    return cv2.resize(_feathered(template), (side, side), interpolation=cv2.INTER_AREA)


def _mix(plane: np.ndarray, weighted: np.ndarray, weight: np.ndarray) -> None:
    plane[:] = np.clip(np.rint(weighted + (1 - weight) * plane), 0, 255)


def _patch(
    face: np.ndarray,
    affine: np.ndarray,
    template: Template,
    frame_size: tuple[int, ...],
    mode: PasteMode,
    *,
    outline: np.ndarray | None = None,
) -> tuple[_Box, np.ndarray]:
    """The box of the frame that changes, and its patch. Even coordinates: whole chroma samples. May be empty."""
    height, width = frame_size
    x0, y0, x1, y1 = crop_box(affine, template, part=template.drawn if mode == "mask" else (0, 0, 1, 1))
    x0, y0, x1, y1 = x0 - x0 % 2, y0 - y0 % 2, x1 + x1 % 2, y1 + y1 % 2
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if x0 >= x1 or y0 >= y1:
        return (0, 0, 0, 0), np.zeros((0, 0, 4), np.float32)
    box = x0, y0, x1, y1
    return box, _repainted(face, affine, template, box, outline) if mode == "mask" else _whole_crop(face, affine, template, box)


def _repainted(face: np.ndarray, affine: np.ndarray, template: Template, box: _Box, outline: np.ndarray | None) -> np.ndarray:
    """The patch of what the model generated."""
    if face.dtype != np.uint8:
        face = np.clip(np.rint(face * 127.5 + 127.5), 0, 255).astype(np.uint8)
    crop, (across, down) = template.size, _zooms(affine)
    # First to the size it has in the frame: sampling a larger picture at fewer points would alias and shimmer.
    size = max(1, round(crop[0] / across)), max(1, round(crop[1] / down))
    weight = cv2.resize(_feathered(template), size, interpolation=cv2.INTER_LINEAR)
    if outline is not None and len(outline):
        weight = weight * _within(outline, crop, size)
    return _warp(_weighted(_resize(face, size), weight), affine, crop, box)


def _within(outline: np.ndarray, crop: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Weight of what lies within the edge of the face: float32 (h, w) of ``size``, rising inward from 0 to 1.

    ``outline`` (A, 2) is in px of the ``crop``. Below the chin there is room: a jaw that drops takes the edge along.
    """
    centre = outline.mean(0)
    away = outline - centre
    lower = np.clip(away[:, 1] / max(float(away[:, 1].max()), 1.0), 0, 1)[:, None] ** 4
    grown = centre + away * (_SLACK + (_JAW - _SLACK) * lower)
    polygon = ((grown + 0.5) * np.array(size) / crop - 0.5) * 16
    inside = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(inside, [np.rint(polygon).astype(np.int32)], 1, lineType=cv2.LINE_8, shift=4)
    bordered = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(bordered, cv2.DIST_L2, 3)[1:-1, 1:-1]
    ramp = np.clip(distance * (_FEATHER / max(size)), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _zooms(affine: np.ndarray) -> tuple[float, float]:
    """Crop px per frame px, along the crop's width and its height: equal unless the frame's pixels are not square."""
    linear = affine[:, :2]
    if np.linalg.cond(linear) < 1.001:  # a similarity, but for rounding
        zoom = np.sqrt(np.linalg.det(linear))
        return zoom, zoom
    across, down = np.linalg.norm(np.linalg.inv(linear), axis=0)
    return 1 / across, 1 / down


def _whole_crop(face: np.ndarray, affine: np.ndarray, template: Template, box: _Box) -> np.ndarray:
    """The patch of the whole crop, in the official order and sizes."""
    if face.dtype == np.uint8:
        face = face / np.float32(127.5) - 1
    crop = template.size
    outside = (127,) * 3  # in a picture of -1..1: the outermost pixels turn white, as they do in the official code
    pixels = _warp(_resize(face.astype(np.float32), crop), affine, crop, box, borderValue=outside)
    covered = cv2.erode(_warp(np.ones(crop[::-1], np.float32), affine, crop, box), np.ones((2, 2), np.uint8))
    pixels = np.clip(pixels / 2 + 0.5, 0, 1) * (255 * covered[..., None])
    edge = int(np.sqrt(covered.sum())) // 20
    if not edge:  # a face under 20 px: too small for a seam
        return _weighted(pixels, covered)
    core = cv2.erode(covered, np.ones((2 * edge, 2 * edge), np.uint8))
    return _weighted(pixels, cv2.GaussianBlur(core, (2 * edge + 1, 2 * edge + 1), 0.3 * (edge - 1) + 0.8))


def _weighted(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    patch = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA).astype(np.float32, copy=False)
    patch[..., 3] = 1
    return cv2.multiply(patch, cv2.merge([weight] * 4), dst=patch)


def _resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a uint8 or float32 (h, w, 3) picture to (width, height): bicubic with antialiasing, as torchvision does it."""
    import torch

    planes = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size[::-1], mode="bicubic", align_corners=False, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _warp(picture: np.ndarray, affine: np.ndarray, crop: tuple[int, int], box: _Box, **border: Any) -> np.ndarray:
    """What ``box`` of the frame shows of a picture that covers the crop at any size. Bilinear; by default zero outside."""
    x0, y0, x1, y1 = box
    matrix = np.asarray(affine, np.float64).copy()
    matrix[:, 2] += matrix[:, :2] @ (x0, y0)
    scale = np.array([[picture.shape[1] / crop[0]], [picture.shape[0] / crop[1]]])
    matrix *= scale
    matrix[:, 2:] += (scale - 1) / 2  # pixel centres are whole numbers
    return cv2.warpAffine(picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, **border)


@cache
def _feathered(template: Template) -> np.ndarray:
    """Weight of what the model generated: float32 (R, R), zero outside and on the outline, rising inward to 1."""
    distance = cv2.distanceTransform((template.keep < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    ramp = np.clip((distance - 1) * _FEATHER / template.side, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)
