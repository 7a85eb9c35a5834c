"""What pictures were encoded to, kept for when they come again: in another language of the video, a loop or a shifted window.

A picture's latents are the mode of a distribution, without noise, and parts of one size are encoded: they depend on nothing but
the picture, the model and what ``precision`` says. They are kept on the host: a picture goes to the device in every call
anyway, with at least six times the bytes of its latents, and the device's memory stays as planned.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync_ray.models.devices import memory_of

__all__ = ["Key", "Latents", "distinct", "room"]

Key = tuple[str, bytes]
"""A model's precision, and the hash of a picture."""

_MOST = 2**30
_SHARE = 1 / 8
"""Of a core's part of the machine's memory, so that workers on all cores leave most of it."""


class Latents:
    """Holds at most ``limit`` bytes, and drops what nobody asked for longest. Any number of threads may use it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.asked = self.found = 0
        """Pictures that ``find`` was asked for, and those that were there."""
        self._known: OrderedDict[Key, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, keys: Sequence[Key]) -> dict[Key, Tensor]:
        """The latents (C, h, w) of those that are here, on the host."""
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
            self.asked, self.found = self.asked + len(keys), self.found + len(found)
        return found

    def keep(self, keys: Sequence[Key], latents: Tensor) -> None:
        """Remember ``latents`` (N, C, h, w), those of these keys."""
        if latents.is_meta or not self.limit:
            return
        rows = [row.clone() for row in latents.cpu()]  # each of its own: a view would hold all of them
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if key not in self._known:
                    self._known[key] = row
                    self.bytes += row.nbytes
            while self.bytes > self.limit:
                self.bytes -= self._known.popitem(last=False)[1].nbytes

    def forget(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._known.clear()
            self.bytes = 0


def room() -> int:
    """Bytes that one worker may keep on this machine."""
    memory = memory_of(torch.device("cpu"))
    assert memory is not None
    return min(_MOST, int(_SHARE * memory / (os.cpu_count() or 1)))


def distinct(faces: NDArray[np.uint8]) -> tuple[list[bytes], list[int], list[int]]:
    """Each picture of ``faces`` (N, R, R, 3) once: hashes, where each comes first, and where among these every one is."""
    known: dict[bytes, int] = {}
    first, places = [], []
    for number, face in enumerate(faces):
        key = blake2b(np.ascontiguousarray(face).data, digest_size=16).digest()
        if key not in known:
            known[key] = len(known)
            first.append(number)
        places.append(known[key])
    return [*known], first, places
