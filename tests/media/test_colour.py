"""The matrix against the standard's own anchors and against what decoding yields."""

from __future__ import annotations

import numpy as np
import pytest
from make_clips import write_clip

from latentsync_ray.media.colour import Colour, colour_matrix
from latentsync_ray.media.decode import read_frames

PRIMARIES = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        # BT.601 and BT.709, 8 bit limited: the values of the colour bars in every reference table.
        (Colour(), [[235, 128, 128], [16, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]]),
        (Colour(range=1, space=1), [[235, 128, 128], [16, 128, 128], [63, 102, 240], [173, 42, 26], [32, 240, 118]]),
        # JFIF
        (Colour(range=2, space=5), [[255, 128, 128], [0, 128, 128], [76, 85, 255.5], [150, 44, 21], [29, 255.5, 107]]),
    ],
)
def test_anchor_colours(colour: Colour, expected: list[list[float]]) -> None:
    matrix, offset = colour_matrix(colour)
    assert matrix.dtype == offset.dtype == np.float32
    np.testing.assert_allclose(PRIMARIES @ matrix.T + offset, expected, atol=0.6)


@pytest.mark.parametrize("value_range", [0, 1, 2])
@pytest.mark.parametrize("space", [1, 2, 6, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_rgb_and_planes_agree_through_the_matrix(tmp_path, probe, value_range: int, space: int, pix_fmt: str) -> None:
    flat = [np.full((32, 32, 3), rgb, np.uint8) for rgb in ([200, 40, 60], [30, 160, 220], [128, 128, 128])]
    tags = (value_range, space, 2, 2)
    path = write_clip(tmp_path / "a.mp4", flat, colour=tags, pix_fmt=pix_fmt, options={"crf": "1"})
    index = probe(path)
    assert (index.colour.full, index.colour.space) == (value_range == 2, space)
    matrix, offset = colour_matrix(index.colour)
    for row, picture in read_frames(path, index, np.arange(3)):
        planes = picture.planes()
        stored = [planes.y[16, 16], planes.u[8, 8], planes.v[8, 8]]
        np.testing.assert_allclose(picture.rgb()[16, 16] @ matrix.T + offset, stored, atol=2)
        np.testing.assert_allclose(picture.rgb()[16, 16].astype(int), flat[row][0, 0], atol=5)
