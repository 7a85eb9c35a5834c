"""How a face moved from one picture to the next: the similarity of its stable upper part.

Corners on brows, eyes and the bridge of the nose are followed with pyramidal Lucas-Kanade optical flow, there and back, and a
similarity is fitted through those that agree. Mouth and jaw are left out: they move with speech. Knows two pictures at a time.
"""

from __future__ import annotations

import cv2
import numpy as np

from latentsync_ray.faces.look import Still

__all__ = ["CutFinder", "alike", "between", "changed_abruptly", "move", "movement"]

_BROWS = 64.0
"""Pictures are scaled down until the brows are this many px apart: enough for the fit, and the cost no longer grows."""
_LEAST = 8
"""Fewer agreeing corners say nothing."""
_RESIDUAL = 3.0
"""Corners that fit worse than this (median, px at working scale) do not belong to one moving face."""
_ALIKE = 0.4
"""Least correlation of the upper face before and after. Fast nods in real footage went down to 0.66."""
_SAME_PLACE = 0.6
"""The same for a face that is said not to have moved, which nothing else confirms."""
_CUT = 24.0
"""Mean change of a picture (levels, 16 x 16 cells) that is taken for a cut. Lively talk stayed under 8."""


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a homogeneous (3, 3) transform to (N, 2) points."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def movement(before: np.ndarray, after: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
    """The similarity (float64 (3, 3), px) that takes the face at ``landmarks`` in ``before`` to where it is in ``after``.

    Both are uint8 (H, W, 3) RGB. None when the face cannot be followed: covered, gone, cut away, or moved too far.
    """
    if before.shape != after.shape:
        return None
    window, to_window = _window(landmarks, before.shape)
    grey = [_grey(picture[window], to_window[0, 0]) for picture in (before, after)]
    if min(grey[0].shape) < 16:
        return None
    corners = _corners(grey[0], move(to_window, landmarks))
    if len(corners) < _LEAST:
        return None
    options = {"winSize": (15, 15), "maxLevel": 2, "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02)}
    there, found, _ = cv2.calcOpticalFlowPyrLK(grey[0], grey[1], corners, np.empty_like(corners), **options)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(grey[1], grey[0], there, np.empty_like(corners), **options)
    agreeing = (found.ravel() == 1) & (returned.ravel() == 1) & (np.linalg.norm(back - corners, axis=2).ravel() < 0.7)
    if agreeing.sum() < max(_LEAST, len(corners) / 3):
        return None
    fit, residual = _similarity(corners[agreeing, 0], there[agreeing, 0])
    if residual > _RESIDUAL or not 0.8 < np.sqrt(np.linalg.det(fit[:2, :2])) < 1.25:
        return None
    if _correlation(grey[0], grey[1], fit, move(to_window, landmarks)) < _ALIKE:
        return None
    step = np.linalg.inv(to_window) @ fit @ to_window
    middle = move(step, landmarks).mean(0)
    return step if (middle > 0).all() and (middle < after.shape[1::-1]).all() else None


def alike(before: np.ndarray, after: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether the face at ``landmarks`` in ``before`` is plainly in ``after`` too, at the same place and in the same shot.

    For pictures between which ``movement`` fails: one is darker, blurred or repeated with noise. Both uint8 (H, W, 3) RGB.
    """
    if changed_abruptly(before, after):
        return False
    window, to_window = _window(landmarks, before.shape)
    grey = [_grey(picture[window], to_window[0, 0]) for picture in (before, after)]
    return _correlation(grey[0], grey[1], np.eye(3), move(to_window, landmarks)) >= _SAME_PLACE


def between(landmarks: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The similarity, float64 (3, 3), that takes one face's points best to another's: both (3, 2), px."""
    return _similarity(landmarks, other)[0]


def changed_abruptly(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether another picture follows: a cut, rather than motion. Both uint8 (H, W, 3)."""
    both = [_cells(Still(picture).sparse()) for picture in (before, after)]
    return before.shape != after.shape or float(cv2.absdiff(*both).mean()) > _CUT


class CutFinder:
    """Tells cuts picture by picture, looking at each once."""

    def __init__(self) -> None:
        self._before: tuple[tuple[int, ...], np.ndarray] | None = None

    def __call__(self, sparse: np.ndarray) -> bool:
        """Whether this one, some pixels uint8 (h, w, 3) of it, changed abruptly against the one of the call before."""
        before, self._before = self._before, (sparse.shape, _cells(sparse))
        return before is not None and (
            before[0] != self._before[0] or float(cv2.absdiff(before[1], self._before[1]).mean()) > _CUT
        )


def _cells(sparse: np.ndarray) -> np.ndarray:
    """Some pixels of a picture as 16 x 16 cells, each the mean of what lies there."""
    return cv2.resize(np.ascontiguousarray(sparse), (16, 16), interpolation=cv2.INTER_AREA)


def _window(landmarks: np.ndarray, frame_size: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of the frame around the face (rows, columns), and the transform from frame px to that part at working scale."""
    brows = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    x0, y0 = np.maximum(landmarks.mean(0) - 1.4 * brows - 16, 0).astype(int)
    x1, y1 = np.minimum(landmarks.mean(0) + 1.4 * brows + 16, frame_size[1::-1]).astype(int)
    scale = min(1.0, _BROWS / brows)
    shift = (scale - 1) / 2  # pixel centres are whole numbers
    to_window = np.array([[scale, 0, shift - scale * x0], [0, scale, shift - scale * y0], [0, 0, 1]])
    return (slice(y0, y1), slice(x0, x1)), to_window


def _grey(picture: np.ndarray, scale: float) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _corners(grey: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Up to 60 corners in the upper face: float32 (N, 1, 2)."""
    left, right, _ = landmarks
    across = right - left
    down, middle = np.array([-across[1], across[0]]), (left + right) / 2
    outline = [middle + x * across + y * down for x, y in ((-0.85, -0.35), (0.85, -0.35), (0.55, 0.75), (-0.55, 0.75))]
    mask = cv2.fillConvexPoly(np.zeros_like(grey), np.round(outline).astype(np.int32), 255)
    corners = cv2.goodFeaturesToTrack(grey, 60, 0.005, max(2.0, 0.05 * float(np.linalg.norm(across))), mask=mask, blockSize=5)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _similarity(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, float]:
    """The similarity (3, 3) through (N, 2) point pairs, and the median of what remains, px.

    Blinks and brows move some of the points, so each counts the less the worse it fits (Cauchy weights, re-estimated). Choosing
    one consenting subset instead would jump between subsets from frame to frame.
    """
    p, q = before[:, 0] + 1j * before[:, 1], after[:, 0] + 1j * after[:, 1]  # turn and scale = multiply by a complex number
    turn, shift = 1 + 0j, complex(np.median((q - p).real), np.median((q - p).imag))
    for _ in range(5):
        off = np.abs(turn * p + shift - q)
        weight = 1 / (1 + (off / (1.5 * np.median(off) + 1e-3)) ** 2)
        weight /= weight.sum()
        p_mean, q_mean = weight @ p, weight @ q
        turn = (weight * (p - p_mean).conj()) @ (q - q_mean) / (weight @ np.abs(p - p_mean) ** 2)
        shift = q_mean - turn * p_mean
    fit = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])
    return fit, float(np.median(np.abs(turn * p + shift - q)))


def _correlation(before: np.ndarray, after: np.ndarray, fit: np.ndarray, landmarks: np.ndarray) -> float:
    """How alike the upper face looks in both pictures once the movement is undone: -1..1."""
    upright = cv2.getAffineTransform(landmarks.astype(np.float32), np.array([[8, 6], [24, 6], [16, 14]], np.float32))
    upright = np.vstack([upright, [0, 0, 1]])
    undone = upright @ np.linalg.inv(fit)
    patches = [cv2.warpAffine(p, m[:2], (32, 16)).ravel().astype(np.float64) for p, m in ((before, upright), (after, undone))]
    if min(patch.std() for patch in patches) < 1:
        return 0.0
    first, second = ((patch - patch.mean()) / patch.std() for patch in patches)
    return float((first * second).mean())
