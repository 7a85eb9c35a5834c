from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentsync_ray.models.latentsync.mask import keep_mask


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_mask_is_the_official_one(golden: Path, resolution: int) -> None:
    wanted = np.load(golden / "faces" / "mask_resized.npz")[f"mask_{resolution}"]
    mask = keep_mask(resolution)
    assert mask.dtype == np.float32
    assert np.array_equal(mask, wanted / np.float32(255))


def test_shared_mask_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        keep_mask(256)[0, 0] = 0
