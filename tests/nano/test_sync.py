"""What the networks that judge sync learn from: lips that close where they have to, drawings of which the opening is known."""

from __future__ import annotations

import ctypes.util

import numpy as np
import pytest

from latentsync_ray.nano.sync.articulation import Speaker, articulate
from latentsync_ray.nano.sync.calibrate import calibrated
from latentsync_ray.nano.sync.ear import excerpt
from latentsync_ray.nano.sync.judge import Verdict, drawn, table
from latentsync_ray.nano.sync.mouths import MOUTHS, Drawing, Person, draw_clip, draw_mouth
from latentsync_ray.nano.sync.tracks import Track, make_track
from latentsync_ray.nano.sync.voices import pronounce
from latentsync_ray.nano.sync.weights import write_weights
from latentsync_ray.sync.networks import shipped_weights

SPEAKER = Speaker(rest=0.1, reach=(0.04, 0.06), firmness=1.0, habits=dict.fromkeys("apu", (0.0, 0.0)))
needs_espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng's library is not here")


def test_lips_close_for_a_p_and_round_for_an_u() -> None:
    opening, width = articulate([(0.0, "a"), (0.3, "p"), (0.4, "a"), (0.7, "u"), (0.9, "")], 1.5, SPEAKER, 150)
    assert opening[15] > 0.8
    assert opening[35] < 0.2
    assert opening[55] > 0.8
    assert opening[140] == pytest.approx(0.1, abs=0.03)
    assert width[80] < -0.6 < width[15]


def test_a_drawing_is_as_open_as_it_says() -> None:
    person = Person(3)
    closed, opened = (Drawing(opening=opening, width=0, smile=0, pouting=0, moved=(0, 0, 0, 0)) for opening in (0.0, 1.0))
    changed = np.abs(draw_mouth(person, closed) - draw_mouth(person, opened)).mean(-1)
    assert draw_mouth(person, closed).shape == (120, 168, 3)
    rows = np.flatnonzero(changed[:, round(person.x)] > 8)
    assert np.ptp(rows) > 0.6 * person.most * person.size
    assert person.facts(opened)[0] > person.facts(closed)[0] == 0
    assert person.facts(opened)[2] > person.facts(closed)[2] > 0


def test_a_clip_is_one_person_and_the_same_each_time() -> None:
    pictures, facts = draw_clip(5)
    assert pictures.shape == (MOUTHS, 40, 56, 3)
    assert facts.shape == (MOUTHS, 3)
    assert np.array_equal(draw_clip(5)[0], pictures)
    assert not np.array_equal(draw_clip(6)[0], pictures)


@pytest.fixture(scope="module")
def tracks() -> list[Track]:
    """Made of noise, so that no espeak is needed."""
    draw = np.random.default_rng(1)
    return [
        Track(mel=draw.normal(size=(80, 1300)).astype(np.float16), lips=draw.uniform(0, 1, (5, 2, 1300)).astype(np.float16))
        for _ in range(3)
    ]


def test_an_excerpt_has_sound_and_lips_of_one_length(tracks: list[Track]) -> None:
    for late in (None, -15, 0, 15):
        each = excerpt(tracks, np.random.default_rng(2), 100, late=late)
        assert each.mel.shape == (80, 400)
        assert each.lips.shape == (100, 3)
        assert each.late == late
    with pytest.raises(ValueError, match=r"longer than 17\.3 s"):
        excerpt(tracks, np.random.default_rng(2), 400, late=None)


def test_noise_is_no_evidence(tracks: list[Track]) -> None:
    slope, prior = calibrated(shipped_weights(), tracks, excerpts=80)["judge"]
    assert abs(slope) < 0.5
    assert abs(prior) < 3


def test_what_is_written_is_read_back_with_its_shapes(tmp_path) -> None:
    from safetensors.numpy import load_file

    write_weights(tmp_path / "weights.safetensors", shipped_weights(), {"made_by": "a test"})
    again = load_file(tmp_path / "weights.safetensors")
    assert {name: value.shape for name, value in again.items()} == {
        name: value.shape for name, value in shipped_weights().items()
    }


def test_a_table_counts_right_ones_above_wrong_ones() -> None:
    said = [
        *(Verdict(shift=0, score=score, offset=offset, correlation=0, lag=0) for score, offset in ((0.9, 0.2), (0.4, 3))),
        *(Verdict(shift=None, score=score, offset=0, correlation=0, lag=0) for score in (0.5, 0.1)),
        *(Verdict(shift=shift, score=0.0, offset=shift, correlation=0, lag=0) for shift in (3, -3, 5, 10)),
    ]
    found = table(said)
    assert (found.windows, found.other, found.shifted, found.offset) == (2, 0.75, (1, 1, 1), 0.5)


@needs_espeak
def test_phonemes_come_with_their_times() -> None:
    samples, rate, phones = pronounce("Papa", "de+f2", speed=150, pitch=40)
    times, names = zip(*phones, strict=True)
    assert list(times) == sorted(times)
    assert times[-1] <= len(samples) / rate
    assert names.count("p") == 2
    track = make_track(4)
    assert track.lips.shape == (5, 2, track.mel.shape[1])
    assert 4 < track.seconds < 25


@needs_espeak
@pytest.mark.slow
def test_drawn_people_are_told() -> None:
    from latentsync_ray.nano.sync.judge import verdicts

    said = [each for one in verdicts(list(drawn(3)), 4.0, step=2.0).values() for each in one]
    found = table(said)
    assert found.other > 0.97
    assert found.offset > 0.9
