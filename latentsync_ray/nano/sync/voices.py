"""Synthetic speech with the time of every phoneme, from the library of espeak-ng.

``training/espeak.py`` asks the program, which does not tell when what is said.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Sequence

import numpy as np

__all__ = ["Phone", "pronounce"]

Phone = tuple[float, str]
"""When it begins, in seconds, and what it is, in IPA; empty for silence."""

_SYNCHRONOUS, _WITH_PHONEMES_IN_IPA, _UTF8 = 2, 3, 1
_RATE, _PITCH = 1, 3
_PHONEME = 7
_CODES = {"fr-fr": "fr", "en-gb": "en"}
"""What the library calls languages, where that differs from the program."""


class _Text(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Text),
    )


class _Library:
    """espeak-ng in this process, which can hold one only."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise SystemExit("this needs the espeak-ng library: apt-get install espeak-ng (or brew install espeak-ng)")
        self.espeak = ctypes.CDLL(name)
        self.rate: int = self.espeak.espeak_Initialize(_SYNCHRONOUS, 0, None, _WITH_PHONEMES_IN_IPA)
        self.sound: list[np.ndarray] = []
        self.phones: list[Phone] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = kind(self._take)  # the library keeps a pointer only
        self.espeak.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Sequence[int], count: int, events: Sequence[_Event]) -> int:
        if samples and count:
            self.sound.append(np.ctypeslib.as_array(samples, (count,)).copy())  # type: ignore[arg-type]
        number = 0
        while events[number].type:
            if events[number].type == _PHONEME:
                name = bytes(events[number].id.string).decode("utf-8", "ignore")
                self.phones.append((events[number].milliseconds / 1000, name))
            number += 1
        return 0


_library = functools.cache(_Library)


def pronounce(text: str, voice: str, *, speed: int, pitch: int) -> tuple[np.ndarray, int, list[Phone]]:
    """Mono float32 samples of ``text``, their rate in Hz, and its phonemes in order.

    ``voice`` is a language and a variant as in ``de+f2``, ``speed`` is in words a minute, ``pitch`` from 0 to 99.
    """
    library = _library()
    library.sound, library.phones = [], []
    language, _, variant = voice.partition("+")
    name = "+".join([_CODES.get(language, language), variant])
    if library.espeak.espeak_SetVoiceByName(name.encode()):
        raise SystemExit(f"this espeak-ng has no voice {voice}: update it")
    library.espeak.espeak_SetParameter(_RATE, int(speed), 0)
    library.espeak.espeak_SetParameter(_PITCH, int(pitch), 0)
    content = text.encode() + b"\0"
    library.espeak.espeak_Synth(content, ctypes.c_size_t(len(content)), 0, 0, 0, _UTF8, None, None)
    library.espeak.espeak_Synchronize()
    sound = np.concatenate(library.sound) if library.sound else np.zeros(0, np.int16)
    return sound.astype(np.float32) / 32768, library.rate, library.phones
