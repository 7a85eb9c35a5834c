"""A small model with the official code's weights, speech, and a whole clip dubbed with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from latentsync_ray.models.latentsync import model as model_module
from latentsync_ray.models.latentsync.audio import step_indices, touched_windows
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.mel import audio_step_count, log_mel_peak, mel_window

Speech = Callable[[Path], np.ndarray]


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Reads an audio file that already is 16 kHz mono into int16 (n,)."""

    def read(path: Path) -> np.ndarray:
        with av.open(path) as container:
            return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])

    return read


@pytest.fixture(scope="session")
def small_model_folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official code's small model as a folder that ``load_model`` takes."""
    folder = tmp_path_factory.mktemp("small_model")
    (folder / "whisper").mkdir()
    (folder / "latentsync_unet.pt").symlink_to(reference / "unet_small/unet_small.pt")
    (folder / "whisper/tiny.pt").symlink_to(reference / "whisper/whisper_small.pt")
    (folder / "vae").symlink_to(reference / "pipeline_small/vae")
    options = json.loads((reference / "unet_small/config.json").read_text())
    (folder / "latentsync.json").write_text(json.dumps({"resolution": 128, "unet": options}))
    return folder


@pytest.fixture(scope="session")
def small_model(small_model_folder: Path) -> LatentSync:
    return load_model(str(small_model_folder), device="cpu")


@pytest.fixture(scope="session")
def whole(reference: Path) -> dict[str, Tensor]:
    """Golden tensors of the whole path: 21 frames at 128 px, 4 steps, guidance 1.0 and 1.5."""
    return load_file(reference / "pipeline_small/golden.safetensors")


@pytest.fixture(scope="session")
def faces_21(reference: Path) -> np.ndarray:
    """The 21 aligned faces, uint8 (21, 128, 128, 3)."""
    strip = np.asarray(Image.open(reference / "pipeline_small/faces_strip.png").convert("RGB"))
    return strip.reshape(21, 128, 128, 3)


@pytest.fixture(scope="session")
def tokens_21(small_model: LatentSync, reference: Path, speech: Speech) -> Tensor:
    """Speech of the 21 frames (21, 30, 64), from the audio file."""
    samples = speech(reference / "pipeline_small/audio.flac")
    steps, fps = audio_step_count(len(samples)), Fraction(25)
    windows = touched_windows(0, 21, fps, steps)
    mel = np.stack([mel_window(samples, window, log_mel_peak(samples)) for window in windows])
    return small_model.audio_tokens(small_model.features(mel), windows.start, step_indices(0, 21, fps, steps))


Dub = Callable[[float], np.ndarray]


@pytest.fixture(scope="session")
def dub_21(small_model: LatentSync, whole: dict[str, Tensor], faces_21: np.ndarray, tokens_21: Tensor) -> Dub:
    """``dub_21(guidance)``: the 21 generated faces, float32 (21, 128, 128, 3), where the mask keeps pixels the original's.

    As the official run does it: 16 frames, then 5, from the stored noise.
    """
    assert np.array_equal(whole["pixel_mask"][0].numpy(), small_model.info.template.keep)

    def dub(guidance_scale: float) -> np.ndarray:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_module.LatentSync, "_noise", lambda *_: whole["noise"])
            parts = [
                small_model.generate(
                    faces_21[None, part], tokens_21[None, part], steps=4, guidance_scale=guidance_scale, seed=0
                )[0].numpy()
                for part in (slice(0, 16), slice(16, 21))
            ]
        return np.concatenate(parts)

    return dub


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are faster without threads."""
    torch.set_num_threads(1)
