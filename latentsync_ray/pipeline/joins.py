"""The last stage on Ray: joins as they become due, spread over the nodes.

A join downloads the parts of a clip, writes it and uploads it. It takes a node's disk and network rather than its CPUs, so Ray
is asked for none, and only a few run on a node at a time.
"""

from __future__ import annotations

import logging
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentsync_ray import filesystems
from latentsync_ray.errors import ClipError
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.join import Join
from latentsync_ray.stages.rows import attempt
from latentsync_ray.storage_options import StorageOptions
from latentsync_ray.types import ClipRecord, Part

__all__ = ["Arrivals", "Gathering", "Joins", "Taken", "freest", "join_parts"]

log = logging.getLogger(__name__)

_FEWEST, _MOST = 4, 16
"""Joins that a node runs at a time: one for each CPU, within these bounds."""
_NODES_SECONDS = 10.0
"""How long the list of nodes holds."""
_LAST_SECONDS = 5.0
"""Time that joins have to end when nobody takes what they give any more."""


class Arrivals:
    """The parts of clips that are not complete yet.

    Parts go together only when they were made of the same content: after a retry, those of one clip may not be.
    """

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, dict[int, Part]]] = {}
        """Clip -> key -> index -> part."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    def is_new(self, part: Part) -> bool:
        """Whether no such part was there before: a task that is run again gives its rows once more."""
        return part.index not in self._parts.get(part.clip_id, {}).get(part.key, {})

    def complete_with(self, part: Part) -> list[Part] | None:
        """Note a part. When it was the last one that its clip lacked: all of them, which are forgotten then."""
        parts = self._parts.setdefault(part.clip_id, {}).setdefault(part.key, {})
        parts[part.index] = part
        if len(parts) < part.segment_count:
            return None
        self.forget(part.clip_id)
        return list(parts.values())

    def forget(self, clip_id: str) -> None:
        """Drop what there is of a clip."""
        self._parts.pop(clip_id, None)


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be done now that a part has come."""

    parts: Sequence[Part] = ()
    """All parts of the clip that it completes, or the part alone if it is the first of its clip that failed."""
    copied: bool = False
    """Whether it belongs to another row with the id, or the file, of a clip that came before."""
    stray: bool = False
    """Whether such a part is in a file of its own, which nobody will join."""


@dataclass(slots=True)
class _Gathered:
    """Of one clip."""

    row: str
    parts: dict[int, Part] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    failed: bool = False


class Gathering:
    """Brings the parts of clips together where every row comes exactly once, and several may ask for one id.

    The first row whose part comes has the id, and the file. Clips that are whole are remembered by both. For any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clips: dict[str, _Gathered] = {}
        self._whole: dict[str, str] = {}
        """Clip -> key of its parts, empty when they are joined."""
        self._owners: dict[str, str] = {}
        """File, as disks see it to which upper and lower case are the same -> clip."""
        self._again: set[str] = set()
        """Clips whose parts were made once more while they were joined."""

    def take(self, part: Part, row: str) -> Taken:
        """A part of the clip that ``row`` asked for."""
        file = unicodedata.normalize("NFC", part.clip_name or part.clip_id).lower()
        with self._lock:
            if self._owners.setdefault(file, part.clip_id) != part.clip_id:
                return Taken(copied=True, stray=bool(part.uri))
            clip = self._clips.get(part.clip_id)
            if part.clip_id in self._whole or (clip and (clip.row != row or part.index in clip.seen)):
                keys = {other.key for other in clip.parts.values()} if clip else {self._whole[part.clip_id]}
                if not clip and part.key in keys:
                    self._again.add(part.clip_id)
                return Taken(copied=True, stray=bool(part.uri) and part.key not in keys)
            clip = self._clips.setdefault(part.clip_id, _Gathered(row))
            clip.seen.add(part.index)
            clip.parts[part.index] = part
            whole = len(clip.seen) >= max(1, part.segment_count)
            if whole:
                del self._clips[part.clip_id]
                self._whole[part.clip_id] = part.key
            if clip.failed:
                return Taken()
            if part.error_code:
                clip.failed = True
                return Taken([part])
            return Taken(list(clip.parts.values())) if whole else Taken()

    def joined(self, clip_id: str) -> bool:
        """A clip's parts are joined, and so removed: whether some of them were made once more meanwhile, for another row."""
        with self._lock:
            again = clip_id in self._again
            self._again.discard(clip_id)
            self._whole[clip_id] = ""
            return again


