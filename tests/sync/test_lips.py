"""What is read of lips: the opening that was drawn, whatever the light, and the same bits whatever else is read."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.portrait import Light, Performance, posed_points, render_clip
from latentsync_ray.sync.lips import FACTS, normalised, read_lips, seen_mouth

OPENINGS = np.abs(np.sin(np.arange(24) / 3)).astype(np.float32)
SEEN = np.array([(208.2, 175.8), (311.7, 181.8), (254.2, 250.4)])
"""Brows and nose of the portrait, px of 512."""


def cut(side: int, light: Light | None = None) -> np.ndarray:
    performance = Performance.of_mouth(OPENINGS, seed=3, motion=0.5)
    size = 320
    faces = []
    for picture, pose in zip(render_clip(performance, size=size, light=light), performance.pose, strict=True):
        matrix = affine((posed_points(SEEN, pose) + 0.5) * size / 512 - 0.5, template(side))
        faces.append(crop_face(picture, matrix, template(side)))
    return np.stack(faces)


def read(faces: np.ndarray) -> np.ndarray:
    return read_lips(faces, np.arange(len(faces)), template(faces.shape[1]).mouth)


@pytest.mark.parametrize("side", [64, 256])
def test_the_opening_is_read_off_a_head_that_no_network_has_seen(side: int) -> None:
    assert np.corrcoef(read(cut(side))[:, 0], OPENINGS)[0, 1] > 0.9


def test_light_changes_little() -> None:
    bright, dark = read(cut(128)), read(cut(128, Light(gain=(0.6, 0.55, 0.5), side=0.2)))
    assert np.corrcoef(bright[:, 0], dark[:, 0])[0, 1] > 0.95


def test_a_frame_is_read_alone() -> None:
    faces = cut(64)
    whole, mouth = read(faces), template(64).mouth
    assert np.array_equal(np.concatenate([read(faces[:5]), read(faces[5:])]), whole)
    assert np.array_equal(read_lips(faces, np.array([7]), mouth), whole[7:8])


def test_a_frame_without_a_face_is_unknown() -> None:
    lips = read_lips(cut(64)[:2], np.array([-1, 1, 0]), template(64).mouth)
    assert lips.shape == (3, FACTS)
    assert np.isnan(lips).all(axis=1).tolist() == [True, False, False]
    assert read_lips(np.zeros((0, 64, 64, 3), np.uint8), np.full(4, -1), template(64).mouth).shape == (4, FACTS)


def test_what_is_looked_at_keeps_its_place_at_every_size() -> None:
    """The middle of what is looked at is that of the mouth's box, a third of its height above."""
    left, top, right, bottom = template(256).mouth
    for side in (64, 256, 512):
        face = np.zeros((side, side, 3), np.uint8)
        face[round((top - 0.2 * (bottom - top)) * side) : round(bottom * side), round(left * side) : round(right * side)] = 200
        seen = seen_mouth(face, template(side).mouth)[..., 0]
        assert seen.shape == (40, 56)
        columns = np.flatnonzero(seen.mean(0) > 60)
        assert columns[0] + columns[-1] == pytest.approx(55, abs=1.5)
        assert seen[:6].max() < 100 < seen[20, 28]


def test_a_flat_picture_says_nothing_and_is_finite() -> None:
    assert not normalised(np.full((40, 56, 3), 127, np.uint8)).any()
    assert np.isfinite(read(np.zeros((1, 64, 64, 3), np.uint8))).all()
