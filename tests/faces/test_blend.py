from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync_ray.faces.align import affine, crop_box, crop_face, of_stored_pixels, square_pixels
from latentsync_ray.faces.blend import PasteMode, _patch, blend_planes, blend_rgb
from latentsync_ray.models.latentsync.template import template

Reader = Callable[[Path], np.ndarray]

BT709 = np.array([[0.1826, 0.6142, 0.0620], [-0.1006, -0.3386, 0.4392], [0.4392, -0.3989, -0.0403]], np.float32)
OFFSET = np.array([16, 128, 128], np.float32)
MODES: list[PasteMode] = ["mask", "crop"]


@pytest.fixture
def face_in_frame(scene: Callable[..., np.ndarray], pose: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A frame and the (3, 2) points of the face in it, rolled by 8 degrees."""
    placed = pose(300, 200, 1.6, 8)
    return scene(placed), cv2.transform(np.array([[[202, 95], [245, 95], [223, 121]]], np.float64), placed)[0]


def planes(height: int = 480, width: int = 640) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return tuple(rng.integers(20, 230, size, np.uint8) for size in [(height, width), *[(height // 2, width // 2)] * 2])  # type: ignore[return-value]


def test_composites_are_the_official_ones(official: Path, rgb: Reader) -> None:
    cases = np.load(official / "warp_restore.npz")
    names = [path.name.removesuffix(".composite.png") for path in sorted(official.glob("*.composite.png"))]
    assert {"frame0.r256", "edge.r256"} <= set(names)
    for name in names:
        frame, wanted = rgb(official / f"{name.split('.')[0]}.png"), rgb(official / f"{name}.composite.png")
        generated = cases[f"{name}.generated_i8"].transpose(1, 2, 0).astype(np.float32) / 64
        off = np.abs(
            blend_rgb(frame, generated, cases[f"{name}.matrix"], template(len(generated)), mode="crop").astype(int) - wanted
        )
        assert off.max() <= 2, name
        assert (off == 0).mean() >= 0.98, name


def test_soft_mask_of_the_whole_crop_is_the_official_one(reference: Path) -> None:
    cases = np.load(reference / "align" / "warp_restore.npz")
    wanted = cases["frame0.r256.soft_mask"]
    generated = cases["frame0.r256.generated_i8"].transpose(1, 2, 0).astype(np.float32) / 64
    (x0, y0, x1, y1), patch = _patch(generated, cases["frame0.r256.matrix"], template(256), wanted.shape, "crop")
    found = np.zeros_like(wanted)
    found[y0:y1, x0:x1] = patch[..., 3]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_only_what_the_model_generates_is_touched(resolution: int, face_in_frame: tuple[np.ndarray, np.ndarray]) -> None:
    frame, landmarks = face_in_frame
    matrix = affine(landmarks, template(resolution))
    stranger = np.full((resolution, resolution, 3), (255, 0, 255), np.uint8)
    changed = (blend_rgb(frame, stranger, matrix, template(resolution)) != frame).any(-1)
    in_crop = cv2.warpAffine(1 - template(resolution).keep, _face_to_frame(matrix, resolution), (640, 480))
    assert not changed[in_crop == 0].any()
    assert changed[in_crop > 0].mean() > 0.9
    result = blend_rgb(frame, stranger, matrix, template(resolution))
    assert (result[cv2.erode(in_crop, np.ones((41, 41))) == 1] == (255, 0, 255)).all()


def _face_to_frame(matrix: np.ndarray, resolution: int) -> np.ndarray:
    width, height = template(resolution).size
    to_crop = np.array(
        [[width / resolution, 0, width / resolution / 2 - 0.5], [0, height / resolution, height / resolution / 2 - 0.5]]
    )
    to_frame = np.linalg.inv(np.vstack([matrix.astype(np.float64), [0, 0, 1]]))
    return (to_frame @ np.vstack([to_crop, [0, 0, 1]]))[:2]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resolution", [256, 512])
def test_pasting_the_face_back_unchanged_alters_little(
    mode: PasteMode, resolution: int, face_in_frame: tuple[np.ndarray, np.ndarray]
) -> None:
    frame, landmarks = face_in_frame
    matrix = affine(landmarks, template(resolution))
    result = blend_rgb(frame, crop_face(frame, matrix, template(resolution)), matrix, template(resolution), mode=mode)
    x0, y0, x1, y1 = crop_box(matrix, template(resolution))
    error = result[y0:y1, x0:x1].astype(np.float64) - frame[y0:y1, x0:x1]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35
    assert abs(error.mean()) < {"mask": 0.6, "crop": 1.1}[mode]  # no step in brightness but for what truncation takes


def test_bytes_and_floats_are_the_same_face(face_in_frame: tuple[np.ndarray, np.ndarray]) -> None:
    frame, landmarks = face_in_frame
    matrix = affine(landmarks, template(256))
    face = crop_face(frame, matrix, template(256))[:, ::-1]
    face.setflags(write=False)
    for mode in MODES:
        as_float = blend_rgb(frame, face / np.float32(127.5) - 1, matrix, template(256), mode=mode)
        assert np.abs(blend_rgb(frame, face, matrix, template(256), mode=mode).astype(int) - as_float).max() <= 1


@pytest.mark.parametrize("mode", MODES)
def test_planes_receive_what_the_rgb_frame_receives(mode: PasteMode, face_in_frame: tuple[np.ndarray, np.ndarray]) -> None:
    frame, landmarks = face_in_frame
    matrix = affine(landmarks, template(256))
    face = crop_face(frame, matrix, template(256))[::-1]
    wanted = blend_rgb(frame, face, matrix, template(256), mode=mode) @ BT709.T + OFFSET
    yuv = frame @ BT709.T + OFFSET
    half = [cv2.resize(yuv[..., channel], (320, 240), interpolation=cv2.INTER_AREA) for channel in (1, 2)]
    y, u, v = (np.rint(plane).astype(np.uint8) for plane in (yuv[..., 0], *half))
    blend_planes(y, u, v, face, matrix, template(256), matrix=BT709, offset=OFFSET, mode=mode)
    assert np.abs(y - wanted[..., 0]).max() < 2
    for plane, channel in ((u, 1), (v, 2)):
        assert np.abs(plane - cv2.resize(wanted[..., channel], (320, 240), interpolation=cv2.INTER_AREA)).max() < 2


@pytest.mark.parametrize("mode", MODES)
def test_samples_without_weight_keep_their_value(mode: PasteMode, face_in_frame: tuple[np.ndarray, np.ndarray]) -> None:
    matrix = affine(face_in_frame[1], template(256))
    before = planes()
    after = [plane.copy() for plane in before]
    face = np.zeros((256, 256, 3), np.uint8)
    blend_planes(*after, face, matrix, template(256), matrix=BT709, offset=OFFSET, mode=mode)  # type: ignore[call-arg]
    (x0, y0, x1, y1), patch = _patch(face, matrix, template(256), (480, 640), mode)
    weight = np.zeros((480, 640), np.float32)
    weight[y0:y1, x0:x1] = patch[..., 3]
    for old, new, covered in zip(before, after, [weight, *[weight.reshape(240, 2, 320, 2).max((1, 3))] * 2], strict=True):
        assert np.array_equal(old[covered == 0], new[covered == 0])
        assert (old != new)[covered == 1].mean() > 0.9


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("middle", [(2, 3), (638, 240), (-500, 100), (320, 900)])
def test_faces_at_and_beyond_the_border(mode: PasteMode, middle: tuple[int, int]) -> None:
    matrix = affine(np.array([[-40, -30], [40, -30], [0, 20]]) + middle, template(256))
    y, u, v = planes()
    blend_planes(y, u, v, np.zeros((256, 256, 3), np.uint8), matrix, template(256), matrix=BT709, offset=OFFSET, mode=mode)
    frame = np.full((480, 640, 3), 200, np.uint8)
    assert blend_rgb(frame, np.zeros((256, 256, 3), np.uint8), matrix, template(256), mode=mode).shape == frame.shape


@pytest.mark.parametrize("mode", MODES)
def test_a_face_of_a_few_pixels(mode: PasteMode) -> None:
    frame = np.full((60, 80, 3), 200, np.uint8)
    matrix = affine(np.array([[38, 28], [42, 28], [40, 30]]), template(256))
    result = blend_rgb(frame, np.zeros((256, 256, 3), np.uint8), matrix, template(256), mode=mode)
    assert (result != frame).any()
    assert (result[:20] == 200).all()


def test_a_small_face_does_not_alias() -> None:
    """Fine stripes that the frame cannot show become their mean, whatever their phase."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = affine(np.array([[92, 92], [108, 92], [100, 100]]), template(512))
    result = blend_rgb(np.full((200, 200, 3), 127, np.uint8), stripes, matrix, template(512))
    assert np.abs(result.astype(int) - 127).max() < 12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aspect", [2.0, 0.5])
def test_a_face_pasted_into_flat_pixels_looks_as_in_square_ones(face_in_frame, mode: PasteMode, aspect: float) -> None:
    frame, landmarks = face_in_frame
    size = (320, 480) if aspect > 1 else (640, 240)
    stored, matrix = cv2.resize(frame, size, interpolation=cv2.INTER_AREA), affine(landmarks, template(128))
    face = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    face = cv2.resize(face, (128, 128), interpolation=cv2.INTER_CUBIC)
    pasted = blend_rgb(stored, face, of_stored_pixels(matrix, aspect, size=size), template(128), mode=mode)
    wanted = blend_rgb(square_pixels(stored, aspect), face, matrix, template(128), mode=mode)
    changed = (square_pixels(pasted, aspect) != square_pixels(stored, aspect)).any(-1)
    expected = (wanted != square_pixels(stored, aspect)).any(-1)
    assert (changed & expected).sum() > 0.93 * (changed | expected).sum()
    assert np.abs(square_pixels(pasted, aspect)[expected].astype(int) - wanted[expected]).mean() < 6
