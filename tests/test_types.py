from __future__ import annotations

import dataclasses as dc
import pickle

import numpy as np
import pytest

from latentsync_ray.errors import NoFace, StorageUnavailable
from latentsync_ray.types import Clip, ClipPlan, ClipRecord, FaceCrops, GeneratedFaces, Pair, Part, Segment, TrackedFaces

NOUNS = [Pair, Clip, ClipPlan, Segment, TrackedFaces, FaceCrops, GeneratedFaces, Part, ClipRecord]
PAIR = Pair(clip_id="anna", video="v.mp4", audio="a.wav", seed=7)


def crops(frames: int = 3, side: int = 8, **changed) -> FaceCrops:
    return FaceCrops.of(
        PAIR,
        **{
            "index": 2,
            "source_frames": np.arange(frames, dtype=np.int32),
            "faces": np.zeros((frames, side, side, 3), np.uint8),
            "affines": np.zeros((frames, 2, 3), np.float32),
            "frames": np.arange(frames, dtype=np.int32),
            "tracks": np.zeros(frames, np.int32),
            "weights": np.ones(frames, np.float32),
            "outlines": np.zeros((frames, 24, 2), np.float32),
            "speech": np.zeros((1, 80, 3000), np.float32),
        }
        | changed,
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"faces": np.zeros((3, 8, 8, 3), np.float32)},
            r"faces of clip 'anna' is float32\(3, 8, 8, 3\), expected uint8 with axes P S S 3",
        ),
        ({"faces": np.zeros((3, 8, 8), np.uint8)}, r"uint8\(3, 8, 8\), expected uint8 with axes P S S 3"),
        ({"faces": np.zeros((3, 8, 8, 4), np.uint8)}, r"faces of clip 'anna' is \(3, 8, 8, 4\)"),
        ({"faces": np.zeros((3, 8, 9, 3), np.uint8)}, r"expected axes P S S 3 with .*'S': 8"),
        ({"affines": np.zeros((4, 2, 3), np.float32)}, r"affines .* is \(4, 2, 3\), expected axes P 2 3 with .*'P': 3"),
        ({"tracks": [1]}, r"tracks of clip 'anna' is list, expected int32 with axes P"),
        ({"speech": None}, r"speech of clip 'anna' is NoneType"),
    ],
)
def test_arrays_are_checked(changed, message):
    with pytest.raises(ValueError, match=message):
        crops(**changed)


def test_printing_shows_shapes_and_never_pixels():
    text = repr(crops())
    assert "faces=uint8(3, 8, 8, 3)" in text
    assert "clip_id='anna'" in text
    assert len(text) < 1000


@pytest.mark.parametrize("noun", NOUNS)
def test_there_and_back(noun):
    row = noun.of(PAIR).to_row()
    assert list(row) == [field.name for field in dc.fields(noun)]
    again = noun.from_row({**row, "another column": 1})
    assert repr(again) == repr(noun.from_row(row)) == repr(pickle.loads(pickle.dumps(again)))


def test_numpy_scalars_become_plain():
    record = ClipRecord.of(PAIR, frames=np.int64(5), fps=np.float32(25), seed=np.int64(7))
    assert [type(value) for value in (record.frames, record.fps, record.seed)] == [int, float, int]


def test_each_noun_keeps_what_it_shares_with_the_one_before():
    part = Part.of(GeneratedFaces.of(crops(), checkpoint="abc"), uri="x", bytes=5)
    assert (part.clip_id, part.seed, part.index, part.checkpoint, part.uri) == ("anna", 7, 2, "abc", "x")
    record = ClipRecord.of(part, status="ok")
    assert (record.video, record.checkpoint, record.bytes, record.status) == ("v.mp4", "abc", 5, "ok")


@pytest.mark.parametrize("noun", NOUNS)
def test_failed_rows_have_the_columns_of_good_ones(noun):
    row = noun.of_failed(crops(), NoFace("nobody there"))
    good = noun.of(PAIR)
    assert (row.error_code, row.error, row.clip_id) == ("no_face", "nobody there", "anna")
    for field in dc.fields(noun):
        value, fine = getattr(row, field.name), getattr(good, field.name)
        if isinstance(fine, np.ndarray):
            assert (value.dtype, value.ndim, value.size) == (fine.dtype, fine.ndim, 0)


@pytest.mark.parametrize("nothing", [float("nan"), "", np.float64("nan"), None])
def test_what_a_table_holds_for_nothing_is_no_setting(nothing):
    columns = ("guidance_scale", "seed", "loop_mode", "language")
    pair = Pair(clip_id="a", video="v", audio="s", **dict.fromkeys(columns, nothing))
    assert [getattr(pair, name) for name in columns] == [None] * 4
    assert Pair(clip_id="a", video="v", audio="s", language="nan").language == "nan", "Min Nan"


def test_the_first_error_stays():
    row = GeneratedFaces.of_failed(FaceCrops.of_failed(PAIR, NoFace("first")), StorageUnavailable("second"))
    assert (row.error_code, row.error) == ("no_face", "first")


def test_pairs_are_found_by_frame():
    faces = TrackedFaces.of(
        PAIR,
        source_frames=np.arange(4, dtype=np.int32),
        frames=np.array([0, 2, 1, 2], np.int32),
        tracks=np.array([3, 3, 5, 5], np.int32),
        weights=np.ones(4, np.float32),
        affines=np.zeros((4, 2, 3), np.float32),
        outlines=np.zeros((4, 0, 2), np.float32),
    )
    assert faces.places(3).tolist() == [0, -1, 1, -1]
    assert faces.places(5).tolist() == [-1, 2, 3, -1]
    assert faces.missing == 1
