"""Synthetic speech from the espeak-ng program (apt-get install espeak-ng; brew install espeak-ng)."""

from __future__ import annotations

import functools
import io
import re
import shutil
import subprocess
import wave
from collections.abc import Sequence

import numpy as np

__all__ = ["PEAK", "speak"]

PEAK = 0.7
"""-3 dB: as loud as recordings usually are."""


def speak(text: str, options: Sequence[str], *, breath: float = 0.2) -> tuple[np.ndarray, int]:
    """Mono float32 samples of ``text`` with ``breath`` seconds of silence at either end, and their rate in Hz.

    ``options`` are espeak-ng's own: ``-v`` voice, ``-s`` words a minute, ``-p`` pitch from 0 to 99.
    """
    if shutil.which("espeak-ng") is None:
        raise SystemExit("this needs the espeak-ng program: apt-get install espeak-ng (or brew install espeak-ng)")
    for voice in (option for option in options if "+" in option):
        if voice.partition("+")[2] not in _variants():
            raise SystemExit(f"this espeak-ng has no voice variant {voice}, and would take another one unasked: update it")
    answer = subprocess.run(["espeak-ng", *options, "--stdout", text], capture_output=True, check=True)
    with wave.open(io.BytesIO(answer.stdout)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(-1), np.int16).astype(np.float32)
    loudest = np.abs(samples).max(initial=1.0)
    heard = np.flatnonzero(np.abs(samples) > 0.01 * loudest)
    words = samples[heard[0] : heard[-1] + 1] * (PEAK / loudest) if len(heard) else samples[:0]
    return np.pad(words, round(breath * rate)), rate


@functools.cache
def _variants() -> frozenset[str]:
    listing = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, check=True, text=True)
    return frozenset(re.findall(r"!v/(\S+)", listing.stdout))
