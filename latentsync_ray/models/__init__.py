"""Models that draw mouths. A family of them is a folder here, behind the protocols below; ``find`` knows which there are.

A ``ModelInfo`` is what stages without a GPU need to know: the template of the face, the window, what is heard of the speech. It
``load``s the ``Model`` itself. To add a family, write these two and a ``Family``, and name that in ``FAMILIES``
(``registry.py``); a single model of your own can do without: ``recipe.model: "module:attribute"`` names its ``ModelInfo``.

``mel`` (Whisper's spectrogram), ``hub`` (downloads) and ``devices`` (number formats, failures) serve all families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from latentsync_ray.licence import Licence
from latentsync_ray.template import Template
from latentsync_ray.types import Device, Span

if TYPE_CHECKING:
    import torch

__all__ = ["DType", "Family", "Model", "ModelInfo", "ModelRow"]

DType = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class ModelRow:
    """A model as ``latentsync-ray models`` lists it."""

    name: str
    resolution: int
    """Side of the face in px."""
    licences: tuple[Licence, ...]
    found: str = ""
    """Where it is on this machine; empty: it has to be fetched, or is incomplete."""
    incomplete: str = ""
    """What is wrong with a folder that holds only some of its files; else empty."""
    download_bytes: int = 0
    """What is left to fetch."""
    command: str = ""
    """Fetches it; empty when there is nothing to fetch."""
    by_hand: list[str] = field(default_factory=list)


class ModelInfo(Protocol):
    """A model before its weights are read. Needs no torch."""

    @property
    def name(self) -> str:
        """As ``recipe.model`` says it."""
        ...

    @property
    def note(self) -> str:
        """What whoever uses the model has to be told; empty: nothing."""
        ...

    @property
    def window(self) -> int:
        """W: frames that the network sees together. Clips are cut into whole windows."""
        ...

    @property
    def template(self) -> Template:
        """Where the model wants a face. Always the same object: masks are kept for each."""
        ...

    def hear(self, samples: np.ndarray, span: Span) -> np.ndarray:
        """What ``listen`` needs for the frames of ``span``, float32 (K, B, C): what these axes are is the family's affair.

        ``samples`` are the whole speech: int16 (n,), 16 kHz mono.
        """
        ...

    def fetch(self, *, say: Callable[[str], None] | None = None, bar: bool = False) -> None:
        """Have the model's files on this machine. ``say`` hears of downloads, unless a ``bar`` shows them.

        Raises WeightsNotFound or CheckpointMismatch.
        """
        ...

    def complete(self, *, say: Callable[[str], None]) -> list[str]:
        """Fetch whatever the model lacks and verify all of it: lines for people, the first of which says where it is.

        Raises as ``fetch``.
        """
        ...

    def check_elsewhere(self, *, say: Callable[[str], None]) -> None:
        """Make sure that other machines can find the model; ``say`` what they will have to do. Raises WeightsNotFound."""
        ...

    def describe(self) -> ModelRow:
        """Which of its files are on this machine. Asks no network."""
        ...

    def flops(self, *, steps: int, guidance_scale: float, cache_interval: int) -> int | None:
        """Floating-point operations that one window takes by itself; None when nobody has counted them."""
        ...

    def memory(self, *, windows: int, guidance_scale: float, dtype: DType) -> int | None:
        """Bytes that the device holds at most while so many windows are made together, weights included; None: not known."""
        ...

    def load(self, *, device: Device = "auto", dtype: DType = "auto") -> Model:
        """The model, ready to use. Raises as ``fetch``, and ModelError when the device is not there."""
        ...


class Model(Protocol):
    """A loaded model on one device. Gives the same bits for the same call, on the same device and software.

    Several threads call it, one at a time. One that keeps results for later calls may have ``spared``: for each window of the
    last call of ``generate``, how many of the operations that ``ModelInfo.flops`` counts it did not need.
    """

    device: torch.device
    checkpoint: str
    """Hash of all weights, hex; of a model without any, a version of its code: parts of two are never put together."""

    @property
    def info(self) -> ModelInfo:
        """What was known before."""
        ...

    @property
    def precision(self) -> str:
        """What its bits depend on besides: device, number format and whether it is compiled, e.g. ``cuda sm_90 x132 bfloat16``
        or ``cpu float32 compiled``."""
        ...

    def compile(self) -> None:
        """Have the model compiled by its next call, if it can be; ``precision`` tells afterwards whether it is."""
        ...

    def listen(self, speech: np.ndarray, span: Span) -> torch.Tensor:
        """The speech of each of the span's F frames, frames first: (F, ...), made of what ``hear`` gave for it."""
        ...

    def silence(self, windows: int) -> torch.Tensor:
        """What ``generate`` takes for no speech at all: (windows, W, ...). Shows whether the model or the clip is to blame."""
        ...

    def generate(
        self,
        faces: np.ndarray,
        speech: torch.Tensor,
        *,
        steps: int,
        guidance_scale: float,
        seed: int,
        cache_interval: int = 1,
    ) -> torch.Tensor:
        """New faces, float32 (B, W, R, R, 3), RGB about [-1, 1] but not clamped, of B independent windows; on any device.

        ``faces`` (B, W, R, R, 3) are aligned RGB pictures, uint8, and ``speech`` (B, W, ...) what is said. B is always the
        same, as ``recipe.micro_batch`` says. A model that cannot reuse features ignores ``cache_interval``. Numbers may be not
        finite, which fails the clip. Raises OutOfMemory or DeviceLost.
        """
        ...


class Family(Protocol):
    """Models that share their code."""

    @property
    def names(self) -> Iterable[str]:
        """Of the models that have one."""
        ...

    @property
    def hint(self) -> str:
        """What makes a folder one of the family's models: "put a ... into it"."""
        ...

    def find(self, name: str) -> ModelInfo | None:
        """The model of that name, or in that folder or URI; None when it is none of the family's.

        Raises ModelError when it says that it is, and is not.
        """
        ...
