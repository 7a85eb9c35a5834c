"""Lip-sync a Ray Dataset into a Ray Dataset: lazily, with the user's columns carried along, and nothing resumed."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.block import BlockAccessor
from ray.exceptions import RayError

from latentsync_ray import filesystems
from latentsync_ray.arguments import kind_of, path_text
from latentsync_ray.config import Cluster, Recipe, Signing
from latentsync_ray.errors import ConfigError, InvalidPair, WorkerDied
from latentsync_ray.job_file import build_job
from latentsync_ray.manifest import OWN_COLUMNS, made_id, pair_of
from latentsync_ray.pipeline import (
    Gathering,
    check_nodes,
    check_signing_there,
    connect,
    join_parts,
    parts_dataset,
    retries_set,
    told,
)
from latentsync_ray.preflight import check_recipe, resolved
from latentsync_ray.records import MANIFEST_PREFIX, RECORD_SCHEMA
from latentsync_ray.records.schema import carried_name, to_table
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.join import Join, steps
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.stages.parts import drop_parts
from latentsync_ray.storage_options import StorageOptions
from latentsync_ray.types import ClipRecord, Pair, Part

__all__ = ["lipsync_dataset"]

log = logging.getLogger(__name__)

_PAIR, _CARRIED = "latentsync:pair", "latentsync:carried"
"""Columns that travel with a pair: what was asked, as JSON, which tells pairs of one id apart; and the user's own, pickled."""

_JOINS = 32
"""Clips that are joined at once."""


def lipsync_dataset(
    pairs: Dataset,
    output: str | PathLike[str],
    *,
    recipe: Recipe | None = None,
    cluster: Cluster | None = None,
    sink: str = "mp4",
    signing: Signing | None = None,
    storage_options: StorageOptions | None = None,
) -> Dataset:
    """Lip-sync every row of ``pairs``: a Dataset of clip records, which carries the other columns of ``pairs`` along.

    ``pairs`` has the columns ``video`` and ``audio`` and, if you like, ``clip_id``, ``language``, ``guidance_scale``, ``seed``,
    ``loop_mode``, ``face``, ``consent`` and ``clip_name``, the clip's path below ``clips/`` without ".mp4". Other columns
    follow those of the record, in the order of ``pairs``; one with the name of a record's column becomes ``manifest_NAME``. Of
    rows with the same ``clip_id``, or the same file, the first to arrive is dubbed; the others fail as ``invalid_pair``.

    Lazy like any Dataset (asking it for its schema runs it), and streaming: records come out as clips are finished, in no
    particular order, and later steps work on them meanwhile. Nothing is resumed, and a worker that keeps dying fails it all:
    for jobs that must survive that, and keep a table, there is ``run``. Face tracks stay in ``_work/faces`` of the output, for
    the next Dataset of the same videos.
    ``signing`` and ``storage_options`` are those of a ``Job``.

    Raises ConfigError for what can be known before a row is read.
    """
    kind_of(pairs, Dataset, "pairs", "a ray.data.Dataset, e.g. ray.data.from_items([...])")
    recipe = kind_of(Recipe() if recipe is None else recipe, Recipe, "recipe", "a Recipe, e.g. Recipe(steps=10)")
    cluster = kind_of(Cluster() if cluster is None else cluster, Cluster, "cluster", "a Cluster, e.g. Cluster(generate_gpus=1)")
    tree = {"manifest": "pairs", "output": path_text(output, "output"), "sink": sink, "recipe": recipe, "cluster": cluster}
    tree |= {"signing": signing, "storage_options": storage_options or {}}
    job = build_job(tree, source="lipsync_dataset")
    output, options = job.output, job.storage_options
    with filesystems.configured(options):
        recipe = resolved(recipe, note=log.info)
        check_recipe(recipe, note=log.info, fetch=cluster.address is None)
        if signing and cluster.address is None:
            check_signing(signing)
    carried = _carried_types(pairs)
    join = Join(recipe, output, lookup(SINKS, sink, "sink")(output), commit=False, steps=steps(job.signing))
    connect(cluster)
    if cluster.address:
        with filesystems.configured(options):
            check_nodes(job)
            check_signing_there(job)

    parts = parts_dataset(pairs.map(_prepared), output, recipe, cluster, storage_options=options)
    with retries_set():
        return parts.map_batches(
            cast("Callable[[pa.Table], Iterator[pa.Table]]", _Collector),
            fn_constructor_kwargs={"join": join, "options": options, "carried": carried},
            compute=ActorPoolStrategy(
                size=1,
                max_concurrent_calls_per_actor=_JOINS,
                max_tasks_in_flight_per_actor=_JOINS,
                enable_true_multi_threading=True,
            ),
            batch_format="pyarrow",
            batch_size=1,
            num_cpus=0,
            max_restarts=0,  # another would not know of the parts that have come
            max_task_retries=0,
        )


