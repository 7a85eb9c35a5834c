"""What is made of a detector's looks: linked, bridged, smoothed, kept in a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.parquet as pq
import pytest

from latentsync_ray.faces import Face
from latentsync_ray.faces.link import find_tracks
from latentsync_ray.faces.look import Still
from latentsync_ray.faces.steady import bridged, steady
from latentsync_ray.faces.store import read_tracks, write_tracks
from latentsync_ray.faces.tracks import ANGLES, Track, Tracks, outline_at, polar
from latentsync_ray.faces.visible import covered, usable

POINTS = np.array([[0.0, 0.0], [40.0, 0.0], [20.0, 25.0]])


def face(x: float, y: float, *, size: float = 1.0, **known: object) -> Face:
    return Face(landmarks=POINTS * size + (x, y), **known)  # type: ignore[arg-type]


class Scripted:
    """Sees what a function says of the row that is written in the frame's first pixel."""

    interval = 1

    def __init__(self, says: Callable[[int], list[Face]]) -> None:
        self.says, self.searches = says, []

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        row = int(frame[0, 0, 0])
        self.searches += [row] if search else []
        return self.says(row)


def frames(count: int, *, cuts: Sequence[int] = ()) -> list[tuple[int, Still]]:
    made = []
    for row in range(count):
        frame = np.full((64, 96, 3), 200 if sum(row >= cut for cut in cuts) % 2 else 40, np.uint8)
        frame[0, 0, 0] = row
        made.append((row, Still(frame)))
    return made


def test_faces_are_told_apart_by_where_they_are() -> None:
    tracks = find_tracks(frames(40), Scripted(lambda row: [face(200 - row, 50), face(20 + row, 50)]))
    assert [(track.id, len(track)) for track in tracks.tracks] == [(0, 40), (1, 40)]
    assert (np.diff(tracks.tracks[0].landmarks[:, 0, 0]) == -1).all()
    assert (np.diff(tracks.tracks[1].landmarks[:, 0, 0]) == 1).all()
    assert tracks.stop == 40


def test_a_cut_ends_every_track_and_calls_for_a_search() -> None:
    detector = Scripted(lambda row: [face(50, 50)])
    tracks = find_tracks(frames(40, cuts=[17]), detector)
    assert tracks.shots.tolist() == [0, 17]
    assert [(track.shot, track.rows[0], track.rows[-1]) for track in tracks.tracks] == [(0, 0, 16), (1, 17, 39)]
    assert 17 in detector.searches
    assert len(detector.searches) <= 5


def test_a_face_that_comes_back_soon_is_the_same_and_later_another() -> None:
    soon = find_tracks(frames(60), Scripted(lambda row: [] if 20 <= row < 30 else [face(50, 50)]))
    assert [len(track) for track in soon.tracks] == [50]
    late = find_tracks(frames(60), Scripted(lambda row: [] if 20 <= row < 40 else [face(50, 50)]))
    assert [len(track) for track in late.tracks] == [20, 18], "while no face is known, every sixth row is searched"


def test_what_is_seen_once_or_twice_is_no_face_but_in_a_video_of_two_frames() -> None:
    blink = Scripted(lambda row: [face(50, 50)] if row < 2 else [])
    assert find_tracks(frames(30), blink).tracks == []
    assert len(find_tracks(frames(2), Scripted(lambda row: [face(50, 50)])).tracks) == 1


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    def says(row: int) -> list[Face]:
        return [] if row in (10, 11, 12) or 20 <= row < 24 else [face(50 + 2 * row, 50)]

    (track,) = find_tracks(frames(40), Scripted(says)).tracks
    whole = bridged(track)
    assert whole.rows.tolist() == [*range(20), *range(24, 40)]
    assert np.abs(whole.landmarks[:, 0, 0] - (50 + 2 * whole.rows)).max() < 1e-3
    assert (whole.presence == 0).tolist() == [row in (10, 11, 12) for row in whole.rows]
    unbroken = find_tracks(frames(20), Scripted(lambda row: [face(50, 50)])).tracks[0]
    assert bridged(unbroken) is unbroken


def wandering(count: int, noise: float, *, jump: int = 0) -> tuple[Track, np.ndarray]:
    draw, rows = np.random.default_rng(1), np.arange(count)
    true = 60 + np.where(rows >= jump, 15 * np.clip(rows - jump, 0, 4), 0) if jump else np.full(count, 60.0)
    seen = [face(x, 50) for x in true]
    track = Track.of(0, 0, rows.tolist(), seen)
    track.landmarks = (track.landmarks + draw.normal(0, noise, track.landmarks.shape)).astype(np.float32)
    return track, true


def test_noise_of_a_still_head_goes_and_a_quick_turn_stays() -> None:
    track, _ = wandering(80, 0.2)
    rough, smooth = (np.diff(each.landmarks[:, 0, 0], 2).std() for each in (track, steady(track)))
    assert smooth < rough / 20
    track, true = wandering(80, 0.0, jump=40)
    assert np.abs(steady(track).landmarks[:, 0, 0] - true).max() < 8, "of a jump by 60 px in four frames"


