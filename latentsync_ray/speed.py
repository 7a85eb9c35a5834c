"""What bound a job, and how far its model was from what the card can do: one line for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from latentsync_ray.cards import peak_of
from latentsync_ray.types import ClipRecord

__all__ = ["Work", "speed_line"]

_WORTH_TELLING = 0.01
"""A smaller share of waiting is none."""


def speed_line(
    stage_seconds: Mapping[str, float],
    *,
    idle: float,
    tflop: float | None,
    cards: Collection[str],
    precisions: Collection[str],
    peak: float | None = None,
) -> str:
    """E.g. "model on NVIDIA H100 80GB HBM3: 93% busy, at 41% of its peak; 7% waiting (crop took most of the other
    stages' time)". Empty when no model worked.

    Busy is the time inside the model's calls: its arithmetic, and what it does with pictures on the way in and out.
    ``stage_seconds`` are those of all workers, ``idle`` the seconds that devices waited between two calls, ``tflop`` 10^12
    operations that the model did (None: not known), ``cards`` and ``precisions`` what the records name. ``peak``, in TFLOP/s,
    stands for the one of the table of cards.
    """
    working = stage_seconds.get("generate", 0.0)
    if not working:
        return ""
    busy, name = working / (working + idle), next(iter(cards)) if len(cards) == 1 else "devices of several kinds"
    if peak is None and len(cards) == 1 and all("float16" in each for each in precisions):  # bfloat16 is one of them
        peak = peak_of(name)
    line = f"model on {name or 'an unknown device'}: {busy:.0%} busy"
    if peak and tflop is not None:
        line += f", at {tflop / working / peak:.0%} of its peak"
    if 1 - busy >= _WORTH_TELLING:
        others = {stage: seconds for stage, seconds in stage_seconds.items() if stage != "generate" and seconds}
        line += f"; {1 - busy:.0%} waiting"
        line += f" ({max(others, key=lambda stage: others[stage])} took most of the other stages' time)" if others else ""
    return line


class Work:
    """Adds up the records of a run, of ``stages`` that have a column of seconds."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages
        self._seconds: Counter[str] = Counter()
        self._idle = self._tflop = 0.0
        self._counted = True
        self._cards: set[str] = set()
        self._precisions: set[str] = set()

    def add(self, record: ClipRecord) -> None:
        """A clip that failed says nothing."""
        if not record.generate_seconds:
            return
        self._seconds.update({stage: getattr(record, f"{stage}_seconds") or 0.0 for stage in self._stages})
        self._idle += record.idle_seconds or 0.0
        self._tflop += record.tflop or 0.0
        self._counted &= record.tflop is not None
        self._cards.add(record.card or "")
        self._precisions.add(record.precision or "")

    def line(self, peak: float | None = None) -> str:
        """See ``speed_line``."""
        tflop = self._tflop if self._counted else None
        return speed_line(
            self._seconds, idle=self._idle, tflop=tflop, cards=self._cards, precisions=self._precisions, peak=peak
        )
