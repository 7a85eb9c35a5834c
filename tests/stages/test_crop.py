"""Crop: order, loops, gaps and resumed segments, on the shipped clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import assets
from latentsync_ray.config import Recipe
from latentsync_ray.errors import NoFace
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import Crops, Pair, Span

RECIPE = Recipe(segment_frames=48)


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> Span:
    (span,) = Plan(RECIPE, str(tmp_path_factory.mktemp("out")))(pair(assets.demo_video()))
    return span


@pytest.fixture(scope="module")
def forwards(span: Span) -> list[Crops]:
    return list(Crop(RECIPE, 128)(span))


def pair(video: Path) -> Pair:
    return Pair(clip_id="a", video=str(video), audio=str(assets.demo_audio()))


def shown(span: Span, rows: np.ndarray, stops: list[int]) -> Span:
    """The same clip, showing other source frames."""
    return Span.of(span, source_frames=rows.astype(np.int32), segment_stops=np.array(stops, np.int32), segment_count=len(stops))


def test_segments_come_in_order_with_faces_and_speech(span: Span, forwards: list[Crops]) -> None:
    assert [crops.index for crops in forwards] == list(range(span.segment_count))
    assert [crops.stop for crops in forwards] == span.segment_stops.tolist()
    assert all(crops.found.all() for crops in forwards)
    assert all(crops.mel.shape == (1, 80, 3000) and crops.first_window == 0 for crops in forwards)
    assert forwards[0].faces.shape == (48, 128, 128, 3)


def test_a_loop_shows_the_same_crops_again(span: Span, forwards: list[Crops]) -> None:
    there, back = np.arange(48), np.arange(48)[::-1]
    first, second, third = Crop(RECIPE, 128)(shown(span, np.concatenate([there, back, there]), [48, 96, 144]))
    assert np.array_equal(first.faces, forwards[0].faces)
    assert np.array_equal(second.faces, first.faces[::-1])
    assert np.array_equal(second.affines, first.affines[::-1])
    assert np.array_equal(third.faces, first.faces)


def test_a_segment_that_turns_and_repeated_frames(span: Span, forwards: list[Crops]) -> None:
    rows = np.concatenate([np.arange(30), np.arange(10, 30)[::-1], np.repeat(np.arange(10, 34), 2)])
    first, second = Crop(RECIPE, 128)(shown(span, rows, [50, 98]))
    known = np.concatenate([crops.faces for crops in forwards])
    assert np.array_equal(first.faces, known[rows[:50]])
    assert np.array_equal(second.faces, known[rows[50:]])


def test_finished_segments_come_out_empty(span: Span, forwards: list[Crops]) -> None:
    resumed = {crops.index: crops for crops in Crop(RECIPE, 128)(Span.of(span, finished=np.array([0, 2], np.int32)))}
    assert sorted(resumed) == [crops.index for crops in forwards]
    assert [len(resumed[index].faces) for index in (0, 2)] == [0, 0]
    assert resumed[1].faces.shape == forwards[1].faces.shape
    difference = np.abs(resumed[1].affines - forwards[1].affines).max()
    assert difference < 0.1, "a pass that starts in the middle, after its warm-up, follows the face as a whole pass does"


def test_a_later_span_follows_like_a_whole_pass(span: Span, forwards: list[Crops]) -> None:
    rest = Span.of(span, start=96, first_segment=2, source_frames=span.source_frames[96:], segment_stops=span.segment_stops[2:])
    (late,) = Crop(RECIPE, 128)(rest)
    assert (late.index, late.start, late.stop) == (2, 96, span.frame_count)
    assert np.abs(late.affines - forwards[2].affines).max() < 0.1


def test_no_face_in_the_whole_clip_is_an_error_and_in_a_part_is_not(tmp_path: Path) -> None:
    grey = [np.full((128, 128, 3), 90 + k % 40, np.uint8) for k in range(60)]
    (whole,) = Plan(RECIPE, str(tmp_path))(pair(write_clip(tmp_path / "grey.mp4", grey)))
    with pytest.raises(NoFace, match=r"grey\.mp4"):
        list(Crop(RECIPE, 128)(whole))
    part = Span.of(whole, segment_count=whole.segment_count + 1)
    assert not any(crops.found.any() for crops in Crop(RECIPE, 128)(part))


def test_spans_of_a_long_clip_follow_like_one(tmp_path: Path) -> None:
    long = Pair(clip_id="a", video=str(assets.demo_video()), audio=str(write_speech(tmp_path / "s.wav", speech_like(20))))
    made = []
    for seconds in (10, 120):
        recipe = RECIPE.model_copy(update={"span_seconds": seconds})
        spans = Plan(recipe, str(tmp_path))(long)
        made.append([crops for span in spans for crops in Crop(recipe, 128)(span)])
    several, one = made
    assert [crops.index for crops in several] == [crops.index for crops in one] == list(range(one[0].segment_count))
    for mine, whole in zip(several, one, strict=True):
        assert np.array_equal(mine.source_frames, whole.source_frames)
        assert np.abs(mine.affines - whole.affines).max() < 0.1
        assert np.array_equal(mine.mel, whole.mel)
