"""What each stage asks Ray for: what was set, or else what fits the nodes.

Ray Data reserves by stage rather than by clip, so memory is that of a large clip: following a face at 3840 x 2160 holds 0.5 GB
of pictures, and 128 crops of 512 px take 0.1 GB twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentsync_ray.config import Cluster
from latentsync_ray.errors import ConfigError

__all__ = ["Shares", "shares"]

log = logging.getLogger(__name__)

_GIB = 2**30
_CROP, _PASTE, _GENERATE = 1 * _GIB, _GIB // 2, 4 * _GIB
"""Bytes of a task that decodes, of one that encodes, and of a model worker beside its GPU."""
_ROOMY_CPUS, _ROOMY_BYTES = 4, 8 * _GIB
"""Smaller nodes could not run all stages at once, and would wait for themselves, if each asked for what it uses."""
_KIND = "accelerator_type:"
"""What Ray's names for kinds of GPUs begin with."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Arguments of Ray for the tasks that decode, the model workers and the tasks that encode; fewest and most workers."""

    crop: dict[str, Any]
    generate: dict[str, Any]
    paste: dict[str, Any]
    workers: tuple[int, int]


def shares(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> Shares:
    """The shares on a cluster whose nodes have these resources. Raises ConfigError when a GPU is wanted and none is there."""
    kind = _kind_of_gpu(cluster, nodes)
    present = 0.0
    if cluster.device in ("auto", "cuda"):
        present = sum(node.get("GPU", 0.0) for node in nodes if kind is None or _KIND + kind in node)
    if cluster.address and cluster.device == "auto" and not present and cluster.generate_gpus is None:
        raise ConfigError(
            f"the cluster at {cluster.address} has no GPU yet: set cluster.generate_gpus=1 and cluster.generate_workers to "
            "wait for some, or cluster.device=cpu to do without"
        )
    gpus = float(present > 0) if cluster.generate_gpus is None else cluster.generate_gpus
    one = 1.0 if min((node["CPU"] for node in nodes if node.get("CPU")), default=0.0) >= _ROOMY_CPUS else 0.5
    roomy = min((node.get("memory", 0.0) for node in nodes if node.get("CPU")), default=0.0) >= _ROOMY_BYTES
    generate: dict[str, Any] = {"num_gpus": gpus, "num_cpus": cluster.generate_cpus}
    if gpus and kind:
        generate["accelerator_type"] = kind
    if gpus and roomy:
        generate["memory"] = _GENERATE
    return Shares(
        crop={"num_cpus": cluster.crop_cpus or one, **({"memory": _CROP} if roomy else {})},
        generate=generate,
        paste={"num_cpus": cluster.paste_cpus or one, **({"memory": _PASTE} if roomy else {})},
        workers=cluster.generate_workers or (1, max(1, int(present / gpus) if gpus else 1)),
    )


def _kind_of_gpu(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """The kind that models run on; None when it makes no difference."""
    if cluster.accelerator:
        return cluster.accelerator
    kinds: Counter[str] = Counter()
    for node in nodes:
        for name in node:
            if name.startswith(_KIND):
                kinds[name.removeprefix(_KIND)] += int(node.get("GPU", 0))
    kinds = +kinds
    if len(kinds) < 2 or cluster.device == "cpu":
        return None
    chosen, _ = kinds.most_common(1)[0]
    has = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    log.warning(
        "the cluster has GPUs of several kinds (%s), whose results differ in last bits: using %s only; cluster.accelerator "
        "names another",
        has,
        chosen,
    )
    return chosen
