"""What the tests of this room share: limits, and a probe with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from latentsync_ray.media.index import VideoIndex
from latentsync_ray.media.source import probe_video


@pytest.fixture
def probe() -> Callable[..., VideoIndex]:
    """``probe_video`` with ample limits."""
    return partial(probe_video, max_pixels=1 << 24, max_seconds=600)
