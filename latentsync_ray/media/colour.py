"""What the numbers of a picture mean: the colour tags of a stream, and the matrix that follows from them.

Plain numpy, so that blending code can convert small regions exactly as the decoder and the encoder do.
Knows nothing about files or codecs. Transfer curves are carried, never applied: HDR is not tone-mapped.
"""

from __future__ import annotations

import dataclasses as dc

import numpy as np

__all__ = ["BT709", "UNSPECIFIED", "Colour", "colour_matrix"]

UNSPECIFIED = 2
"""The code point that means "not tagged" for space, primaries and transfer (ITU-T H.273)."""

_FULL = 2
_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # BT.2020, constant luminance: treated as the plain one, as FFmpeg does
}
_BT601 = (0.299, 0.114)


@dc.dataclass(frozen=True, slots=True)
class Colour:
    """Colour tags as code points of ITU-T H.273 (the integers FFmpeg uses); the defaults mean "not tagged"."""

    range: int = 0
    """1 limited (16-235), 2 full (0-255), 0 not tagged, which means limited."""
    space: int = UNSPECIFIED
    """RGB to YUV matrix: 1 BT.709, 5 and 6 BT.601, 9 BT.2020 ...; not tagged means BT.601."""
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def full(self) -> bool:
        """Whether luma uses 0-255 rather than 16-235."""
        return self.range == _FULL


BT709 = Colour(range=1, space=1, primaries=1, transfer=1)
"""What sources without a YUV matrix of their own (RGB, palettes) are converted to."""


def colour_matrix(colour: Colour) -> tuple[np.ndarray, np.ndarray]:
    """RGB to YUV for 8-bit values: ``yuv = rgb @ matrix.T + offset``; float32 (3, 3) and (3,).

    From the luma weights of ITU-T H.273, table 4, and its quantisation of limited and full range.
    """
    red, blue = _WEIGHTS.get(colour.space, _BT601)
    luma = np.array([red, 1 - red - blue, blue])
    rows = np.stack([luma, (np.array([0, 0, 1]) - luma) / (2 - 2 * blue), (np.array([1, 0, 0]) - luma) / (2 - 2 * red)])
    scale, black = ((1.0, 1.0, 1.0), 0.0) if colour.full else ((219 / 255, 224 / 255, 224 / 255), 16.0)
    matrix = rows * np.array(scale)[:, None]
    return matrix.astype(np.float32), np.array([black, 128, 128], np.float32)
