from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync_ray.faces.align import (
    OUTSIDE,
    OfficialBias,
    affine,
    crop_box,
    crop_face,
    of_stored_pixels,
    square_pixels,
)
from latentsync_ray.models.latentsync.template import template

Reader = Callable[[Path], np.ndarray]


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_template_matrices_and_bias_are_the_official_ones(official: Path, resolution: int) -> None:
    wanted = load_file(official / "matrices.safetensors")
    assert template(resolution).size == tuple(wanted[f"face_size_wh_{resolution}"])
    np.testing.assert_allclose(template(resolution).points, wanted[f"template_{resolution}"], atol=1e-5)
    bias = OfficialBias()
    for row, landmarks in enumerate(wanted["triples_mean"]):
        matrix = bias(landmarks, template(resolution))
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, wanted[f"matrices_smooth_{resolution}"][row], atol=2e-3)
        np.testing.assert_allclose(np.asarray(bias.bias), wanted[f"bias_state_{resolution}"][row], atol=1e-5)
    for landmarks, matrix in zip(wanted["triples_rounded"], wanted[f"matrices_nosmooth_{resolution}"], strict=True):
        np.testing.assert_allclose(affine(landmarks, template(resolution)), matrix, atol=2e-3)
    for landmarks, matrix in zip(wanted["mirrored_triples"], wanted[f"matrices_mirrored_nosmooth_{resolution}"], strict=True):
        found = affine(landmarks, template(resolution))
        np.testing.assert_allclose(found, matrix, atol=2e-3)
        assert np.linalg.det(found[:, :2]) > 0


def test_crop_is_cut_to_the_official_size_where_the_product_is_just_under_a_whole_number() -> None:
    assert template(192).size == (157, 209)


@pytest.mark.parametrize("landmarks", [np.ones((3, 2)), np.full((3, 2), np.nan)])
def test_points_that_span_nothing_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match="three distinct, finite points"):
        affine(landmarks, template(256))


def test_crops_are_the_official_ones(official: Path, rgb: Reader) -> None:
    cases = np.load(official / "warp_restore.npz")
    names = [path.name.removesuffix(".resized.png") for path in sorted(official.glob("*.resized.png"))]
    assert {"frame0.r256", "edge.r256"} <= set(names)
    for name in names:
        frame, wanted = rgb(official / f"{name.split('.')[0]}.png"), rgb(official / f"{name}.resized.png")
        off = np.abs(crop_face(frame, cases[f"{name}.matrix"], template(len(wanted))).astype(int) - wanted)
        assert off.max() <= 2, name
        assert (off == 0).mean() >= 0.98, name


def test_the_small_pipelines_faces_are_the_official_ones(reference: Path, rgb: Reader) -> None:
    wanted = load_file(reference / "pipeline_small" / "golden.safetensors")
    strip = rgb(reference / "pipeline_small" / "faces_strip.png").reshape(-1, 128, 128, 3)
    bias = OfficialBias()
    for row, face in enumerate(strip):
        matrix = bias(wanted["triples_rounded"][row], template(128))
        np.testing.assert_allclose(matrix, wanted["matrices"][row], atol=2e-3)
        frame = rgb(reference / "pipeline_small" / "frames" / f"{row:03d}.png")
        off = np.abs(crop_face(frame, matrix, template(128)).astype(int) - face)
        assert off.max() <= 2
        assert (off == 0).mean() >= 0.98


@pytest.mark.parametrize("official", [True, False])
def test_a_region_of_the_frame_gives_the_same_crop(golden: Path, rgb: Reader, official: bool) -> None:
    frame, matrix = rgb(golden / "faces" / "edge.png"), np.load(golden / "faces" / "warp_restore.npz")["edge.r256.matrix"]
    x0, y0, x1, y1 = crop_box(matrix, template(256))
    left, top = max(x0, 0), max(y0, 0)
    assert (left, top) != (x0, y0) or x1 > frame.shape[1] or y1 > frame.shape[0]  # part of it is outside
    region = frame[top : max(y1, 0), left : max(x1, 0)]
    part = crop_face(region, matrix, template(256), origin=(left, top), official=official)
    assert np.array_equal(part, crop_face(frame, matrix, template(256), official=official))


