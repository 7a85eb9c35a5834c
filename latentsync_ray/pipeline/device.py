"""What the GPUs of a cluster are, asked of one that a model worker would get."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError

from latentsync_ray.config import Cluster
from latentsync_ray.models.devices import device_named, memory_of
from latentsync_ray.pipeline.shares import shares
from latentsync_ray.types import Device

__all__ = ["DeviceFacts", "ask_device"]

log = logging.getLogger(__name__)

_SECONDS = 60.0
"""For a GPU to be free, a process to start there and PyTorch to be imported."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a model worker has."""

    kind: str
    """cuda, mps or cpu."""
    gigabytes: float | None
    """Its share of the device's memory, in 10^9 bytes; None: not known."""


def ask_device(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> DeviceFacts | None:
    """What model workers will run on. None where they take no GPU, none is there yet or none answers: each sees for itself."""
    wanted = shares(cluster, nodes)
    (ask,) = (each for each in wanted.of.values() if "num_gpus" in each)
    if not ask["num_gpus"] or not any(node.get("GPU") for node in nodes):
        return None
    options = {name: ask[name] for name in ("num_gpus", "accelerator_type") if name in ask}
    answer = ray.remote(num_cpus=0, max_retries=0, **options)(_look).remote(cluster.device)
    try:
        kind, memory = ray.get(answer, timeout=_SECONDS)
    except GetTimeoutError:
        ray.cancel(answer, force=True)
        log.warning("no GPU was free within %.0f s to be asked for its memory: model workers will see for themselves", _SECONDS)
        return None
    except RayError as error:
        log.warning("a GPU could not be asked for its memory: %s", str(error).strip().splitlines()[-1])
        return None
    return DeviceFacts(kind, memory and memory * wanted.device_share / 1e9)


def _look(device: Device) -> tuple[str, int | None]:
    where = device_named(device)
    return where.type, memory_of(where)
