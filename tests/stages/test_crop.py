"""Crop: order, loops, gaps and resumed segments, on the shipped clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from cutting import cut
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import assets
from latentsync_ray.config import Recipe
from latentsync_ray.errors import NoFace
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import ClipPlan, FaceCrops, Pair

RECIPE = Recipe(model="nano", detector="embedded", segment_frames=48)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ClipPlan:
    return Plan(RECIPE, str(tmp_path_factory.mktemp("out")))(pair(assets.demo_video()))


@pytest.fixture(scope="module")
def forwards(plan: ClipPlan) -> list[FaceCrops]:
    return cut(plan, RECIPE)


def test_opencv_takes_as_many_threads_as_the_recipe_says() -> None:
    Crop(Recipe(cpu_threads=2))
    assert cv2.getNumThreads() == 2
    Paste(Recipe(), "out")
    assert cv2.getNumThreads() == 1


def pair(video: Path) -> Pair:
    return Pair(clip_id="a", video=str(video), audio=str(assets.demo_audio()))


def shown(plan: ClipPlan, rows: np.ndarray, stops: list[int]) -> ClipPlan:
    """The same clip, showing other source frames."""
    return ClipPlan.of(
        plan, source_frames=rows.astype(np.int32), segment_stops=np.array(stops, np.int32), segment_count=len(stops)
    )


def test_segments_come_in_order_with_faces_and_speech(plan: ClipPlan, forwards: list[FaceCrops]) -> None:
    assert [crops.index for crops in forwards] == list(range(plan.segment_count))
    assert [crops.stop for crops in forwards] == plan.segment_stops.tolist()
    assert all(crops.missing == 0 for crops in forwards)
    assert all(crops.speech.shape == (1, 80, 3000) for crops in forwards)
    assert all(len(crops.speech_change) == len(crops.source_frames) for crops in forwards)
    assert [np.isfinite(crops.speech_change).sum() for crops in forwards] == [47, 48, len(forwards[2].source_frames) - 1]
    assert forwards[0].faces.shape == (48, 128, 128, 3)


def test_a_loop_shows_the_same_crops_again(plan: ClipPlan, forwards: list[FaceCrops]) -> None:
    there, back = np.arange(48), np.arange(48)[::-1]
    first, second, third = cut(shown(plan, np.concatenate([there, back, there]), [48, 96, 144]), RECIPE)
    assert np.array_equal(first.faces, forwards[0].faces)
    assert np.array_equal(second.faces, first.faces[::-1])
    assert np.array_equal(second.affines, first.affines[::-1])
    assert np.array_equal(third.faces, first.faces)


def test_a_segment_that_turns_and_repeated_frames(plan: ClipPlan, forwards: list[FaceCrops]) -> None:
    rows = np.concatenate([np.arange(30), np.arange(10, 30)[::-1], np.repeat(np.arange(10, 34), 2)])
    first, second = cut(shown(plan, rows, [50, 98]), RECIPE)
    known = np.concatenate([crops.faces for crops in forwards])
    assert np.array_equal(first.faces, known[rows[:50]])
    assert np.array_equal(second.faces, known[rows[50:]])


def test_finished_segments_come_out_empty_and_the_rest_as_ever(plan: ClipPlan, forwards: list[FaceCrops]) -> None:
    resumed = {crops.index: crops for crops in cut(ClipPlan.of(plan, finished=np.array([0, 2], np.int32)), RECIPE)}
    assert sorted(resumed) == [crops.index for crops in forwards]
    assert [len(resumed[index].source_frames) for index in (0, 2)] == [0, 0]
    assert np.array_equal(resumed[1].faces, forwards[1].faces)
    assert np.array_equal(resumed[1].affines, forwards[1].affines)


def test_a_resumed_clip_follows_the_same_one_of_two_faces(tmp_path: Path) -> None:
    face = cv2.resize(portrait(1)[0], (160, 160))
    frames = []
    for number in range(150):  # the left face is larger at first, the right one later
        frame = np.full((200, 400, 3), 120, np.uint8)
        for side, size in ((0, 160 - number // 3), (200, 110 + number // 3)):
            frame[20 : 20 + size, side + 10 : side + 10 + size] = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
        frames.append(frame)
    video, audio = write_clip(tmp_path / "two.mp4", frames), write_speech(tmp_path / "s.wav", speech_like(6))
    plan = Plan(RECIPE, str(tmp_path))(Pair(clip_id="a", video=str(video), audio=str(audio)))
    whole = cut(plan, RECIPE)
    assert all(crops.missing == 0 for crops in whole)
    resumed = [crops for crops in cut(ClipPlan.of(plan, finished=np.array([0, 1], np.int32)), RECIPE) if len(crops.faces)]
    assert np.array_equal(resumed[-1].affines, whole[-1].affines)
    assert np.array_equal(resumed[-1].faces, whole[-1].faces)


def test_no_face_in_the_whole_clip_is_an_error(tmp_path: Path) -> None:
    grey = [np.full((128, 128, 3), 90 + k % 40, np.uint8) for k in range(60)]
    whole = Plan(RECIPE, str(tmp_path))(pair(write_clip(tmp_path / "grey.mp4", grey)))
    with pytest.raises(NoFace, match=r"grey\.mp4"):
        cut(whole, RECIPE)


def test_inverted_stereo_is_heard_like_its_channel(plan: ClipPlan, tmp_path: Path) -> None:
    voice = speech_like(3)
    sounds = {"inverted": np.hstack([voice, -voice]), "plain": np.hstack([voice, voice])}
    heard = {}
    for name, samples in sounds.items():
        audio = write_speech(tmp_path / f"{name}.wav", samples)
        planned = Plan(RECIPE, str(tmp_path))(Pair(clip_id="a", video=str(assets.demo_video()), audio=str(audio)))
        heard[name] = (planned.audio_channel, planned.mel_peak, cut(planned, RECIPE)[0].speech)
    assert (heard["inverted"][0], heard["plain"][0]) == (1, None)
    assert heard["inverted"][1] == heard["plain"][1]
    assert np.array_equal(heard["inverted"][2], heard["plain"][2])


@pytest.mark.parametrize(("stored", "aspect"), [((192, 256), Fraction(4, 3)), ((256, 192), Fraction(3, 4))])
@pytest.mark.parametrize("rotation", [0, 90])
def test_faces_of_flat_pixels_are_cut_as_they_are_shown(tmp_path: Path, stored, aspect: Fraction, rotation: int) -> None:
    frames = portrait(16)
    square = Plan(RECIPE, str(tmp_path))(pair(write_clip(tmp_path / "square.mp4", frames)))
    squeezed = [cv2.resize(frame, stored, interpolation=cv2.INTER_AREA) for frame in frames]
    if rotation:
        squeezed, aspect = [np.ascontiguousarray(np.rot90(frame, -1)) for frame in squeezed], 1 / aspect
    flat = Plan(RECIPE, str(tmp_path))(
        pair(write_clip(tmp_path / "flat.mp4", squeezed, pixel_aspect=aspect, rotation=rotation))
    )
    assert (flat.width, flat.height) == stored
    wanted, found = (cut(plan, RECIPE)[0] for plan in (square, flat))
    assert found.missing == 0
    assert np.abs(found.faces[:16].astype(int) - wanted.faces[:16]).mean() < 16  # twice as far without
    to_stored = np.array([[256 / stored[0], 0, 0], [0, 256 / stored[1], 0], [0, 0, 1]])
    np.testing.assert_allclose(found.affines[0][:, :2], (wanted.affines[0] @ to_stored)[:, :2], atol=0.06)
