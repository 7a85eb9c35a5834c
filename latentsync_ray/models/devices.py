"""Where a model computes and in which numbers, and what a device's failures mean. Knows torch, and no model."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from latentsync_ray.errors import DeviceLost, ModelError, OutOfMemory
from latentsync_ray.models import DType
from latentsync_ray.types import Device

__all__ = ["card_of", "device_named", "dtype_named", "memory_of", "precision_of", "working_on"]

_NO_MEMORY = ("out of memory", "can't allocate memory")
_LOST = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")


def device_named(device: Device) -> torch.device:
    """The device; auto is the best that this machine has. Raises ModelError when it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    elif (device == "cuda" and not torch.cuda.is_available()) or (device == "mps" and not torch.backends.mps.is_available()):
        raise ModelError(f"there is no {device} device on this machine; as the device, choose auto or cpu")
    return torch.device(device)


def dtype_named(dtype: DType, device: torch.device) -> torch.dtype:
    """The number format; auto is the fastest that suits the device."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cpu":
        return torch.float32
    # Devices before Ampere emulate bfloat16, slowly.
    modern = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if modern else torch.float16


def precision_of(device: torch.device, dtype: torch.dtype) -> str:
    """What a model's bits depend on besides its weights, e.g. ``cuda sm_90 x132 bfloat16``, ``cpu float32``."""
    return f"{_kind_of(device)} {str(dtype).removeprefix('torch.')}"


def _kind_of(device: torch.device) -> str:
    """Which device it is, as far as results depend on that: of a GPU its generation and size, whatever it is sold as."""
    if device.type != "cuda":
        return device.type
    facts = torch.cuda.get_device_properties(device)
    return f"cuda sm_{facts.major}{facts.minor} x{facts.multi_processor_count}"


def card_of(device: torch.device) -> str:
    """What a device is sold as, e.g. ``NVIDIA H100 80GB HBM3``; of a CPU its architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def memory_of(device: torch.device) -> int | None:
    """Bytes that all programs on a device have together; of a CPU those that this container may take. None: not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no cgroups, or no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return memory


@contextlib.contextmanager
def working_on(device: torch.device, model: str, work: str) -> Iterator[None]:
    """Reproducible arithmetic, and the device's failures as ours: OutOfMemory or DeviceLost.

    ``work`` says what ``model`` is doing, e.g. "at 256 px with 2 windows at once".
    """
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _NO_MEMORY):
            raise OutOfMemory(
                f"{model} {work} does not fit {device}'s memory; lower recipe.micro_batch or guidance_scale (above 1 it takes "
                "twice the memory), or take a device with more memory"
            ) from error
        if type(error).__name__ == "AcceleratorError" or any(sign in text for sign in _LOST):
            raise DeviceLost(f"{device} failed: {text.partition(chr(10))[0]}") from error
        raise
