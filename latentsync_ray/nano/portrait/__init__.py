"""A talking head of our own, for the demo and for training data: a public-domain portrait animated by numpy and OpenCV.

    samples --mouth_curves--> aperture, width --Performance--> + lids, pose --render_clip--> frames --read_aperture--> aperture

Knows nothing about files: it takes samples and yields pictures.
"""

from __future__ import annotations

from latentsync_ray.nano.portrait.face import SIDE
from latentsync_ray.nano.portrait.performance import Performance
from latentsync_ray.nano.portrait.render import Light, mouth_points, posed_points, read_aperture, render_clip
from latentsync_ray.nano.portrait.speech import mouth_curves, mouth_of, sound_curves, voice_weight

__all__ = [
    "SIDE",
    "Light",
    "Performance",
    "mouth_curves",
    "mouth_of",
    "mouth_points",
    "posed_points",
    "read_aperture",
    "render_clip",
    "sound_curves",
    "voice_weight",
]
