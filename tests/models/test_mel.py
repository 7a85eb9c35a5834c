from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers.audio_utils import mel_filter_bank

from latentsync_ray.models import mel
from latentsync_ray.models.mel import audio_step_count, log_mel_peak, mel_window

Speech = Callable[[Path], np.ndarray]


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """All windows together, without what fills up the last."""
    frames = len(samples) // 160
    peak = log_mel_peak(samples)
    windows = [mel_window(samples, window, peak) for window in range(-(-frames // 3000))]
    whole = np.concatenate(windows, axis=1)
    assert not whole[:, frames:].any()
    return whole[:, :frames]


def assert_same_mel(got: np.ndarray, expected: np.ndarray) -> None:
    # The original transforms in float32, we in float64: in its quietest bands it is off by its own rounding.
    error = np.abs(got - expected)
    assert error.max() < 1.5e-5
    assert np.quantile(error, 0.999) < 5e-6


def test_short_speech(golden: Path, speech: Speech) -> None:
    expected = load_file(golden / "model/speech.safetensors")["expected.mel"]
    assert_same_mel(spectrogram(speech(golden / "model/short.flac")), expected)


@pytest.mark.parametrize("clip", ["clip6s", "short", "long"])
def test_official_spectrograms(reference: Path, speech: Speech, clip: str) -> None:
    expected = load_file(reference / "whisper/golden.safetensors")
    got = spectrogram(speech(reference / f"whisper/{clip}.flac"))
    columns = expected.get(f"{clip}.mel_index", slice(None))
    assert_same_mel(got[:, columns], expected[f"{clip}.mel"])


def test_bands_are_slaneys() -> None:
    expected = mel_filter_bank(201, 80, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel.mel_bands(), expected.T, atol=1e-12)


def test_loudest_moment_is_the_reference_of_every_window(tmp_path: Path) -> None:
    loud_late = np.zeros(35 * 16_000, np.int16)
    loud_late[:1600] = 30 * np.sin(np.arange(1600))
    loud_late[-1600:] = 30_000 * np.sin(np.arange(1600))
    peak = log_mel_peak(loud_late)
    assert peak > log_mel_peak(loud_late[:1600]) + 5
    first = mel_window(loud_late, 0, peak)
    assert first.max() < (peak - 5 + 4) / 4
    np.testing.assert_allclose(first.min(), (peak - 8 + 4) / 4, rtol=1e-6)

    path = tmp_path / "samples.raw"
    loud_late.tofile(path)
    mapped = np.memmap(path, np.int16, "r")
    assert log_mel_peak(mapped) == peak
    np.testing.assert_array_equal(mel_window(mapped, 1, peak), mel_window(loud_late, 1, peak))


def test_a_window_does_not_depend_on_how_the_audio_is_cut() -> None:
    samples = np.random.default_rng(0).normal(0, 3000, 61 * 16_000).astype(np.int16)
    np.testing.assert_array_equal(mel_window(samples, 0, 1.0), mel_window(samples[: 31 * 16_000], 0, 1.0))


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 319, 320])
def test_shorter_than_a_step_is_followed_by_silence(count: int) -> None:
    samples = np.full(count, 1000, np.int16)
    padded = np.pad(samples, (0, 320 - count))
    assert audio_step_count(count) == 1
    assert log_mel_peak(samples) == log_mel_peak(padded)
    np.testing.assert_array_equal(mel_window(samples, 0, 1.0), mel_window(padded, 0, 1.0))


def test_silence_has_the_floor() -> None:
    assert log_mel_peak(np.zeros(16_000, np.int16)) == -10.0


def test_step_counts(reference: Path) -> None:
    for samples, lengths in json.loads((reference / "whisper/meta.json").read_text())["lengths_by_samples"].items():
        assert audio_step_count(int(samples)) == max(lengths["feature_steps"], 1)


@pytest.mark.parametrize("window", [-1, 1])
def test_past_the_audio_is_an_error(window: int) -> None:
    with pytest.raises(ValueError, match="no window"):
        mel_window(np.zeros(16_000, np.int16), window, 0.0)


def test_decoding_workers_need_no_torch() -> None:
    modules = "mel", "find", "latentsync.family"
    code = "; ".join(f"import latentsync_ray.models.{module}" for module in modules)
    code += "; import sys; assert not {'torch', 'transformers', 'diffusers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
