"""What a model's autoencoder alone would reach: the truth's faces through it, pasted and encoded as the pipeline does."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.faces.align import crop_face
from latentsync_ray.levels import to_uint8
from latentsync_ray.media.join import join_parts
from latentsync_ray.models import Model
from latentsync_ray.models.latentsync.model import LatentSync
from latentsync_ray.nano.evaluate.take import Take
from latentsync_ray.stages.paste import Paste
from latentsync_ray.types import FaceCrops, GeneratedFaces

__all__ = ["write_ceiling"]


def write_ceiling(take: Take, audio: Path, crops: Sequence[FaceCrops], output: Path, *, model: Model, recipe: Recipe) -> Path:
    """Write the clip that ``model`` would make of ``take`` if it knew the truth and only had to draw it.

    ``crops`` are the segments of the filmed clip for the same model (see ``score.aligned``).
    """
    assert isinstance(model, LatentSync)
    truth, parts = take.truth(), []
    paste = Paste(recipe, str(output.parent / "parts"))
    for segment in crops:
        pictures = islice(truth, len(segment.affines))
        wanted = np.stack(
            [
                crop_face(picture, affine, model.info.template, official=recipe.parity)
                for picture, affine in zip(pictures, segment.affines, strict=True)
            ]
        )
        part = paste(GeneratedFaces.of(segment, faces=to_uint8(model.reconstruct(wanted)).cpu().numpy()))
        parts.append(Path(part.uri))
    join_parts(parts, audio, output, fps=Fraction(crops[0].fps_num, crops[0].fps_den))
    return output
