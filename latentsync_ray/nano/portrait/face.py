"""One face, its mouth and lids moved: a photograph becomes a puppet by sliding layers of skin over each other.

The photograph is the NASA portrait of Eileen Collins (public domain) that scikit-image ships. All positions are px of
``portrait()``, a square of SIDE px; the contours were measured on it by eye, eightfold enlarged.
Knows nothing about time, speech or poses.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

__all__ = ["MOUTH_BOX", "SIDE", "make_face", "portrait"]

SIDE = 512
MOUTH_BOX = (208, 274, 304, 328)
"""Left, top, right, bottom of everything between the lips at any aperture."""

_LIP_CORNERS = (216.2, 295.6)
_UPPER_LIP = [(216.2, 280.2), (227.3, 282.1), (243.5, 285.6), (254.8, 287.3), (266.6, 286.5), (284.0, 284.1), (295.6, 283.0)]
_LOWER_LIP = [(216.2, 280.2), (227.4, 291.9), (243.1, 299.7), (253.9, 301.3), (265.2, 300.6), (282.5, 294.0), (295.6, 283.0)]
"""Inner edges of the lips, image left to right: the lower one is 14 px below the upper one, with teeth between."""
_RESTING = 0.35
"""Aperture of the photograph: below it the lower lip rises to hide the teeth, above it the jaw drops and the dark appears."""
_DROP = 19.0
"""How far the lower lip is below its place in the photograph at aperture 1."""
_MOUTH = np.s_[176:440, 140:372]
"""Rows and columns that the mouth moves: nose to neck, cheek to cheek."""

_EYES = (
    (
        [(195, 203), (200, 199.5), (207, 197), (215, 195.5), (222, 196.5), (229, 201), (236, 207.5)],
        [(195, 203.5), (202, 206.5), (210, 209), (217, 210.5), (224, 210.5), (230, 209.5), (236, 208.5)],
    ),
    (
        [(281, 209), (287, 205), (293, 202), (300, 199.5), (308, 199), (315, 202), (321, 205), (327, 208)],
        [(281, 210.5), (288, 212.5), (295, 213.5), (302, 215), (310, 214.5), (318, 212), (327, 209)],
    ),
)
"""Upper and lower lid edge of each eye, image left to right."""
_LASHES = 5.0
"""Height of the upper lid's dark rim, which moves without being stretched."""
_BROW_GAP = 13.0
"""Height of the skin above the upper lid edge that stretches when the eye closes (it ends below the brow)."""


@functools.cache
def portrait() -> np.ndarray:
    """The photograph as (SIDE, SIDE, 3) float32 RGB, 0 to 255: head and shoulders, enlarged twice, lightly sharpened."""
    from skimage import data

    enlarged = cv2.resize(data.astronaut()[0:256, 96:352], (SIDE, SIDE), interpolation=cv2.INTER_LANCZOS4).astype(np.float32)
    sharp = np.clip(1.35 * enlarged - 0.35 * cv2.GaussianBlur(enlarged, (0, 0), 1.6), 0, 255)
    sharp.setflags(write=False)
    return sharp


def make_face(aperture: float, width: float = 0.0, *, lids: float = 0.0) -> np.ndarray:
    """The portrait with this mouth and these eyes: (SIDE, SIDE, 3) float32 RGB, 0 to 255.

    ``aperture`` runs from 0 (lips closed) to 1 (jaw dropped), ``width`` from -1 (rounded) to 1 (stretched), ``lids`` from 0
    (eyes open) to 1 (closed).
    """
    face = portrait().copy()
    face[_MOUTH] = _mouth(float(np.clip(aperture, 0, 1)), float(np.clip(width, -1, 1)))
    if lids > 0:
        for upper, lower in _EYES:
            _close_eye(face, upper, lower, min(lids, 1.0))
    return face


def _mouth(aperture: float, width: float) -> np.ndarray:
    """The _MOUTH region: the upper lip's layer, the cavity painted into it, the jaw's layer laid over both."""
    rows, columns = _grid(_MOUTH)
    x, upper, lower = columns[0], _curve(_UPPER_LIP, columns[0]), _curve(_LOWER_LIP, columns[0])
    left, right = _LIP_CORNERS
    u = (2 * x - left - right) / (right - left)  # -1 and 1 at the corners of the mouth
    arch = np.maximum(0, 1 - u * u)
    opened = max(0.0, (aperture - _RESTING) / (1 - _RESTING))
    closed = max(0.0, 1 - aperture / _RESTING)

    lip = opened * _DROP * arch**0.65 - closed * 0.97 * (lower - upper)  # not quite closed: lips do not overlap
    chin = (opened * 0.95 * _DROP - closed * 9.0) * np.exp(-((np.abs(u) / 1.75) ** 4))  # cheeks beside the chin stay
    depth = rows - lower
    from_lip = _ramp(0, 34, depth)  # the chin's own movement takes over towards its tip, 54 px down, and the neck stays
    jaw_source = _pull((lip * (1 - from_lip) + chin * from_lip) * (1 - _ramp(50, 104, depth)), rows)
    height = upper - rows
    raised = 2.5 * opened * arch**0.8 * (1 - _ramp(2, 20, height)) * _ramp(-20, 0, height)
    head_source = _pull(-raised, rows)

    head = cv2.remap(portrait(), columns, head_source, cv2.INTER_CUBIC)
    jaw = cv2.remap(portrait(), columns, jaw_source, cv2.INTER_CUBIC)
    teeth_end = lower - 2  # the upper teeth belong to the skull
    cavity, visible = _cavity(np.broadcast_to(u, rows.shape), head_source - teeth_end, opened)
    mouth = _over(head, cavity, visible)
    mouth = _over(mouth, jaw, _ramp(-1.6, 1.2, jaw_source - lower))
    return _stretch(mouth, rows, columns, width) if width else mouth


