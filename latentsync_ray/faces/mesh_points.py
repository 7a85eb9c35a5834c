"""Which of the 468 points of MediaPipe's face mesh are what. Left is image-left of a face that looks into the camera."""

from __future__ import annotations

__all__ = ["BROWS", "CORNERS", "LOWER", "MIDDLES", "MOUTH", "NOSE", "UPPER"]

# fmt: off
BROWS = ([46, 53, 52, 65, 55, 70, 63, 105, 66, 107], [276, 283, 282, 295, 285, 300, 293, 334, 296, 336])
"""The outlines of the brows."""
NOSE = [1, 5, 48, 278]
"""Ridge, tip and wings: what InsightFace's group is, 0.60 to 0.68 brow distances below the brows on four clips."""
MOUTH = (13, 14)
"""The middles of the inner edges of upper and lower lip."""
CORNERS = (78, 308)
"""The corners of the mouth, at the inner edges."""
MIDDLES = (0, 17)
"""The middles of the outer edges of upper and lower lip."""
LOWER = [
    # lips, outside
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    # chin
    152, 148, 176, 149, 377, 400, 378, 18, 83, 313, 200, 199, 175, 201, 421, 208, 428, 32, 262, 194, 418, 204, 424,
    # beside and above the mouth
    206, 426, 216, 436, 212, 432, 202, 422, 57, 287, 186, 410, 92, 322, 165, 391, 164, 167, 393, 43, 273,
]
"""Skin and lips that whatever is before the mouth covers too; not the inside of the mouth, which changes."""
UPPER = [6, 197, 195, 5, 4, 51, 281, 45, 275, 101, 330, 118, 347, 50, 280, 117, 346, 36, 266, 9, 8, 107, 336, 108, 337, 151]
"""Skin of the upper face, which tells the light."""
# fmt: on
