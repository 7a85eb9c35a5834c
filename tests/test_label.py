"""What is burnt into frames: a label that can be read, and watermarks that change what they say and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from eight_pairs import decoded, portrait
from make_clips import speech_like, write_clip, write_speech
from pydantic import ValidationError

from latentsync_ray import ConfigError, Recipe, lipsync
from latentsync_ray.label import BurntLabel
from latentsync_ray.marking import Label
from latentsync_ray.media.colour import BT709, Colour, colour_matrix
from latentsync_ray.preflight import check_recipe
from latentsync_ray.watermark import apply_watermark

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1, preset="ultrafast", crf=0)


def planes(width: int, height: int, level: int = 128) -> list[np.ndarray]:
    chroma = [np.full((height // 2, width // 2), 90, np.uint8) for _ in range(2)]
    return [np.full((height, width), level, np.uint8), *chroma]


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
@pytest.mark.parametrize("size", [(64, 36), (640, 360), (1080, 1920)])
def test_a_label_stands_in_its_corner_and_nowhere_else(corner: str, size: tuple[int, int]) -> None:
    y, u, v = planes(*size)
    BurntLabel(Label.model_validate({"text": "AI", "corner": corner, "size": 0.1}), size, *colour_matrix(BT709))(y, u, v)
    rows, columns = np.nonzero(y != 128)
    vertical, horizontal = corner.split("-")
    assert (rows.max() < size[1] / 2) if vertical == "top" else (rows.min() >= size[1] / 2)
    assert (columns.max() < size[0] / 2) if horizontal == "left" else (columns.min() >= size[0] / 2)
    assert rows.min() > 0
    assert columns.max() < size[0] - 1
    changed = np.argwhere(u != 90)
    assert (changed * 2 >= [rows.min() - 1, columns.min() - 1]).all()
    assert (changed * 2 <= [rows.max() + 1, columns.max() + 1]).all()
    assert y.max() > 180, "letters are white"
    assert y.min() < 80, "the plate is dark"


@pytest.mark.parametrize(("level", "colour"), [(16, BT709), (235, BT709), (255, Colour(range=2)), (0, Colour(range=2))])
def test_letters_stand_out_on_anything_and_stay_within_range(level: int, colour: Colour) -> None:
    y, u, v = planes(320, 180, level)
    BurntLabel(Label(text="AI dub", size=0.1), (320, 180), *colour_matrix(colour))(y, u, v)
    plate = y[y != level]
    assert int(plate.max()) - int(plate.min()) > 100
    assert plate.max() <= (255 if colour.full else 235)


def test_text_that_is_too_wide_becomes_smaller() -> None:
    y, u, v = planes(320, 180)
    BurntLabel(Label(text="X" * 60, size=0.2), (320, 180), *colour_matrix(BT709))(y, u, v)
    rows, columns = np.nonzero(y != 128)
    assert columns.min() > 0
    assert rows.max() - rows.min() < 20


@pytest.mark.parametrize("size", [(2, 2), (4, 64), (16, 16), (320, 240), (1080, 1920)])
@pytest.mark.parametrize("corner", ["top-left", "bottom-right"])
@pytest.mark.parametrize("text", ["i", "W" * 200])
def test_text_that_no_size_makes_fit_is_cut_off(text: str, corner: str, size: tuple[int, int]) -> None:
    y, u, v = planes(*size)
    BurntLabel(Label.model_validate({"text": text, "corner": corner, "size": 0.01}), size, *colour_matrix(BT709))(y, u, v)
    assert (y != 128).any()


@pytest.mark.parametrize("wrong", ["", " \n ", "a\0b", "x" * 201])
def test_text_of_a_label(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Label(text=wrong)
    assert Label(text=" KI\n synchronisiert ").text == "KI synchronisiert"
    joined = "\u0645\u06cc\u200c\u0634\u0648\u062f"
    assert Label(text=joined).text == joined, "Persian parts words with a sign that has no width"


class Lighter:
    """Makes the upper left quarter lighter: something that can be found again."""

    def __call__(self, frame: np.ndarray, number: int) -> np.ndarray:
        marked = frame.copy()
        height, width = (side // 4 * 2 for side in frame.shape[:2])
        marked[:height, :width] = np.minimum(marked[:height, :width].astype(int) + 10 + number, 255)
        return marked


class Wrong:
    def __call__(self, frame: np.ndarray, number: int) -> np.ndarray:
        return frame[::2]


def test_a_watermark_adds_what_it_says_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    y, u, v = (draw.integers(60, 180, size).astype(np.uint8) for size in ((48, 64), (24, 32), (24, 32)))
    before = [plane.copy() for plane in (y, u, v)]
    matrix, offset = colour_matrix(Colour(range=2, space=1))
    apply_watermark(lambda frame, _: frame, 0, y, u, v, matrix, offset)
    assert all(np.array_equal(*each) for each in zip(before, (y, u, v), strict=True))
    grey = [np.full_like(plane, 128) for plane in (y, u, v)]
    apply_watermark(Lighter(), 2, grey[0], grey[1], grey[2], matrix, offset)
    assert set(np.unique(grey[0][:24, :32])) == {140}
    assert set(np.unique(grey[0][24:])) == {128}
    assert {int(value) for plane in grey[1:] for value in np.unique(plane)} == {128}
    with pytest.raises(ConfigError, match=r"gave uint8\(24, 64, 3\) for a frame; it must give uint8\(48, 64, 3\)"):
        apply_watermark(Wrong(), 0, y, u, v, matrix, offset)


def test_both_end_up_in_the_clip_and_only_there(tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "v.mp4", portrait(12)), write_speech(tmp_path / "s.wav", speech_like(0.48))
    shown = {}
    for name, fields in {
        "plain": {},
        "label": {"label": Label(text="AI", corner="top-right", size=0.1)},
        "mark": {"watermark": f"{Lighter.__module__}:Lighter"},
    }.items():
        record = lipsync(video, audio, tmp_path / f"{name}.mp4", recipe=RECIPE.model_copy(update=fields))
        assert record.error is None
        shown[name] = decoded(tmp_path / f"{name}.mp4").astype(int)
    height, width = shown["plain"].shape[1:3]
    labelled = np.abs(shown["label"] - shown["plain"]).max(axis=-1)
    assert (labelled[:, : height // 3, width // 2 :].max(axis=(1, 2)) > 60).all(), "in every frame"
    assert labelled[:, height // 2 :].max() <= 2
    added = cv2.mean((shown["mark"] - shown["plain"])[0, : height // 2, : width // 2].astype(np.float32))[:3]
    assert min(added) > 5


def test_a_watermark_that_cannot_be_imported_is_told_before_work() -> None:
    with pytest.raises(ConfigError, match="watermark 'nobody:Mark' cannot be imported"):
        check_recipe(RECIPE.model_copy(update={"watermark": "nobody:Mark"}), note=lambda _: None)
