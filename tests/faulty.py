"""A detector that goes wrong (a red frame takes its process along, a blue one meets a bug), and sinks that do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentsync_ray.faces import Face
from latentsync_ray.faces.embedded import EmbeddedDetector
from latentsync_ray.sinks import Published
from latentsync_ray.sinks.mp4 import Mp4Sink

__all__ = ["Faulty", "FaultySink", "QuotingSink"]


class Faulty(EmbeddedDetector):
    """Dies as if out of memory, or raises."""

    def __call__(self, frame: np.ndarray, known: Sequence[Face] = (), *, search: bool = True) -> list[Face]:
        red, green, blue = frame.reshape(-1, 3).mean(axis=0)
        if red > 180 and max(green, blue) < 60:
            os._exit(1)
        if blue > 180 and max(red, green) < 60:
            raise ZeroDivisionError("a bug in a detector")
        return super().__call__(frame, known, search=search)


class FaultySink(Mp4Sink):
    """Meets a bug over a clip named "odd"."""

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        if clip_name == "odd":
            raise ZeroDivisionError("a bug in a sink")
        return super().publish(local_mp4, clip_name)


class DeadlySink(Mp4Sink):
    """Ends the process for the clip of this name."""

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        if clip_name == "deadly":
            os._exit(1)
        return super().publish(local_mp4, clip_name)


class QuotingSink(Mp4Sink):
    """Meets a bug over a clip named "odd", and quotes an address in its message, as libraries do."""

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        if clip_name == "odd":
            raise ValueError("no such port in https://me:0ddL0gin@h.example/odd.mp4?X-Amz-Signature=0ddS1gnature")
        return super().publish(local_mp4, clip_name)
