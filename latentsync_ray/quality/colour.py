"""How different two colours look: CIE Lab and the difference CIEDE2000, in which 1 is just visible side by side."""

from __future__ import annotations

import numpy as np

__all__ = ["difference", "lab_of"]

_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
"""Linear sRGB to XYZ (IEC 61966-2-1)."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
"""D65."""


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB colours, 0 to 255: both (..., 3)."""
    shares = np.clip(rgb / 255, 0, 1)
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    ratios = linear @ _TO_XYZ.T / _WHITE
    x, y, z = np.moveaxis(np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """CIEDE2000 of two Lab colours: (..., 3) each, gives (...). After Sharma, Wu and Dalal, 2005."""
    (light1, a1, b1), (light2, a2, b2) = (np.moveaxis(each, -1, 0) for each in (first, second))
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    grown = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25.0**7))
    a1, a2 = a1 * grown, a2 * grown
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue1, hue2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = np.where(chroma1 * chroma2 == 0, 0, (hue2 - hue1 + 180) % 360 - 180)
    hue = np.where(chroma1 * chroma2 == 0, hue1 + hue2, hue1 + turn / 2)
    light, chroma = (light1 + light2) / 2, (chroma1 + chroma2) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    ripple = 1 + sum(size * np.cos(np.radians(times * hue + shift)) for size, times, shift in waves)
    away = np.square(light - 50)
    by_light = (light2 - light1) / (1 + 0.015 * away / np.sqrt(20 + away))
    by_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(chroma1 * chroma2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * ripple)
    blue = np.sin(np.radians(60 * np.exp(-np.square((hue % 360 - 275) / 25))))
    crossed = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * blue * by_chroma * by_hue
    return np.sqrt(np.maximum(by_light**2 + by_chroma**2 + by_hue**2 + crossed, 0))
