"""A model that gives faces back as they are, but for some seeds with a planted fault: a cast of colour."""

from __future__ import annotations

import numpy as np
import torch
from toy import Toy, ToyInfo

from latentsync_ray.models import DType
from latentsync_ray.types import Device

__all__ = ["PLANTED"]

_CAST = np.array([24, -8, -24], np.float32) / 127.5


class _Planted(Toy):
    def generate(
        self,
        faces: np.ndarray,
        speech: torch.Tensor,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        cache_interval: int = 1,
    ) -> torch.Tensor:
        """A third of the seeds is bad, less of it with more guidance."""
        fault = _CAST / guidance_scale if seed % 3 == 0 else 0
        return torch.from_numpy((faces / np.float32(127.5) - 1 + fault).astype(np.float32))


class _PlantedInfo(ToyInfo):
    name = "planted"

    def load(self, *, device: Device = "auto", dtype: DType = "auto") -> _Planted:
        return _Planted()


PLANTED = _PlantedInfo()
