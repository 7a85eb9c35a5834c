from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from latentsync_ray.models.latentsync.audio import chunk_count, step_indices, touched_windows


def test_frames_look_4_steps_back_and_5_ahead() -> None:
    indices = step_indices(10, 12, Fraction(25), 1000)
    assert indices.dtype == np.int32
    assert indices.tolist() == [list(range(16, 26)), list(range(18, 28))]


def test_the_ends_repeat() -> None:
    assert step_indices(0, 1, Fraction(25), 3).tolist() == [[0, 0, 0, 0, 0, 1, 2, 2, 2, 2]]


def test_centres_are_exact_for_ntsc_rates_late_in_a_clip() -> None:
    frame = 30000 * 3600 // 1001
    centre = int(step_indices(frame, frame + 1, Fraction(30000, 1001), 10**7)[0, 4])
    assert centre == Fraction(frame * 50 * 1001, 30000).__floor__()


@pytest.mark.parametrize("clip", ["clip6s", "short", "long"])
@pytest.mark.parametrize("fps", [25, 30])
def test_official_indices(reference: Path, clip: str, fps: int) -> None:
    expected = load_file(reference / "whisper/golden.safetensors")[f"{clip}.fps{fps}.chunk_index"]
    steps = json.loads((reference / "whisper/meta.json").read_text())["clips"][clip]["feature_shape"][0]
    assert chunk_count(steps, Fraction(fps)) == len(expected)
    np.testing.assert_array_equal(step_indices(0, len(expected), Fraction(fps), steps), expected)


def test_official_frame_counts(reference: Path) -> None:
    table = json.loads((reference / "whisper/meta.json").read_text())["n_chunks_by_fps_and_feature_length"]
    for fps, lengths in table.items():
        assert {int(steps): chunk_count(int(steps), Fraction(fps)) for steps in lengths} == {
            int(steps): count for steps, count in lengths.items()
        }


@pytest.mark.parametrize(("fps", "steps"), [(Fraction(25), 1884), (Fraction(30000, 1001), 4501), (Fraction(60), 1)])
@pytest.mark.parametrize(("start", "stop"), [(0, 128), (700, 828), (748, 749), (752, 753), (900, 1500)])
def test_touched_windows_are_those_of_the_indices(fps: Fraction, steps: int, start: int, stop: int) -> None:
    touched = set((step_indices(start, stop, fps, steps) // 1500).ravel().tolist())
    assert touched == set(touched_windows(start, stop, fps, steps))
