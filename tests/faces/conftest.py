"""Golden data of the official implementation, and moving pictures whose every movement is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

Scene = Callable[..., np.ndarray]


@pytest.fixture(params=["golden", "reference"])
def official(request: pytest.FixtureRequest) -> Path:
    """Folder with the official pictures and matrices: the part that travels with the repository, then all of it."""
    if request.param == "golden":
        return request.getfixturevalue("golden") / "faces"
    return request.getfixturevalue("reference") / "align"


@pytest.fixture(scope="session")
def rgb() -> Callable[[Path], np.ndarray]:
    """Read a picture file as uint8 (H, W, 3) RGB."""
    return lambda path: np.array(Image.open(path).convert("RGB"))


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A frontal face, uint8 (512, 512, 3) RGB: brows near (202, 94) and (247, 94), nose near (224, 121)."""
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="session")
def scene(portrait: np.ndarray) -> Scene:
    """``scene(pose, ...)``: a 480 x 640 frame with the portrait under each (2, 3) pose, the last on top, before a backdrop."""
    head = np.zeros((512, 512), np.float32)
    cv2.ellipse(head, (224, 110), (75, 100), 0, 0, 360, 1, -1)
    head = cv2.GaussianBlur(head, (0, 0), 6)[..., None]
    backdrop = cv2.resize(
        np.random.default_rng(3).integers(60, 160, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC
    )

    def draw(*poses: np.ndarray, brightness: float = 1.0) -> np.ndarray:
        frame = backdrop.astype(np.float32)
        for pose in poses:
            corners = cv2.transform(np.array([[(120, -20), (330, -20), (120, 240), (330, 240)]], np.float64), pose)[0]
            left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (640, 480))
            right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, (640, 480))
            size = int(right - left), int(bottom - top)
            if min(size) > 0:  # the rest of the frame shows nothing of the head
                there = pose - [[0, 0, left], [0, 0, top]]
                weight = cv2.warpAffine(head, there, size)[..., None]
                box = frame[top:bottom, left:right]
                box += weight * (cv2.warpAffine(portrait, there, size, flags=cv2.INTER_AREA) - box)
        return np.clip(frame * brightness, 0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def pose() -> Callable[..., np.ndarray]:
    """``pose(x, y, scale, degrees)``: the (2, 3) similarity that puts the portrait's nose bridge at (x, y)."""

    def make(x: float, y: float, scale: float = 1.0, degrees: float = 0.0) -> np.ndarray:
        matrix = cv2.getRotationMatrix2D((224, 105), degrees, scale)
        matrix[:, 2] += (x - 224, y - 105)
        return matrix

    return make
