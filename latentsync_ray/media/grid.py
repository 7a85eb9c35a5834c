"""Which source frame each output frame shows: the fps grid and the loop. From the packet table alone; numpy, no codec."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np

from latentsync_ray.media.index import VideoIndex
from latentsync_ray.types import LoopMode

__all__ = ["frame_grid", "repeat"]


def frame_grid(index: VideoIndex, fps: Fraction, rule: Literal["near", "cli"]) -> np.ndarray:
    """Source frame (display order) of each output frame at a constant ``fps``: int32 (n,), non-decreasing, n >= 1.

    Time begins with the container's earliest stream; pictures that begin later have their first one shown until then.
    ``near`` does as FFmpeg's ``fps`` filter: each source frame is moved to the nearest slot, and a slot shows the last frame
    moved to it or before it. ``cli`` does as ``ffmpeg -r``, which decides frame by frame how often to write it, and is later.
    """
    start = _round(index.start / index.time_base)
    ticks = [pts - start for pts in index.pts.tolist()]
    rows = (_near if rule == "near" else _cli)(ticks, index.durations.tolist(), index.time_base, fps)
    return np.array(rows, np.int32)


def repeat(grid: np.ndarray, count: int, loop_mode: LoopMode) -> np.ndarray:
    """``grid`` int32 (n,) made ``count`` frames long: cut, or repeated; int32 (count,).

    ``pingpong`` plays whole passes forward, backward, forward ..., so that frames at a turn show twice; ``loop`` starts over.
    """
    step = np.arange(count) % (2 * len(grid) if loop_mode == "pingpong" else len(grid))
    return grid[np.where(step < len(grid), step, 2 * len(grid) - 1 - step)].astype(np.int32)


def _near(ticks: list[int], durations: list[int], time_base: Fraction, fps: Fraction) -> np.ndarray:
    slots = [_round(tick * time_base * fps) for tick in ticks]
    end = _round((ticks[-1] + durations[-1]) * time_base * fps)
    shown = np.arange(max(end, slots[0] + 1))
    return np.maximum(np.searchsorted(slots, shown, side="right") - 1, 0)


def _cli(ticks: list[int], durations: list[int], time_base: Fraction, fps: Fraction) -> list[int]:
    """The constant-rate branch of ``video_sync_process`` in FFmpeg's fftools (6 to 8), its float arithmetic included."""
    out: list[int] = []
    repeats = [0, 0, 0]
    for row, (tick, duration) in enumerate(zip(ticks, durations, strict=True)):
        gap = tick - ticks[row - 1] if row else 0
        if gap > 0 and (not duration or (duration == 1 and gap > 2)):
            duration = gap
        early = _slot(tick * time_base, fps) - len(out)
        late = early + float(duration) * float(time_base) * float(fps)
        copies, old = 1, 0
        if late < -1.1:
            copies = 0
        elif late > 1.1:
            copies = _rint(late)
            old = _rint(early - 0.6) if early > 1.1 else 0
        out += [row - 1 if copy < old and row else row for copy in range(copies)]
        repeats = [old, *repeats[:2]]
    return out + [len(ticks) - 1] * sorted(repeats)[1]


def _slot(seconds: Fraction, fps: Fraction) -> float:
    """Time in output frames, as fftools keeps it: with up to 16 fractional bits, nudged off the ties."""
    bits = min(max(29 - int(math.log2(fps.numerator)), 0), 16)
    slot = _round(seconds * fps * (1 << bits)) / (1 << bits)
    return slot if slot == round(slot) else slot + math.copysign(1 / (1 << 17), slot)


def _rint(value: float) -> int:
    return round(float(np.float32(value)))  # llrintf: to single precision first, ties to even


def _round(value: Fraction) -> int:
    """To the nearest integer, ties away from zero (FFmpeg's ``av_rescale_q``)."""
    whole = (2 * abs(value.numerator) + value.denominator) // (2 * value.denominator)
    return whole if value >= 0 else -whole
