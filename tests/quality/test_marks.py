"""What is noted of a pasted face, on pictures that show one thing each."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from latentsync_ray.faces.align import crop_face
from latentsync_ray.faces.blend import weight_of
from latentsync_ray.media.colour import BT709, colour_matrix
from latentsync_ray.models.find import find_model
from latentsync_ray.quality.marks import TRAITS, Marks, cells_of
from latentsync_ray.quality.views import COARSE, View, Views
from latentsync_ray.template import Template

TEMPLATE = find_model("tiny-random").template
NO_OUTLINE = np.zeros((0, 2), np.float32)
WEIGHT = weight_of(TEMPLATE, NO_OUTLINE, side=COARSE)
MATRIX, OFFSET = colour_matrix(BT709)


def affine_of(zoom: float, degrees: float = 8.0) -> np.ndarray:
    """A face in the middle of a frame of 640 x 480, turned a little; crop px per frame px."""
    centre = (TEMPLATE.size[0] - 1) / 2, (TEMPLATE.size[1] - 1) / 2
    matrix = cv2.getRotationMatrix2D((319.5, 239.5), degrees, zoom)
    matrix[:, 2] += np.array(centre) - (319.5, 239.5)
    return matrix.astype(np.float32)


def skin(side: tuple[int, int] = (480, 640), *, seed: int = 0) -> np.ndarray:
    """Patterns of all sizes: uint8 (H, W)."""
    draw, picture = np.random.default_rng(seed), np.full(side, 128, np.float32)
    for size in (2, 4, 8, 16, 32):
        noise = draw.normal(0, 12, (side[0] // size, side[1] // size)).astype(np.float32)
        picture += cv2.resize(noise, side[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("zoom", [0.25, 0.6, 1.0, 2.5])
def test_a_view_shows_what_the_model_sees(zoom: float) -> None:
    """Whatever the size of the face: a large one is shrunk, not sampled at few points."""
    luma, matrix = skin(), affine_of(zoom)
    view = Views(TEMPLATE)(luma, luma[::2, ::2].copy(), luma[1::2, 1::2].copy(), matrix)
    x0, y0, x1, y1 = Views(TEMPLATE).box
    soft = cv2.GaussianBlur(luma, (0, 0), max(0.4, 0.45 * TEMPLATE.side / 64 / zoom / 2))
    face = crop_face(np.repeat(soft[..., None], 3, -1), matrix, TEMPLATE, official=False)[..., 0]
    seen = cv2.resize(face, (COARSE, COARSE), interpolation=cv2.INTER_AREA)[y0:y1, x0:x1]
    assert view.yuv.shape == (*seen.shape, 3)
    assert view.luma.shape == (2 * (y1 - y0), 2 * (x1 - x0))
    inside = np.s_[4:-4, 4:-4]
    assert np.corrcoef(view.yuv[..., 0][inside].ravel(), seen[inside].ravel())[0, 1] > 0.97
    assert np.abs(view.yuv[..., 1][inside] - view.yuv[..., 0][inside]).mean() < 12


def test_a_face_beyond_the_frame_has_a_view_too() -> None:
    matrix = affine_of(1.0)
    matrix[:, 2] += (600, 500)
    grey = np.full((240, 320), 128, np.uint8)
    view = Views(TEMPLATE)(skin(), grey, grey, matrix)
    assert np.isfinite(view.luma).all()


def traits_of(
    change: np.ndarray | None = None, *, luma: np.ndarray | None = None, weight: np.ndarray = WEIGHT
) -> dict[str, float]:
    """Of a face in whose patch ``luma`` was pasted, and ``change`` (3,) added to the colour."""
    x0, y0, x1, y1 = Views(TEMPLATE).box
    before = _view(skin()[: 2 * COARSE, : 2 * COARSE])
    shown = _view(skin()[: 2 * COARSE, : 2 * COARSE] if luma is None else luma)
    large = cv2.resize(weight[y0:y1, x0:x1], before.luma.shape[::-1])
    fine = before.luma + large * (shown.luma - before.luma + (0 if change is None else change[0]))
    small = weight[y0:y1, x0:x1, None]
    yuv = before.yuv + small * (shown.yuv - before.yuv + (0 if change is None else change))
    marks = Marks(TEMPLATE, 1)
    marks.note(0, before, View(fine.astype(np.float32), yuv.astype(np.float32)), weight)
    return dict(zip(TRAITS, marks.traits(MATRIX, OFFSET)[0].tolist(), strict=True))


def _view(luma: np.ndarray) -> View:
    x0, y0, x1, y1 = (2 * edge for edge in Views(TEMPLATE).box)
    part = luma[y0:y1, x0:x1].astype(np.float32)
    small = cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return View(part, np.stack([small, np.full_like(small, 110), np.full_like(small, 150)], axis=-1))


def test_the_same_face_is_the_same() -> None:
    told = traits_of()
    assert (told["seam"], told["identity"], told["skin_shift"]) == (0, pytest.approx(1), pytest.approx(0, abs=1e-3))
    assert told["detail"] == pytest.approx(told["source_detail"])


@pytest.mark.parametrize("levels", [-8, 8])
def test_a_brighter_or_darker_patch_has_a_seam(levels: int) -> None:
    flat = np.full((2 * COARSE, 2 * COARSE), 128, np.uint8)
    x0, y0, x1, y1 = Views(TEMPLATE).box
    marks, plain = Marks(TEMPLATE, 1), _view(flat)
    brighter = View(plain.luma, plain.yuv + WEIGHT[y0:y1, x0:x1, None] * np.array([levels, 0, 0], np.float32))
    marks.note(0, plain, brighter, WEIGHT)
    assert 7 < marks.traits(MATRIX, OFFSET)[0][TRAITS.index("seam")] <= 8


def test_another_colour_is_a_shift_of_that_size() -> None:
    assert traits_of(np.array([0, 0, 6]))["skin_shift"] == pytest.approx(4, abs=1)
    assert traits_of(np.array([0, 0, 12]))["skin_shift"] > 1.6 * traits_of(np.array([0, 0, 6]))["skin_shift"]
    assert traits_of(np.array([0, 0, 6]))["identity"] == pytest.approx(1), "a colour is no pattern"


def test_blur_costs_sharpness_and_displacement_identity() -> None:
    luma = skin()[: 2 * COARSE, : 2 * COARSE]
    blurred, moved = traits_of(luma=cv2.GaussianBlur(luma, (0, 0), 3)), traits_of(luma=np.roll(luma, 6, axis=1))
    assert np.sqrt(blurred["detail"] / blurred["source_detail"]) < 0.5
    assert np.sqrt(moved["detail"] / moved["source_detail"]) == pytest.approx(1, abs=0.15)
    assert moved["identity"] < 0.7 < traits_of(luma=cv2.GaussianBlur(luma, (0, 0), 1))["identity"]


def test_a_patch_that_is_not_shown_tells_nothing() -> None:
    told = traits_of(weight=np.zeros_like(WEIGHT))
    assert np.isnan([told["seam"], told["identity"], told["skin_shift"]]).all()


@pytest.mark.parametrize("name", ["nano", "tiny-random", "latentsync-1.6"])
def test_cells_show_the_patch_and_in_it_the_lips(name: str) -> None:
    drawn, lips = cells_of(find_model(name).template)
    assert drawn.shape == lips.shape == (8, 12)
    assert 0.5 < drawn.mean() < 0.95
    assert 0.1 < (lips > 0).mean() < 0.4
    assert (lips <= drawn).all()


def test_a_template_of_another_family_will_do() -> None:
    from toy import TOY

    template: Template = TOY.template
    marks, luma = Marks(template, 1), skin()
    matrix = np.array([[0.2, 0, -40], [0, 0.2, -20]], np.float32)
    view = marks.views(luma, luma[::2, ::2].copy(), luma[::2, ::2].copy(), matrix)
    marks.note(0, view, view, weight_of(template, NO_OUTLINE, side=COARSE))
    seam, detail, filmed, identity, shift = marks.traits(MATRIX, OFFSET)[0].tolist()
    assert (seam, identity, shift, detail) == (0, pytest.approx(1), pytest.approx(0, abs=1e-3), filmed)