@pytest.mark.parametrize("official", [True, False])
def test_a_crop_outside_the_frame_is_grey(official: bool) -> None:
    matrix = affine(np.array([[-900, -900], [-800, -900], [-850, -840]]), template(128))
    assert (crop_face(np.zeros((50, 60, 3), np.uint8), matrix, template(128), official=official) == OUTSIDE).all()


def test_the_unofficial_crop_is_the_official_one_without_its_truncation(portrait: np.ndarray) -> None:
    matrix = affine(np.array([[202.3, 94.8], [246.9, 95.1], [224.2, 121.4]]), template(512))
    official, ours = (crop_face(portrait, matrix, template(512), official=each).astype(int) for each in (True, False))
    assert (np.abs(ours - official) > 3).mean() < 1e-4, "at the sharpest edges, Lanczos rings"
    assert 0.3 < (ours - official).mean() < 0.5, "half a level, where nothing is clipped"


@pytest.mark.parametrize("size", [128, 256, 512])
def test_the_unofficial_crop_is_one_bilinear_sampling(portrait: np.ndarray, size: int) -> None:
    """Where each pixel of the square looks in the frame, worked out by itself."""
    where, side = template(size), np.arange(size)
    matrix = affine(np.array([[202.3, 94.8], [246.9, 99.1], [224.2, 121.4]]), where)
    x, y = ((side + 0.5) * length / size - 0.5 for length in where.size)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    looked = cv2.transform(grid, cv2.invertAffineTransform(matrix.astype(np.float64)))
    low = np.floor(looked).astype(int)
    (right, down), (left, top) = np.moveaxis(looked - low, -1, 0)[..., None], np.moveaxis(low, -1, 0)
    rows = [(1 - right) * portrait[top + i, left] + right * portrait[top + i, left + 1] for i in (0, 1)]
    wanted = (1 - down) * rows[0] + down * rows[1]
    assert np.abs(crop_face(portrait, matrix, where, official=False) - wanted).max() <= 1


def test_crop_box_holds_every_sample_and_grows_with_its_part() -> None:
    matrix = affine(np.array([[300.2, 200.0], [380.0, 230.5], [330.0, 260.0]]), template(256))
    box, wide = crop_box(matrix, template(256)), crop_box(matrix, template(256), part=(-0.5, -0.5, 1.5, 1.5))
    width, height = template(256).size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    samples = cv2.transform(np.dstack([x, y]).astype(np.float64), cv2.invertAffineTransform(matrix.astype(np.float64)))
    assert samples[..., 0].min() >= box[0]
    assert samples[..., 0].max() <= box[2] - 1
    assert samples[..., 1].min() >= box[1]
    assert samples[..., 1].max() <= box[3] - 1
    assert wide[2] - wide[0] == pytest.approx(2 * (box[2] - box[0]), abs=8)


@pytest.mark.parametrize("aspect", [4 / 3, 16 / 11, 2.0, 0.75, 8 / 9])
@pytest.mark.parametrize("degrees", [0, 12])
def test_pixels_that_are_not_square(scene: Callable, pose: Callable, aspect: float, degrees: float) -> None:
    placed = pose(300, 200, 1.6, degrees)
    shown = cv2.GaussianBlur(scene(placed), (0, 0), 2)
    matrix = affine(cv2.transform(np.array([[[202, 95], [245, 95], [223, 121]]], np.float64), placed)[0], template(128))
    stored_size = (round(640 / aspect), 480) if aspect > 1 else (640, round(480 * aspect))
    stored = cv2.resize(shown, stored_size, interpolation=cv2.INTER_AREA)
    assert square_pixels(stored, aspect).shape == shown.shape
    mapped = of_stored_pixels(matrix, aspect, size=stored_size)
    assert mapped.dtype == np.float32
    wanted = crop_face(shown, matrix, template(128)).astype(int)
    for crop in (crop_face(square_pixels(stored, aspect), matrix, template(128)), crop_face(stored, mapped, template(128))):
        assert np.abs(crop - wanted).mean() < 1.5
    assert np.abs(crop_face(stored, matrix, template(128)) - wanted).mean() > 15


@pytest.mark.parametrize("aspect", [1.0, 1.0001, 100.0, 0.01])
def test_square_pixels_and_absurd_ones_are_left_alone(scene: Callable, aspect: float) -> None:
    picture, matrix = scene(), np.ones((2, 3), np.float32)
    assert square_pixels(picture, aspect) is picture
    assert of_stored_pixels(matrix, aspect, size=(640, 480)) is matrix