def _carried_types(pairs: Dataset) -> dict[str, pa.DataType] | None:
    """Name in ``pairs`` -> Arrow type of the columns to carry; None when Ray cannot tell before it runs."""
    schema = pairs.schema(fetch_if_missing=False)
    if schema is None:
        return None
    names = list(schema.names)
    for name in ("video", "audio"):
        if name not in names:
            raise ConfigError(f"pairs has no column {name!r}; it has {', '.join(names) or 'no columns'}")
    carried = [name for name in names if name not in OWN_COLUMNS]
    if clash := next((name for name in carried if name.startswith(MANIFEST_PREFIX) and _unprefixed(name) in carried), None):
        raise ConfigError(
            f"pairs has a column {clash!r}, the name its column {_unprefixed(clash)!r} is carried under: rename one"
        )
    types = dict(zip(names, schema.types, strict=True))
    return {name: types[name] for name in carried} if all(isinstance(types[name], pa.DataType) for name in carried) else None


def _unprefixed(name: str) -> str | None:
    """The record's column that makes a user's one be carried under ``name``."""
    bare = name.removeprefix(MANIFEST_PREFIX)
    return bare if bare in RECORD_SCHEMA.names else None


def _prepared(row: dict[str, Any]) -> dict[str, Any]:
    """A user's row as a row of ``Pair``, its other columns packed, out of the way of those of the stages."""
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    clip_id = given.get("clip_id")
    if clip_id is None or clip_id == "" or clip_id != clip_id:
        clip_id = made_id(*(str(given.get(name) or "") for name in ("video", "audio")))
    elif not isinstance(clip_id, str) and type(clip_id) is not int:
        raise ConfigError(f"clip_id is {clip_id!r}; it must be text or a whole number")
    pair = pair_of({**given, "clip_id": str(clip_id)}).to_row()
    carried = {name: value for name, value in given.items() if name not in OWN_COLUMNS}
    return {**pair, _PAIR: json.dumps(pair, sort_keys=True), _CARRIED: pickle.dumps(carried)}


class _Collector:
    """Has each clip joined, on any node, as soon as its last part is there."""

    def __init__(self, join: Join, options: StorageOptions, carried: dict[str, pa.DataType] | None) -> None:
        filesystems.configure(options)
        self._stage, self._options, self._carried = join, options, carried
        self._join = ray.remote(num_cpus=0, max_retries=0)(join_parts)  # not retried: a join removes the parts it has joined
        self._gathering = Gathering()

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        rows = BlockAccessor.for_block(batch).iter_rows(public_row_format=True)  # batches of numpy know no null
        made = [(pickle.loads(row[_CARRIED]), record) for row in map(dict, rows) if (record := self._record(row))]
        if made or self._carried is not None:
            yield _as_table(made, self._carried)

    def _record(self, row: dict[str, Any]) -> ClipRecord | None:
        """Of the clip that this part completes, or that fails with it."""
        part, recipe = Part.from_row(row), self._stage.recipe
        taken = self._gathering.take(part, row[_PAIR])
        if taken.stray:
            drop_parts([part])
        if taken.copied:
            pair = Pair.from_row({**json.loads(row[_PAIR]), "error_code": None})
            shared = InvalidPair("another row has this clip_id, or the same file by its clip_name; give each its own")
            return None if part.index else failed_record(pair, recipe, shared)
        if not taken.parts:
            return None
        try:
            joined = self._join.options(scheduling_strategy="SPREAD").remote(self._stage, list(taken.parts), self._options)
            result = cast("Part | ClipRecord", ray.get(joined))
            if self._gathering.joined(part.clip_id):
                drop_parts([part for part in taken.parts if part.uri])
            return told(result, recipe)
        except RayError as error:
            died = WorkerDied(f"the process that joined its parts died ({type(error).__name__}); dub this row again")
            return failed_record(part, recipe, died)


def _as_table(made: list[tuple[dict[str, Any], ClipRecord]], types: dict[str, pa.DataType] | None) -> pa.Table:
    """Records and the user's columns as a table whose schema does not depend on what is in it."""
    table = to_table(record for _, record in made)
    for name in types if types is not None else made[0][0]:
        values = [carried.get(name) for carried, _ in made]
        table = table.append_column(carried_name(name), pa.array(values, types[name] if types is not None else None))
    return table
