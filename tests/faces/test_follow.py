from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from latentsync_ray.faces import Face
from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.faces.embedded import EmbeddedDetector
from latentsync_ray.faces.flow import move, movement
from latentsync_ray.faces.follow import Follower
from latentsync_ray.models.latentsync.template import template

Scene = Callable[..., np.ndarray]
GREY = np.full((480, 640, 3), 128, np.uint8)
IN_PORTRAIT = np.array([[202, 95], [245, 95], [223, 121]], np.float64)


class One(NamedTuple):
    row: int
    landmarks: np.ndarray | None


def follow(frames: list[np.ndarray], *, detector: Any = None) -> list[One]:
    """All rows of a clip, checked for order."""
    followed = [One(*one) for one in Follower(detector or EmbeddedDetector())(enumerate(frames))]
    assert [one.row for one in followed] == list(range(len(frames)))
    return followed


def rows_with_face(followed: list[One]) -> list[int]:
    return [one.row for one in followed if one.landmarks is not None]


def in_portrait(followed: list[One], poses: list[np.ndarray]) -> np.ndarray:
    """The followed points in px of the portrait: constant when the face is followed perfectly. (frames, 3, 2)"""
    return np.array(
        [
            cv2.transform(one.landmarks[None], cv2.invertAffineTransform(poses[one.row]))[0]
            for one in followed
            if one.landmarks is not None
        ]
    )


