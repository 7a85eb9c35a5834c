"""What each stage asks Ray for: what was set, or else what fits the nodes.

Ray Data reserves by stage rather than by clip, so memory is that of a large clip.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentsync_ray.config import Cluster
from latentsync_ray.errors import ConfigError
from latentsync_ray.stages.table import tasks

__all__ = ["Shares", "kind_of_gpu", "shares"]

log = logging.getLogger(__name__)

_ROOMY_CPUS, _ROOMY_BYTES = 4, 8 * 2**30
"""Smaller nodes could not run all stages at once, and would wait for themselves, if each asked for what it uses."""
_KIND = "accelerator_type:"
"""What Ray's names for kinds of GPUs begin with."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What is asked for."""

    of: dict[str, dict[str, Any]]
    """Stage -> arguments of Ray; of stages that run in one task, those of the last."""
    workers: tuple[int, int]
    """Fewest and most processes that hold a model."""
    device_share: float
    """How much of its device each of these has: below 1 when several share a GPU."""


def shares(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> Shares:
    """The shares on a cluster whose nodes have these resources. Raises ConfigError when a GPU is wanted and none is there."""
    kind = kind_of_gpu(cluster, nodes)
    present = 0.0
    if cluster.device in ("auto", "cuda"):
        present = sum(node.get("GPU", 0.0) for node in nodes if kind is None or _KIND + kind in node)
    fewest, most = cluster.generate_workers or (1, None)
    awaited = bool(cluster.address) and cluster.device == "auto" and not present and cluster.generate_gpus is None
    if awaited and fewest:
        raise ConfigError(
            f"the cluster at {cluster.address} has no GPU yet: set cluster.generate_workers=[0,N] to wait for up to N, or "
            "cluster.device=cpu to do without"
        )
    gpus = float(present > 0 or awaited) if cluster.generate_gpus is None else cluster.generate_gpus
    one = 1.0 if min((node["CPU"] for node in nodes if node.get("CPU")), default=0.0) >= _ROOMY_CPUS else 0.5
    roomy = min((node.get("memory", 0.0) for node in nodes if node.get("CPU")), default=0.0) >= _ROOMY_BYTES
    of: dict[str, dict[str, Any]] = {}
    for *others, stage in tasks():
        memory = max(each.memory for each in (*others, stage))
        if stage.model:
            ask: dict[str, Any] = {"num_gpus": gpus, "num_cpus": cluster.generate_cpus}
            if gpus and kind:
                ask["accelerator_type"] = kind
        else:
            ask = {"num_cpus": getattr(cluster, f"{stage.name}_cpus", None) or one}
        if roomy and memory and (gpus or not stage.model):
            ask["memory"] = memory
        of[stage.name] = ask
    return Shares(
        of=of,
        device_share=min(1.0, gpus or 1.0),
        workers=(max(1, fewest), most or max(1, int(present / gpus) if gpus else 1)),  # Ray Data has no pools of none
    )


def kind_of_gpu(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """The kind that models run on; None when Ray does not tell. Raises ConfigError when the one that is wanted is not there."""
    kinds: Counter[str] = Counter()
    for node in nodes:
        for name in node:
            if name.startswith(_KIND):
                kinds[name.removeprefix(_KIND)] += int(node.get("GPU", 0))
    kinds = +kinds
    has = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    if cluster.accelerator:
        if cluster.accelerator not in kinds and cluster.generate_gpus is None:
            raise ConfigError(
                f"models run on {cluster.accelerator!r} (cluster.accelerator, or chosen when the job began), and the cluster "
                f"has {has or 'no GPU whose kind Ray knows'}: name one of those, or set "
                "cluster.generate_gpus=1 to wait for others"
            )
        return cluster.accelerator
    if not kinds or cluster.device == "cpu":
        return None
    chosen, _ = kinds.most_common(1)[0]
    if len(kinds) == 1:
        return chosen  # others may come while the job runs
    log.warning(
        "the cluster has GPUs of several kinds (%s), whose results differ in last bits: using %s only; cluster.accelerator "
        "names another",
        has,
        chosen,
    )
    return chosen
