"""A look at a cluster and, through its nodes, at inputs: before there is a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import ray

from latentsync_ray import filesystems
from latentsync_ray.config import Job
from latentsync_ray.pipeline.cluster import connect, nodes
from latentsync_ray.pipeline.shares import shares
from latentsync_ray.types import Pair

__all__ = ["probe_all", "shortage"]

_T = TypeVar("_T")

_AT_ONCE = 16
"""Pairs of one task."""
_TASKS = 64
"""Tasks that wait or run together."""
_CPUS = 0.5


def probe_all(probe: Callable[[Pair, Job], _T], pairs: list[Pair], job: Job) -> Iterator[_T]:
    """``probe`` of each pair, in their order, on the cluster's nodes."""
    connect(job.cluster)
    look = ray.remote(num_cpus=_CPUS)(_probe_some)
    running: deque[Any] = deque()
    for start in range(0, len(pairs), _AT_ONCE):
        running.append(look.remote(probe, pairs[start : start + _AT_ONCE], job))
        if len(running) >= _TASKS:
            yield from cast("list[_T]", ray.get(running.popleft()))
    for each in running:
        yield from cast("list[_T]", ray.get(each))


def _probe_some(probe: Callable[[Pair, Job], _T], pairs: list[Pair], job: Job) -> list[_T]:
    filesystems.configure(job.storage_options)
    return [probe(pair, job) for pair in pairs]


def shortage(job: Job) -> Iterator[str]:
    """What the job asks of the cluster and is not there now. Raises ConfigError when the cluster does not answer."""
    connect(job.cluster)
    asked, present = shares(job.cluster, nodes()), ray.cluster_resources()
    fewest = asked.workers[0]
    for name, ask in asked.of.items():
        workers = fewest if "num_gpus" in ask else 1
        for kind, wanted in (("GPU", ask.get("num_gpus", 0.0)), ("CPU", ask.get("num_cpus", 0.0))):
            if wanted * workers > present.get(kind, 0.0):
                yield (
                    f"{name} asks for {wanted * workers:g} {kind}, and the cluster has {present.get(kind, 0.0):g} now: it has "
                    "to grow before the run gets there"
                )
