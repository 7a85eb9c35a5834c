"""Which face gets the speech, by each rule, and how it comes and goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from latentsync_ray.faces import Face
from latentsync_ray.faces.choose import Choice, choose, needs_sound
from latentsync_ray.faces.tracks import Track, Tracks
from latentsync_ray.reasons import Reason, counted

POINTS = np.array([[0.0, 0.0], [40.0, 0.0], [20.0, 25.0]])


def track(
    number: int, rows: Sequence[int], x: float, *, size: float = 1.0, mouth: np.ndarray | None = None, shot: int = 0
) -> Track:
    made = Track.of(number, shot, list(rows), [Face(landmarks=POINTS * size + (x, 60))] * len(rows))
    if mouth is not None:
        made.mouth = mouth[list(rows)].astype(np.float32)
    return made


def tracks(*each: Track, stop: int, shots: Sequence[int] = (0,)) -> Tracks:
    return Tracks(list(each), np.array(shots, np.int32), stop)


def chosen(these: Tracks, face: str, sound: np.ndarray | None = None) -> Choice:
    return choose(these, face, size=(640, 360), seconds=np.arange(these.stop) / 25, sound=sound)


def rows_of(choice: Choice, number: int, these: Tracks) -> list[int]:
    if number not in choice.weights:
        return []
    return these.tracks[number].rows[np.flatnonzero(choice.weights[number])].tolist()


def test_one_face_is_the_only_one() -> None:
    these = tracks(track(0, range(50), 100), stop=50)
    choice = chosen(these, "speaking")
    assert (choice.rule, rows_of(choice, 0, these)) == ("only", list(range(50)))
    assert (choice.weights[0] == 1).all()
    assert not needs_sound(tracks(track(0, range(50), 100), stop=50), "speaking")


def test_the_largest_keeps_the_word_while_it_is_briefly_away() -> None:
    large, small = track(0, [*range(40), *range(60, 100)], 100, size=2), track(1, range(100), 400)
    these = tracks(large, small, stop=100)
    choice = chosen(these, "largest")
    assert rows_of(choice, 0, these) == [*range(40), *range(60, 100)]
    assert rows_of(choice, 1, these) == []
    gone = track(0, range(40), 100, size=2)
    these = tracks(gone, small, stop=100)
    choice = chosen(these, "largest")
    assert rows_of(choice, 1, these) == list(range(40, 100))


def test_each_shot_has_its_largest() -> None:
    first, second = track(0, range(30), 100), track(1, range(30, 60), 400, shot=1)
    choice = chosen(tracks(first, second, stop=60, shots=(0, 30)), "largest")
    assert (choice.weights[0] == 1).all(), "no fade at a cut"
    assert (choice.weights[1] == 1).all()


def test_all_a_number_and_a_point() -> None:
    these = tracks(track(0, range(50), 100), track(1, range(20, 50), 400), stop=50)
    assert set(chosen(these, "all").weights) == {0, 1}
    assert set(chosen(these, "1").weights) == {1}
    assert chosen(these, "9").weights == {}
    assert set(chosen(these, "120,70").weights) == {0}
    assert set(chosen(these, "420.5,70@1.2").weights) == {1}
    assert chosen(these, "420,70@0.1").weights == {}, "not there then"
    assert chosen(these, "600,300").weights == {}


def syllables(seed: int, count: int, on: Sequence[tuple[int, int]]) -> np.ndarray:
    """Loud and quiet, four frames each, while somebody speaks."""
    knots = np.arange(0, count + 4, 4)
    curve = np.interp(np.arange(count), knots, np.random.default_rng(seed).uniform(0, 1, len(knots)))
    return curve * np.array([any(a <= frame < b for a, b in on) for frame in range(count)])


@pytest.fixture
def talk() -> tuple[Tracks, np.ndarray]:
    """Two who take turns, 0 first; while 1 listens, it chews."""
    first, second = syllables(1, 300, [(10, 100), (200, 290)]), syllables(2, 300, [(105, 195)])
    rows = np.arange(300)
    chewing = np.where((rows < 100) | (rows > 200), 0.3 + 0.3 * np.sin(rows / 3), 0)
    mouths = (0.3 * first, 0.3 * (second + chewing))
    heads = [track(number, range(300), 100 + 300 * number, mouth=mouth) for number, mouth in enumerate(mouths)]
    return tracks(*heads, stop=300), first + second


def test_the_word_goes_to_the_mouth_that_follows_the_sound(talk: tuple[Tracks, np.ndarray]) -> None:
    these, sound = talk
    assert needs_sound(these, "speaking")
    choice = chosen(these, "speaking", sound)
    assert choice.rule == "speaking"
    left, right = set(rows_of(choice, 0, these)), set(rows_of(choice, 1, these))
    assert set(range(15, 95)) | set(range(205, 285)) <= left
    assert set(range(112, 188)) <= right
    assert not left & right


def test_without_sound_or_a_mouth_that_follows_it_the_largest_is_chosen(talk: tuple[Tracks, np.ndarray]) -> None:
    these, _ = talk
    assert chosen(these, "speaking").rule == "largest"
    narrator = syllables(9, 300, [(0, 300)])
    still = tracks(*(track(n, range(300), 100 + 300 * n, size=2 - n, mouth=np.full(300, 0.01)) for n in (0, 1)), stop=300)
    choice = chosen(still, "speaking", narrator)
    assert (choice.rule, set(choice.weights)) == ("largest", {0})


def test_it_fades_where_it_comes_and_goes_within_a_shot_only() -> None:
    this = track(0, range(60), 100)
    this.covered[20:30] = True
    weight = chosen(tracks(this, stop=60), "speaking").weights[0]
    assert weight[0] == weight[-1] == weight[10] == 1
    assert (weight[20:30] == 0).all()
    assert np.all(np.diff(weight[15:21]) < 0)
    assert np.all(np.diff(weight[29:34]) > 0)


def test_a_moment_is_too_short_to_be_dubbed() -> None:
    this = track(0, range(60), 100)
    this.covered[:] = True
    this.covered[30:32] = False
    assert chosen(tracks(this, stop=60), "speaking").weights == {}


def test_faces_whose_mouths_nobody_measures_are_chosen_by_size() -> None:
    """As those of detectors that give points only."""
    these = tracks(track(0, range(50), 100), track(1, range(50), 400, size=2), stop=50)
    choice = chosen(these, "speaking", np.linspace(0, 1, 50))
    assert (choice.rule, set(choice.weights)) == ("largest", {1})


def test_a_moment_is_one_of_the_video_and_not_of_its_frame_rate() -> None:
    these = tracks(track(0, range(20), 100), track(1, range(20, 50), 100), stop=50)
    late = np.concatenate([np.arange(20) / 25, 10 + np.arange(30) / 25])  # a long still
    assert set(choose(these, "120,70@5", size=(640, 360), seconds=late).weights) == {0}
    assert set(choose(these, "120,70@10.5", size=(640, 360), seconds=late).weights) == {1}


def test_many_shots_take_no_more_than_their_frames() -> None:
    shots = list(range(0, 30_000, 30))
    every = [track(number, range(first, first + 30), 100, shot=number) for number, first in enumerate(shots)]
    choice = chosen(tracks(*every, stop=30_000, shots=shots), "speaking")
    assert sum(len(weight) for weight in choice.weights.values()) == 30_000


def test_each_frame_that_is_passed_through_has_its_reason() -> None:
    """Of several faces, that of the one who was chosen counts."""
    large, small = track(0, [*range(10), *range(14, 40)], 100, size=2), track(1, range(5, 45), 400)
    large.covered[20:24] = True
    large.turn[26:30, 0] = 80
    large.landmarks[32:] -= (0, 500)
    these = tracks(large, small, stop=50)
    choice = chosen(these, "0")
    reasons = [Reason(reason).name for reason in choice.reasons]
    assert (choice.reasons == Reason.SHOWN).tolist() == [row in rows_of(choice, 0, these) for row in range(50)]
    assert reasons[10:14] == ["NOT_SPEAKER"] * 4, "the other one is there"
    assert reasons[24:28] == ["COVERED"] * 4
    assert reasons[28:30] == ["TOO_BRIEF"] * 2
    assert reasons[30:34] == ["TURNED"] * 4
    assert reasons[34:36] == ["TOO_BRIEF"] * 2
    assert reasons[36:40] == ["OUT_OF_PICTURE"] * 4
    assert reasons[40:45] == ["NOT_SPEAKER"] * 5
    assert reasons[45:] == ["NO_FACE"] * 5
    assert counted(choice.reasons).tolist() == [5, 9, 4, 4, 4, 4]


def test_two_faces_that_are_shown_in_turns_leave_no_reason() -> None:
    these = tracks(track(0, range(30), 100), track(1, range(30, 60), 400, shot=1), stop=60, shots=(0, 30))
    assert not chosen(these, "largest").reasons.any()
    assert not chosen(these, "all").reasons.any()
    assert counted(chosen(these, "1").reasons).tolist() == [0, 30, 0, 0, 0, 0]