@pytest.fixture(scope="module")
def sway(pose: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Two hundred poses of a head that moves, nods and comes nearer."""
    rows = np.arange(200)
    x, y, degrees = 300 + 60 * np.sin(rows / 19), 210 + 25 * np.sin(rows / 13), 5 * np.sin(rows / 16)
    return [pose(*values) for values in zip(x, y, 1.2 + rows / 500, degrees, strict=True)]


@pytest.fixture(scope="module")
def clip(scene: Scene, sway: list[np.ndarray]) -> list[np.ndarray]:
    return [scene(pose) for pose in sway]


def test_a_moving_face_is_found_everywhere_and_steadily(clip: list[np.ndarray], sway: list[np.ndarray]) -> None:
    points = in_portrait(follow(clip), sway)
    assert len(points) == len(clip)
    assert np.abs(points - IN_PORTRAIT).max() < 6  # the portrait's brows are 43 px apart
    jitter = np.diff(points, 2, axis=0) / np.sqrt(6)
    assert np.sqrt((jitter**2).sum(-1).mean()) < 0.1


def test_frames_without_a_face_are_told_exactly(clip: list[np.ndarray]) -> None:
    frames = [GREY if 40 <= row < 61 else frame for row, frame in enumerate(clip[:90])]
    assert rows_with_face(follow(frames)) == [*range(40), *range(61, 90)]


def test_a_face_that_comes_back_quietly_is_traced_to_where_it_appeared(scene: Scene, pose: Callable[..., np.ndarray]) -> None:
    """No abrupt change calls for a search; row 33 is not one on which one is due."""
    still, empty = scene(pose(300, 210)), scene()
    frames = [still if row >= 33 else empty for row in range(60)]
    assert rows_with_face(follow(frames)) == list(range(33, 60))


def test_nothing_is_smoothed_across_a_cut(
    clip: list[np.ndarray], sway: list[np.ndarray], scene: Scene, pose: Callable[..., np.ndarray]
) -> None:
    elsewhere = [pose(450, 300, 1.5, 2) for _ in range(40)]
    frames = [*clip[:47], *[scene(place, brightness=0.6)[:, ::-1].copy() for place in elsewhere]]
    followed = follow(frames)
    assert rows_with_face(followed) == list(range(87))
    assert np.abs(in_portrait(followed[:47], sway) - IN_PORTRAIT).max() < 6
    for one in followed[47:]:
        assert one.landmarks is not None
        mirrored = np.column_stack([639 - one.landmarks[:, 0], one.landmarks[:, 1]])[[1, 0, 2]]
        assert np.abs(cv2.transform(mirrored[None], cv2.invertAffineTransform(elsewhere[0]))[0] - IN_PORTRAIT).max() < 6


def test_the_larger_face_is_followed_even_when_it_becomes_the_smaller(scene: Scene, pose: Callable[..., np.ndarray]) -> None:
    ours = [pose(180, 200, 1.5 - row / 150) for row in range(110)]
    frames = [scene(pose(480, 260, 1.1), place) for place in ours]
    points = in_portrait(follow(frames), ours)
    assert len(points) == len(frames)
    assert np.abs(points - IN_PORTRAIT).max() < 6


def test_another_face_is_not_taken_while_ours_is_briefly_away(scene: Scene, pose: Callable[..., np.ndarray]) -> None:
    ours, other = pose(180, 200, 1.5), pose(490, 260, 1.0)
    frames = [scene(other) if 50 <= row < 70 else scene(other, ours) for row in range(90)]
    followed = follow(frames)
    assert rows_with_face(followed) == [*range(50), *range(70, 90)]
    assert np.abs(in_portrait(followed, [ours] * 90) - IN_PORTRAIT).max() < 6


class Scripted:
    """Answers from a table by the number in a frame's first pixel; counts how often it is asked."""

    def __init__(self, answers: dict[int, list[np.ndarray]], *, interval: int) -> None:
        self.answers, self.interval, self.asked = answers, interval, 0

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        self.asked += 1
        return [Face(landmarks=np.array(points)) for points in self.answers.get(int(frame[0, 0, 0]), [])]


def numbered(frames: list[np.ndarray]) -> list[np.ndarray]:
    frames = [frame.copy() for frame in frames]
    for row, frame in enumerate(frames):
        frame[0, 0, 0] = row
    return frames


def true_points(poses: list[np.ndarray]) -> list[np.ndarray]:
    return [cv2.transform(IN_PORTRAIT[None], pose)[0] for pose in poses]


def test_single_wild_looks_and_a_few_misses_do_not_matter(clip: list[np.ndarray], sway: list[np.ndarray]) -> None:
    answers = {row: [points] for row, points in enumerate(true_points(sway))}
    answers[48] = [answers[48][0] + (9, -7)]  # wild
    for row in (84, 96, 108):
        answers[row] = []
    followed = follow(numbered(clip[:170]), detector=Scripted(answers, interval=12))
    points = in_portrait(followed, sway)
    assert len(points) == 170
    assert np.abs(points - IN_PORTRAIT).max() < 1.5


def test_what_is_seen_only_once_is_no_face(clip: list[np.ndarray], sway: list[np.ndarray]) -> None:
    followed = follow(numbered(clip[:60]), detector=Scripted({6: [true_points(sway)[6]]}, interval=12))
    assert rows_with_face(followed) == []


def covered(frames: list[np.ndarray], rows: range, poses: list[np.ndarray]) -> list[np.ndarray]:
    """The same with something before the face in ``rows``: too small to be a cut, too large to look past."""
    frames = list(frames)
    for row in rows:
        x, y = cv2.transform(IN_PORTRAIT[None], poses[row])[0].mean(0)
        board = np.random.default_rng(row).integers(0, 256, (10, 10, 3), np.uint8)
        frames[row] = frames[row].copy()
        frames[row][int(y) - 70 : int(y) + 70, int(x) - 70 : int(x) + 70] = cv2.resize(board, (140, 140))
    return frames


@pytest.mark.parametrize("gap", [range(30, 31), range(30, 33), range(47, 50), range(5, 7)])
def test_a_face_unseen_for_up_to_three_frames_is_bridged(clip: list[np.ndarray], sway: list[np.ndarray], gap: range) -> None:
    answers = {row: [points] for row, points in enumerate(true_points(sway)) if row not in gap}
    followed = follow(numbered(covered(clip[:80], gap, sway)), detector=Scripted(answers, interval=12))
    assert rows_with_face(followed) == list(range(80))
    assert np.abs(in_portrait(followed, sway) - IN_PORTRAIT).max() < 3


def test_a_face_covered_for_longer_is_not_bridged(clip: list[np.ndarray], sway: list[np.ndarray]) -> None:
    gap = range(30, 34)
    answers = {row: [points] for row, points in enumerate(true_points(sway)) if row not in gap}
    followed = follow(numbered(covered(clip[:80], gap, sway)), detector=Scripted(answers, interval=12))
    assert rows_with_face(followed) == [row for row in range(80) if row not in gap]


@pytest.mark.parametrize("first_seen", [1, 2, 3])
def test_the_first_frames_are_tracked_back_to(clip, sway, first_seen: int) -> None:
    """The detector misses the first frames, though the face is plainly there."""
    answers = {row: [points] for row, points in enumerate(true_points(sway)) if row >= first_seen}
    followed = follow(numbered(clip[:40]), detector=Scripted(answers, interval=12))
    assert rows_with_face(followed) == list(range(40))
    assert np.abs(in_portrait(followed, sway) - IN_PORTRAIT).max() < 3


def test_a_first_frame_in_which_nothing_can_be_followed_is_taken_in_when_it_looks_alike(scene, pose) -> None:
    still = pose(300, 210)
    dim = cv2.GaussianBlur(scene(still, brightness=0.9), (0, 0), 6)
    frames = [dim, *[scene(still)] * 29]
    assert movement(frames[1], frames[0], true_points([still])[0]) is None
    detector = Scripted({row: true_points([still]) for row in range(1, 30)}, interval=12)
    assert rows_with_face(follow(numbered(frames), detector=detector)) == list(range(30))


def test_nothing_is_bridged_across_a_cut(scene, pose) -> None:
    """Two frames of another shot between two of ours."""
    ours = pose(300, 210)
    frames = [255 - scene() if 30 <= row < 32 else scene(ours) for row in range(60)]
    detector = Scripted({row: true_points([ours]) for row in range(60) if row not in (30, 31)}, interval=12)
    assert rows_with_face(follow(numbered(frames), detector=detector)) == [*range(30), *range(32, 60)]


def test_frames_are_let_go(clip: list[np.ndarray]) -> None:
    """A handful of frames is held while there is no face, and none besides the last while there is one."""
    read = 0

    def frames() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal read
        for row in range(150):
            read += 1
            yield row, GREY if row < 30 else clip[row]

    for row, _ in Follower(EmbeddedDetector())(frames()):
        assert read - row <= (49 if row >= 30 else 10)


@pytest.mark.parametrize("degrees", [0, 4])
def test_movement_is_measured_to_a_tenth_of_a_pixel(scene: Scene, pose: Callable[..., np.ndarray], degrees: float) -> None:
    before, after = pose(300, 210, 1.4), pose(306.3, 207.8, 1.43, degrees)
    points = true_points([before, after])
    step = movement(scene(before), scene(after), points[0])
    assert step is not None
    assert np.abs(move(step, points[0]) - points[1]).max() < 0.3
    assert movement(scene(before), scene(), points[0]) is None
    assert movement(scene(before), GREY, points[0]) is None


@pytest.mark.parametrize("name", ["demo1", "demo2"])
def test_real_footage(clips: Path, name: str) -> None:
    import av

    with av.open(str(clips / f"{name}_video.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(40), container.decode(video=0), strict=False)]
    followed = follow(frames)
    assert len(rows_with_face(followed)) == len(frames)
    crops = [crop_face(frames[one.row], affine(one.landmarks, template(512)), template(512)) for one in followed]  # type: ignore[arg-type]
    brows_and_nose = np.array([[116, 102], [396, 102], [256, 205]], np.float64)  # the template, in px of the square
    steps = [movement(*pair, brows_and_nose) for pair in itertools.pairwise(crops)]
    left_over = [
        np.linalg.norm(move(step, brows_and_nose) - brows_and_nose, axis=1).mean() for step in steps if step is not None
    ]
    assert len(left_over) >= 0.9 * len(steps)
    assert np.median(left_over) < 2.0
