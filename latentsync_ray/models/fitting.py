"""How many windows a model makes together, and whether its device can hold them. Knows no torch."""

from __future__ import annotations

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ModelError
from latentsync_ray.models import ModelInfo

__all__ = ["windows_together"]

_ENOUGH = 4
"""Windows whose arithmetic outlasts what it takes to launch it on a large card."""
_ROOM = 0.8
"""Share of a device's memory that ``auto`` plans with: libraries work in some, and some lies between tensors."""


def windows_together(info: ModelInfo, recipe: Recipe, device: str, memory: float | None) -> int:
    """``recipe.micro_batch`` as a number, for a ``device`` ("cuda", "cpu") with so many bytes of memory (None: not known).

    The same for the same arguments, so that all workers of a job have it alike. Rows may ask for guidance, and ``auto`` leaves
    room for it. Raises ModelError when the recipe asks for more than can be held, and says how many windows can.
    """
    asked = recipe.micro_batch
    if asked == "auto" and (device != "cuda" or memory is None):
        asked = 1
    if asked == "auto":
        assert memory is not None
        fitting = _largest(info, recipe, device, _ROOM * memory, guidance_scale=2.0, most=_ENOUGH)
        asked = fitting or 1
    needed = None if memory is None else _needed(info, recipe, device, asked, recipe.guidance_scale)
    if memory is not None and needed is not None and needed > memory:
        roomy, all_of_it = (
            _largest(info, recipe, device, share * memory, guidance_scale=recipe.guidance_scale, most=asked)
            for share in (_ROOM, 1.0)
        )
        fitting = roomy or all_of_it
        raise ModelError(
            f"{info.name} takes about {_gb(needed)} to make {asked} window{'s'[: asked > 1]} of frames at once"
            f"{' with guidance' * (recipe.guidance_scale > 1)}, and the device has {_gb(memory)}: "
            + (f"set recipe.micro_batch to {fitting} or less" if fitting else "take a larger device, or a smaller model")
        )
    return asked


def _largest(info: ModelInfo, recipe: Recipe, device: str, memory: float, *, guidance_scale: float, most: int) -> int:
    """Most windows that fit; 0 when not even one does."""
    fits = 0
    for windows in range(1, most + 1):
        needed = _needed(info, recipe, device, windows, guidance_scale)
        if needed is None or needed > memory:
            break
        fits = windows
    return fits


def _needed(info: ModelInfo, recipe: Recipe, device: str, windows: int, guidance_scale: float) -> int | None:
    dtype = "float32" if recipe.dtype == "auto" and device == "cpu" else recipe.dtype
    needed = info.memory(windows=windows, guidance_scale=guidance_scale, dtype=dtype)
    if needed is not None and not (isinstance(needed, int) and needed > 0):
        raise ModelError(f"the model {recipe.model!r} says that it takes {needed!r} bytes; its code has a bug")
    return needed


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
