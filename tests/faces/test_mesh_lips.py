"""Lips read by the face mesh off aligned crops: the opening that was drawn, at any size, a frame alone."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.faces.lips import MeshLips
from latentsync_ray.faces.mesh_files import find_mesh_files
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.portrait import Performance, posed_points, render_clip

OPENINGS = np.abs(np.sin(np.arange(24) / 3)).astype(np.float32)
SEEN = np.array([(208.2, 175.8), (311.7, 181.8), (254.2, 250.4)])
"""Brows and nose of the portrait, px of 512."""
needs_files = pytest.mark.skipif(find_mesh_files(bundled=False) is None, reason="the face mesh's files are not here")


def cut(side: int) -> np.ndarray:
    performance = Performance.of_mouth(OPENINGS, seed=3, motion=0.5)
    faces = []
    for picture, pose in zip(render_clip(performance, size=320), performance.pose, strict=True):
        matrix = affine((posed_points(SEEN, pose) + 0.5) * 320 / 512 - 0.5, template(side))
        faces.append(crop_face(picture, matrix, template(side)))
    return np.stack(faces)


def reader(side: int) -> MeshLips:
    made = MeshLips.of_detector("mesh", template(side))
    assert made is not None
    return made


@needs_files
@pytest.mark.parametrize("side", [64, 256])
def test_the_opening_is_read(side: int) -> None:
    lips = reader(side)(cut(side), np.arange(24))
    assert lips.shape == (24, 3)
    assert np.corrcoef(lips[:, 0], OPENINGS)[0, 1] > 0.9


@needs_files
def test_a_frame_is_read_alone_and_one_without_a_face_is_unknown() -> None:
    faces, read = cut(96), reader(96)
    whole = read(faces, np.arange(24))
    assert np.array_equal(read(faces[7:9], np.array([1, 0])), whole[[8, 7]])
    gaps = read(faces, np.array([3, -1]))
    assert np.array_equal(gaps[0], whole[3])
    assert np.isnan(gaps[1]).all()


def test_other_detectors_leave_it_to_the_network_of_our_own() -> None:
    assert MeshLips.of_detector("embedded", template(64)) is None
    assert MeshLips.of_detector("mesh-v2", template(64)) is None
    assert MeshLips.of_detector("auto", template(64)) is None
