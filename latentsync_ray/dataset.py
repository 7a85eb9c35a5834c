"""Lip-sync a Ray Dataset into a Ray Dataset: lazily, with the user's columns carried along, and nothing resumed."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Dataset
from ray.data.block import BlockAccessor

from latentsync_ray import filesystems
from latentsync_ray.arguments import kind_of, path_text
from latentsync_ray.config import Cluster, Recipe
from latentsync_ray.errors import ConfigError, InvalidPair
from latentsync_ray.job_file import build_job
from latentsync_ray.manifest import OWN_COLUMNS, made_id, pair_of
from latentsync_ray.pipeline import check_nodes, connect, join_parts, parts_dataset, told
from latentsync_ray.preflight import check_recipe, resolved
from latentsync_ray.records import MANIFEST_PREFIX, RECORD_SCHEMA
from latentsync_ray.records.schema import carried_name, to_table
from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.join import Join
from latentsync_ray.stages.parts import drop_parts
from latentsync_ray.storage_options import StorageOptions
from latentsync_ray.types import ClipRecord, Pair, Part

__all__ = ["lipsync_dataset"]

log = logging.getLogger(__name__)

_PAIR, _CARRIED = "latentsync:pair", "latentsync:carried"
"""Columns that travel with a pair: what was asked, as JSON, which tells pairs of one id apart; and the user's own, pickled."""


def lipsync_dataset(
    pairs: Dataset,
    output: str | PathLike[str],
    *,
    recipe: Recipe | None = None,
    cluster: Cluster | None = None,
    sink: str = "mp4",
    storage_options: StorageOptions | None = None,
) -> Dataset:
    """Lip-sync every row of ``pairs``: a Dataset of clip records, which carries the other columns of ``pairs`` along.

    ``pairs`` has the columns ``video`` and ``audio`` and, if you like, ``clip_id``, ``language``, ``guidance_scale``, ``seed``,
    ``loop_mode`` and ``face``. Other columns follow those of the record, in the order of ``pairs``; one with the name of a
    record's column becomes ``manifest_NAME``. Rows whose ``clip_id`` is not unique fail as ``invalid_pair``.

    Lazy like any Dataset. The records are grouped by clip, which waits for the last part, and a worker that keeps dying fails
    it all; use ``run`` to have clips published one by one, with resume and a metadata table. Face tracks stay in
    ``_work/faces`` of the output, for the next Dataset of the same videos. ``storage_options`` are those of a ``Job``.

    Raises ConfigError for what can be known before a row is read.
    """
    kind_of(pairs, Dataset, "pairs", "a ray.data.Dataset, e.g. ray.data.from_items([...])")
    recipe = kind_of(Recipe() if recipe is None else recipe, Recipe, "recipe", "a Recipe, e.g. Recipe(steps=10)")
    cluster = kind_of(Cluster() if cluster is None else cluster, Cluster, "cluster", "a Cluster, e.g. Cluster(generate_gpus=1)")
    tree = {"manifest": "pairs", "output": path_text(output, "output"), "sink": sink, "recipe": recipe, "cluster": cluster}
    job = build_job({**tree, "storage_options": storage_options or {}}, source="lipsync_dataset")
    output, options = job.output, job.storage_options
    with filesystems.configured(options):
        recipe = resolved(recipe, note=log.info)
        check_recipe(recipe, note=log.info, fetch=cluster.address is None)
    carried = _carried_types(pairs)
    join = Join(recipe, output, lookup(SINKS, sink, "sink")(output), commit=False)
    connect(cluster)
    if cluster.address:
        with filesystems.configured(options):
            check_nodes(job)

    def join_group(group: pa.Table) -> pa.Table:
        filesystems.configure(options)
        rows = BlockAccessor.for_block(group).iter_rows(public_row_format=True)  # batches of numpy know no null
        return _as_table(list(_records([dict(row) for row in rows], join, recipe, options)), carried)

    return (
        parts_dataset(pairs.map(_prepared), output, recipe, cluster, storage_options=options)
        .groupby("clip_id")
        .map_groups(join_group, batch_format="pyarrow", num_cpus=0.25)
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


def _records(
    rows: list[dict[str, Any]], join: Join, recipe: Recipe, options: StorageOptions
) -> Iterator[tuple[dict[str, Any], ClipRecord]]:
    """The user's columns and the record of a clip, from the rows of its parts.

    Where several pairs share the id, each fails: none is the clip that the others would overwrite.
    """
    parts = [Part.from_row(row) for row in rows]
    asked = [(row[_PAIR], row[_CARRIED]) for row in rows]
    made = Counter((pair, part.index) for pair, part in zip(asked, parts, strict=True) if not part.error_code)
    copies = {pair: max([1, *(count for (of, _), count in made.items() if of == pair)]) for pair in dict.fromkeys(asked)}
    total = sum(copies.values())
    if total == 1:
        record = told(join_parts(join, parts, options), recipe)
        yield pickle.loads(asked[0][1]), record
        return
    drop_parts([part for part in parts if part.uri])
    shared = InvalidPair(f"{total} rows have this clip_id; give each its own")
    for (pair, carried), count in copies.items():
        failed = failed_record(Pair.from_row({**json.loads(pair), "error_code": None}), recipe, shared)
        yield from [(pickle.loads(carried), failed)] * count


def _as_table(made: list[tuple[dict[str, Any], ClipRecord]], types: dict[str, pa.DataType] | None) -> pa.Table:
    """Records and the user's columns as a table whose schema does not depend on what is in it."""
    table = to_table(record for _, record in made)
    for name in types if types is not None else made[0][0]:
        values = [carried.get(name) for carried, _ in made]
        table = table.append_column(carried_name(name), pa.array(values, types[name] if types is not None else None))
    return table