class Joins:
    """Joins in flight. One that dies with its worker is dropped: the clip is made up for in the next pass."""

    def __init__(self, stage: Join, storage_options: StorageOptions | None = None) -> None:
        # Not retried: a join removes the parts it has joined.
        self._join, self._stage = ray.remote(num_cpus=0, max_retries=0)(join_parts), stage
        self._options = storage_options or {}
        self._running: dict[Any, tuple[str, str]] = {}
        """Reference -> node and clip."""
        self._nodes: dict[str, int] = {}
        self._asked = -_NODES_SECONDS

    @property
    def running(self) -> int:
        """How many are in flight."""
        return len(self._running)

    def start(self, parts: Sequence[Part]) -> Iterator[Part | ClipRecord]:
        """Join these parts, after waiting for room; gives what was finished meanwhile."""
        while (node := freest(self._room(), self._load())) is None:
            yield from self._finished(timeout=None)
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        reference = self._join.options(scheduling_strategy=there).remote(self._stage, list(parts), self._options)
        self._running[reference] = (node, parts[0].clip_id)

    def finished(self) -> Iterator[Part | ClipRecord]:
        """What is finished by now."""
        before = len(self._running) + 1
        while 0 < len(self._running) < before:
            before = len(self._running)
            yield from self._finished(timeout=0)

    def drain(self) -> Iterator[Part | ClipRecord]:
        """All that are left, as they finish."""
        while self._running:
            yield from self._finished(timeout=None)

    def close(self) -> None:
        """Leave none that could still write: wait some seconds for those in flight, and end the others.

        What they have committed by then is in the output, for the driver or the next run.
        """
        running, self._running = list(self._running), {}
        if not running or not ray.is_initialized():
            return
        late = ray.wait(running, num_returns=len(running), timeout=_LAST_SECONDS)[1]
        for reference in late:
            ray.cancel(reference, force=True)
        if late:
            log.warning("joins under way were ended: %d; their clips are made up for in the next run", len(late))
            ray.wait(late, num_returns=len(late), timeout=_LAST_SECONDS)

    def _finished(self, *, timeout: float | None) -> Iterator[Part | ClipRecord]:
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        for reference in done:
            _, clip_id = self._running.pop(reference)
            try:
                yield cast("Part | ClipRecord", ray.get(reference))
            except RayError as error:
                name = type(error).__name__
                log.warning("the join of clip %s died (%s); it is made up for in the next pass", clip_id, name)

    def _load(self) -> Counter[str]:
        return Counter(node for node, _ in self._running.values())

    def _room(self) -> dict[str, int]:
        if time.monotonic() - self._asked >= _NODES_SECONDS:
            alive = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]}
            working = {node: cpus for node, cpus in alive.items() if cpus}  # a head without CPUs does no work
            self._nodes = {node: min(_MOST, max(_FEWEST, cpus)) for node, cpus in (working or alive).items()}
            self._asked = time.monotonic()
        return self._nodes


def freest(room: Mapping[str, int], load: Mapping[str, int]) -> str | None:
    """The node that is least full, None when all are: ``room`` is how many may run on each, ``load`` how many do."""
    fullness = {node: load.get(node, 0) / most for node, most in room.items()}
    node = min(fullness, key=fullness.__getitem__, default=None)
    return node if node is not None and fullness[node] < 1 else None


def join_parts(join: Join, parts: list[Part], storage_options: StorageOptions) -> Part | ClipRecord:
    """The clip's record, or a part with the error that it met in an earlier stage, or one that is not about the clip."""
    filesystems.configure(storage_options)
    first = next((part for part in parts if part.error_code), parts[0])

    def joined(_: Part) -> ClipRecord:
        try:
            return join(parts)
        except ClipError as error:  # parts have no room for all that it knows
            return failed_record(first, join.recipe, error)

    return cast("Part | ClipRecord", next(attempt(joined, first, Part)))
