"""From frames to final frames as the official code makes them: alignment, speech, diffusion, paste-back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from latentsync_ray.faces.align import OfficialBias, crop_face
from latentsync_ray.faces.blend import blend_rgb
from latentsync_ray.faces.insightface import landmarks_of_106
from latentsync_ray.models.latentsync.template import template


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_aligned_faces(reference: Path, whole: dict[str, Tensor], faces_21: np.ndarray) -> None:
    bias = OfficialBias()
    for number in range(21):
        matrix = bias(landmarks_of_106(whole["landmarks_106"][number].numpy()), template(128))
        assert np.abs(matrix - whole["matrices"][number].numpy()).max() < 2e-3
        face = crop_face(picture(reference / f"pipeline_small/frames/{number:03d}.png"), matrix, template(128))
        difference = np.abs(face.astype(int) - faces_21[number])
        assert difference.max() <= 2
        assert (difference == 0).mean() > 0.98


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_final_frames(
    guidance: float, reference: Path, whole: dict[str, Tensor], dub_21: Callable[[float], np.ndarray]
) -> None:
    faces = dub_21(guidance)
    for number in range(21):
        frame = picture(reference / f"pipeline_small/frames/{number:03d}.png")
        made = blend_rgb(frame, faces[number], whole["matrices"][number].numpy(), template(128), mode="crop")
        means = whole[f"g{guidance}.final_frame_channel_mean"][number].numpy()
        assert np.abs(made.mean(axis=(0, 1)) - means).max() < 0.05
        expected = reference / f"pipeline_small/g{guidance}.final.{number:03d}.png"
        if expected.exists():
            difference = np.abs(made.astype(int) - picture(expected))
            assert difference.max() <= 2
            assert (difference == 0).mean() >= 0.99
