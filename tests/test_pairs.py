"""Pairs as rows of a table, and which of them are settled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from latentsync_ray import Pair
from latentsync_ray.errors import NoFace
from latentsync_ray.manifest import read_manifest, to_pair
from latentsync_ray.pairs import Open, Pairs


def manifest(folder: Path, rows: int) -> pa.Table:
    lines = [f"clip{n},v{n}.mp4,a.wav,{n if n % 10 else 'odd'},note {n}" for n in range(rows)]
    (folder / "pairs.csv").write_text("\n".join(["clip_id,video,audio,seed,note", *lines]))
    return read_manifest(str(folder / "pairs.csv"))


def rows(pairs: Pairs) -> list[dict[str, object]]:
    return [pair.to_row() for pair in pairs]


def test_rows_of_a_manifest_become_the_same_pairs_one_by_one_or_in_blocks(tmp_path: Path) -> None:
    table, wanted = manifest(tmp_path, 2500), np.array([0, 7, 10, 1200, 2499])
    pairs = Pairs.of_manifest(table, wanted)
    assert rows(pairs) == [to_pair(table, int(row)).to_row() for row in wanted]
    assert [pair.error_code for pair in pairs] == ["invalid_pair", None, "invalid_pair", "invalid_pair", None]
    assert "row 1201: seed" in str(list(pairs)[3].error)
    whole = Pairs.of_manifest(table, np.arange(2500))
    blocks = list(whole.blocks())
    assert [len(block) for block in blocks] == [1000, 1000, 500]
    assert rows(whole) == [Pairs.pair(row).to_row() for block in blocks for row in block.to_pylist()]
    assert "note" not in blocks[0].column_names, "what is only carried along stays with the driver"


def test_pairs_survive_the_way_through_a_table() -> None:
    asked = [
        Pair(clip_id="a", video="v", audio="a"),
        Pair(
            clip_id="b", video="v", audio="a", guidance_scale=1.25, seed=2**40, loop_mode="loop", face="largest", language="de"
        ),
        Pair.of_failed(Pair(clip_id="c", video="v", audio="a"), NoFace("nobody")),
    ]
    assert rows(Pairs.of(asked)) == [pair.to_row() for pair in asked]
    assert rows(Pairs.of([])) == []
    assert list(Pairs.of([]).ids()) == []


def test_settled_clips_are_not_open_any_more() -> None:
    pairs = Pairs.of(Pair(clip_id=f"clip{n}", video="v", audio="a") for n in range(3000))
    left = Open(pairs)
    assert len(left) == 3000
    for n in range(0, 3000, 3):
        left.settle(f"clip{n}")
        left.settle(f"clip{n}")
    left.settle("stranger")
    assert len(left) == 2000
    assert "clip3" not in left
    assert "clip4" in left
    assert "stranger" not in left
    assert [pair.clip_id for pair in pairs.only(left)] == [f"clip{n}" for n in range(3000) if n % 3]