def _cavity(u: np.ndarray, depth: np.ndarray, opened: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour and opacity of the mouth's inside, ``depth`` px below the upper teeth: dark, a tongue, a hint of lower teeth."""
    down = np.clip(depth / (0.9 * _DROP), 0, 1)
    arch = np.maximum(0, 1 - u * u)
    dark = np.multiply.outer(1 - 0.55 * np.sin(np.pi * down), _rgb(62, 20, 20))
    tongue = np.multiply.outer(opened * np.exp(-((u / 0.55) ** 2) - ((down - 1) / 0.42) ** 2), _rgb(112, 52, 50))
    teeth = 0.55 * np.exp(-((u / 0.5) ** 4)) * _ramp(0.8, 0.98, down) * np.clip(1.2 * opened - 0.35, 0, 1)
    inside = _over(dark + tongue, _rgb(205, 195, 182), teeth)
    shade = 0.62 + 0.38 * _ramp(0, 0.25, arch)  # corners get less light
    opacity = _ramp(-1.2, 1.2, depth) * _ramp(0, 0.06, arch) * min(1.0, 6 * opened)
    return (inside * shade[..., None]).astype(np.float32), opacity


def _stretch(mouth: np.ndarray, rows: np.ndarray, columns: np.ndarray, width: float) -> np.ndarray:
    """Widen or narrow around the mouth's centre, fading out over the cheeks."""
    centre = sum(_LIP_CORNERS) / 2
    near = np.exp(-(((columns - centre) / 75) ** 2) - ((rows - 291) / 38) ** 2)
    source = columns - 0.085 * width * near * (columns - centre)  # 8.5 %: more would tear the cheeks visibly
    return cv2.remap(mouth, source - columns[0, 0], rows - rows[0, 0], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _close_eye(face: np.ndarray, upper: list[tuple[float, float]], lower: list[tuple[float, float]], lids: float) -> None:
    """Draw the upper lid down over the eye, in place: the rim slides, the skin up to the brow stretches after it."""
    (left, _), (right, _) = upper[0], upper[-1]
    highest, lowest = min(y for _, y in upper) - _BROW_GAP, max(y for _, y in lower)
    region = np.s_[int(highest) - 2 : int(lowest) + 6, int(left) : int(right) + 1]
    rows, columns = _grid(region)
    top, bottom = _curve(upper, columns[0]), _curve(lower, columns[0])
    edge = top + lids * (bottom - top)
    brow, rim = top - _BROW_GAP, edge - _LASHES
    skin = brow + (rows - brow) * (_BROW_GAP - _LASHES) / (rim - brow)
    source = np.where(rows < brow, rows, np.where(rows < rim, skin, rows - edge + top)).astype(np.float32)
    lid = cv2.remap(portrait(), columns, source, cv2.INTER_CUBIC)
    face[region] = _over(face[region], lid, 1 - _ramp(-0.5, 1.5, rows - edge))


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _grid(region: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel of ``region``, float32."""
    rows, columns = np.mgrid[region].astype(np.float32)
    return rows, columns


def _curve(points: list[tuple[float, float]], x: np.ndarray) -> np.ndarray:
    """Height of a measured contour at each column: a quartic along its points, without their kinks, level beyond its ends."""
    at, height = np.transpose(points)
    return np.polynomial.Polynomial.fit(at, height, 4)(np.clip(x, at[0], at[-1])).astype(np.float32)


def _pull(shift: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where each pixel comes from when the pixel at row y moves down by ``shift``; exact, as no column folds over itself."""
    y = rows[:, 0]
    sources = [np.interp(y, y + shift[:, column], y) for column in range(shift.shape[1])]
    return np.stack(sources, axis=1).astype(np.float32)


def _ramp(start: float, stop: float, value: np.ndarray) -> np.ndarray:
    """0 before ``start``, 1 after ``stop``, smooth between."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def _over(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """``above`` laid over ``below``; ``opacity`` is (H, W), 0 to 1."""
    return below + (above - below) * opacity[..., None].astype(np.float32)