def test_runs_are_smoothed_each_by_itself() -> None:
    seen = [face(60, 50)] * 10 + [face(90, 50)] * 10
    track = Track.of(0, 0, [*range(10), *range(15, 25)], seen)
    assert np.array_equal(steady(track).landmarks, track.landmarks)


def test_an_outline_survives_its_polar_form() -> None:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    landmarks = POINTS + np.array([100, 80])
    middle = landmarks.mean(0)
    outline = middle + np.stack([45 * np.cos(angles), 60 * np.sin(angles)], axis=1)
    radii = polar(outline, landmarks)
    assert radii.shape == (ANGLES,)
    back = outline_at(radii[None], landmarks[None])[0]
    on_ellipse = (((back - middle) / (45, 60)) ** 2).sum(1)
    assert np.abs(on_ellipse - 1).max() < 0.1


def textured(count: int, hidden: slice) -> Track:
    draw = np.random.default_rng(2)
    skin = draw.integers(90, 200, (30, 3))
    textures = np.clip(skin + draw.normal(0, 2, (count, 30, 3)), 0, 255).astype(np.uint8)
    textures[hidden, :20] = (60, 70, 200)
    dim = np.linspace(1, 0.6, count)[:, None, None]  # the light goes down
    textures = (textures * dim).astype(np.uint8)
    return Track.of(0, 0, list(range(count)), [face(50, 50, texture=texture, lower=20) for texture in textures])


def test_what_is_unlike_the_rest_of_the_track_is_covered_and_light_is_not() -> None:
    assert not covered(textured(60, slice(0, 0))).any()
    hidden = np.flatnonzero(covered(textured(60, slice(20, 35))))
    assert hidden.tolist() == list(range(19, 36)), "and a frame on either side"
    assert not covered(textured(60, slice(0, 60))).any(), "what is always there is how the face looks"
    assert not covered(Track.of(0, 0, [0, 1], [face(1, 1), face(1, 1)])).any(), "nothing is known of the skin"


def test_the_end_of_a_long_track_is_judged_like_its_beginning() -> None:
    assert np.flatnonzero(covered(textured(4050, slice(4010, 4050)))).tolist() == list(range(4009, 4050))
    assert np.flatnonzero(covered(textured(6000, slice(1990, 2010)))).tolist() == list(range(1989, 2011))


def test_a_mouth_that_is_turned_away_or_out_of_the_frame_cannot_be_used() -> None:
    seen = [face(50, 50, turn=(yaw, 0.0, 0.0)) for yaw in (0, 45, 70, -80)]
    track = Track.of(0, 0, [0, 1, 2, 3], seen)
    assert usable(track, (200, 200)).tolist() == [True, True, False, False]
    assert usable(Track.of(0, 0, [0], [face(50, 50)]), (200, 90)).tolist() == [False]


@pytest.mark.parametrize("known", [False, True])
def test_tracks_there_and_back(known: bool) -> None:
    tracks = find_tracks(frames(30, cuts=[12]), Scripted(lambda row: [face(50 + row / 3, 50), face(300, 50)]))
    for track in tracks.tracks:
        track.covered[2:5] = True
        if known:
            track.turn[:] = (3.5, -7.5, 1.0)
            track.mouth[:] = 0.25
            track.outline = np.full((len(track), ANGLES), 90, np.uint8)
    tracks.corrupt = [3]
    data = write_tracks(tracks)
    again = read_tracks(data)
    assert (again.shots.tolist(), again.stop, again.corrupt) == ([0, 12], 30, [3])
    for one, other in zip(tracks.tracks, again.tracks, strict=True):
        assert (one.id, one.shot, one.thumbnail) == (other.id, other.shot, other.thumbnail)
        assert np.abs(one.landmarks - other.landmarks).max() <= 1 / 64
        for name in ("rows", "covered", "turn", "mouth", "outline"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    table = pq.read_table(io.BytesIO(data))
    assert {"row", "shot", "track", "left", "nose_x", "yaw", "mouth", "covered"} <= set(table.column_names)


def test_no_faces_are_a_file_too_and_another_file_is_none(tmp_path) -> None:
    nothing = read_tracks(write_tracks(Tracks([], np.array([0], np.int32), 40)))
    assert (nothing.tracks, nothing.stop) == ([], 40)
    import pyarrow as pa

    pq.write_table(pa.table({"row": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not a file of face tracks"):
        read_tracks((tmp_path / "other.parquet").read_bytes())


def test_a_face_and_frame_take_few_bytes() -> None:
    draw = np.random.default_rng(3)
    tracks = find_tracks(frames(250), Scripted(lambda row: [face(50, 50, texture=None)]))
    (track,) = tracks.tracks
    track.landmarks = (track.landmarks + np.cumsum(draw.normal(0, 0.5, track.landmarks.shape), axis=0)).astype(np.float32)
    track.turn = draw.normal(0, 5, track.turn.shape).astype(np.float32)
    track.mouth = draw.uniform(0, 0.5, len(track)).astype(np.float32)
    track.outline = draw.integers(60, 120, (len(track), ANGLES)).astype(np.uint8)
    assert len(write_tracks(tracks)) / len(track) < 100
