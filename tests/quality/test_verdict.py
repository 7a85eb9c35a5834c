"""From curves to columns: what counts as flicker, as silence, as the worst frame; and that cuts do not matter."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from latentsync_ray.models.find import find_model
from latentsync_ray.quality.marks import TRAITS, cells_of
from latentsync_ray.quality.verdict import COLUMNS, Noted, verdict

FPS = Fraction(25)
CELLS = cells_of(find_model("tiny-random").template)
GOOD = {"seam": 1.0, "detail": 4.0, "source_detail": 4.0, "identity": 0.95, "skin_shift": 0.5}


def noted(count: int, *, after: np.ndarray | None = None, level: np.ndarray | None = None, **curves: Any) -> Noted:
    """One face of ``count`` frames; ``after`` (count,) is how bright it was pasted, over a filmed one of 100."""
    grids = np.full((count, 2, 8, 12), 100, np.uint8)
    if after is not None:
        grids[:, 1] = np.asarray(after)[:, None, None]
    traits = np.stack([np.broadcast_to(curves.get(name, GOOD[name]), count) for name in TRAITS], 1).astype(np.float32)
    loud = np.full(count, -20.0) if level is None else level
    frames = np.arange(count)
    return Noted(frames=frames, tracks=np.zeros(count, int), traits=traits, grids=grids, cells=CELLS, level=loud)


def test_a_good_clip() -> None:
    told = verdict(noted(50), FPS)
    assert (told["seam"], told["sharpness"], told["flicker"], told["identity"]) == (1.0, 1.0, 0.0, pytest.approx(0.95))
    assert (told["skin_shift"], told["speech_motion"], told["silence_motion"]) == (0.5, 0.0, None)
    assert told.keys() == {*COLUMNS, *(f"{name}_frame" for name in COLUMNS if name != "speech_motion")}


def test_one_frame_that_is_off_flickers_and_a_change_that_stays_does_not() -> None:
    glitch, step = np.full(50, 100), np.full(50, 100)
    glitch[30], step[30:] = 120, 120
    told = verdict(noted(50, after=glitch), FPS)
    assert told["flicker"] == pytest.approx(4.0), "20 levels in one frame of the five of a moment"
    assert abs(told["flicker_frame"] - 30) <= 2
    assert verdict(noted(50, after=step), FPS)["flicker"] == 0
    assert verdict(noted(50, after=100 + np.arange(50)), FPS)["flicker"] == 0


def test_what_flickers_in_the_source_does_not_count() -> None:
    flashing = noted(50, after=100 + 20 * (np.arange(50) % 3 == 0))
    flashing.grids[:, 0] = flashing.grids[:, 1]
    assert verdict(flashing, FPS)["flicker"] == 0


def test_the_worst_frames_are_named() -> None:
    curves = {name: np.full(50, value) for name, value in GOOD.items()}
    curves["seam"][7:12] = 9
    curves["identity"][20] = 0.1
    curves["detail"][33] = 0.5
    curves["skin_shift"][40:45] = 6
    told = verdict(noted(50, **curves), FPS)
    assert [told[f"{name}_frame"] for name in ("seam", "identity", "sharpness", "skin_shift")] == [7, 20, 33, 42]
    assert (told["seam"], told["skin_shift"]) == (9, pytest.approx(6))
    assert (told["identity"], told["sharpness"]) == (pytest.approx(0.95), 1), "of most frames"


def test_lips_in_silence() -> None:
    level = np.full(100, -20.0)
    level[40:70] = -70
    mouth = np.where(np.arange(100) % 2, 100, 108)
    still = mouth.copy()
    still[41:70] = 100
    assert verdict(noted(100, after=mouth, level=level), FPS)["silence_motion"] == pytest.approx(1)
    told = verdict(noted(100, after=still, level=level), FPS)
    assert (told["silence_motion"], told["speech_motion"]) == (0, pytest.approx(8, abs=0.2))
    assert 43 <= verdict(noted(100, after=mouth, level=level), FPS)["silence_motion_frame"] < 67, (
        "not as the speech begins or ends"
    )


def test_a_mouth_that_talks_to_silence_reads_badly_and_a_still_one_does_not() -> None:
    silence, mouth = np.full(60, -120.0), np.where(np.arange(60) % 2, 100, 108)
    own = noted(60, after=mouth, level=silence)
    own.grids[:, 0] = own.grids[:, 1]
    assert verdict(own, FPS)["silence_motion"] == pytest.approx(1)
    shut = noted(60, level=silence)
    shut.grids[:, 0] = own.grids[:, 1]
    assert verdict(shut, FPS)["silence_motion"] == 0
    assert verdict(noted(60, level=silence), FPS)["silence_motion"] == 0, "the filmed one is still, too"


def test_nothing_is_told_of_nothing() -> None:
    assert set(verdict(noted(0, level=np.zeros(5)), FPS).values()) == {None}
    short = verdict(noted(2), FPS)
    assert (short["seam"], short["flicker"], short["speech_motion"]) == (1.0, None, None)
    unknown = verdict(noted(50, level=np.full(50, np.nan), identity=np.nan), FPS)
    assert (unknown["identity"], unknown["identity_frame"], unknown["speech_motion"], unknown["silence_motion"]) == (None,) * 4


def test_faces_and_gaps_are_not_taken_for_changes() -> None:
    """Two faces of other brightness, noted frame by frame as segments do, one of them away for a while."""
    rows = [(frame, track) for frame in range(60) for track in (0, 1) if not (track and 20 <= frame < 30)]
    frames, tracks = np.array(rows).T
    grids = np.full((len(rows), 2, 8, 12), 100, np.uint8)
    grids[tracks == 1] = 180
    grids[(tracks == 1) & (frames >= 30)] = 90
    traits = np.tile(np.array([GOOD[name] for name in TRAITS], np.float32), (len(rows), 1))
    told = verdict(Noted(frames=frames, tracks=tracks, traits=traits, grids=grids, cells=CELLS, level=np.full(60, -20.0)), FPS)
    assert (told["flicker"], told["speech_motion"]) == (0, 0)
