"""The face track as a file: Parquet, one row per face and frame, a thumbnail of each face in its metadata.

Anyone can read it with pandas: the columns are ``row`` (frame of the source in display order), ``shot``, ``track``, the box and
the three points in px, ``presence``, ``yaw``, ``pitch``, ``roll`` in degrees, ``mouth`` (brow distances) and ``covered``.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentsync_ray.faces.tracks import ANGLES, Track, Tracks

__all__ = ["read_tracks", "tracks_of", "write_tracks"]

_META = b"latentsync_ray.faces"
_BOX = ("left", "top", "right", "bottom")
_POINTS = ("left_brow_x", "left_brow_y", "right_brow_x", "right_brow_y", "nose_x", "nose_y")
_TURN = ("yaw", "pitch", "roll")
_STEP = 64
"""Points are kept in steps of 1/64 px: a hundredth of what is seen, and a third smaller."""


def write_tracks(tracks: Tracks) -> bytes:
    """The file of a video's tracks."""
    every = tracks.tracks

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(track, name) for track in every])

    columns: dict[str, pa.Array] = {}
    if every:
        columns = {
            "row": pa.array(column("rows"), pa.int32()),
            "shot": pa.array(np.repeat([track.shot for track in every], [len(track) for track in every]), pa.int32()),
            "track": pa.array(np.repeat([track.id for track in every], [len(track) for track in every]), pa.int32()),
        }
        box, points, turn = np.rint(column("box")), column("landmarks").reshape(-1, 6), column("turn")
        columns |= {name: pa.array(box[:, place].astype(np.int32)) for place, name in enumerate(_BOX)}
        columns |= {
            name: pa.array(np.round(points[:, place].astype(np.float64) * _STEP) / _STEP, pa.float32())
            for place, name in enumerate(_POINTS)
        }
        columns |= {name: pa.array(np.round(turn[:, place], 1).astype(np.float32)) for place, name in enumerate(_TURN)}
        columns |= {
            "presence": pa.array(np.round(column("presence"), 2).astype(np.float32)),
            "mouth": pa.array(np.round(column("mouth"), 3).astype(np.float32)),
            "covered": pa.array(column("covered")),
            "outline": _outlines([track.outline for track in every]),
        }
    meta = {
        "shots": tracks.shots.tolist(),
        "stop": tracks.stop,
        "corrupt": tracks.corrupt,
        "thumbnails": {str(track.id): base64.b64encode(track.thumbnail).decode() for track in every if track.thumbnail},
    }
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})
    buffer = io.BytesIO()
    # Points hardly change from row to row: their bytes by place compress to half.
    encoding: Any = {"use_dictionary": ["shot", "track"], "use_byte_stream_split": list(_POINTS)} if every else {}
    pq.write_table(table, buffer, compression="zstd", **encoding)
    return buffer.getvalue()


def read_tracks(data: bytes) -> Tracks:
    """What ``write_tracks`` wrote. Raises ValueError when it is something else."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a file of face tracks: {error}") from error
    return tracks_of(table)


def tracks_of(table: pa.Table) -> Tracks:
    """The tracks in a table."""
    meta = (table.schema.metadata or {}).get(_META)
    if meta is None:
        raise ValueError("not a file of face tracks")
    told = json.loads(meta)
    tracks = []
    if table.num_columns:
        arrays = {name: table[name].to_numpy() for name in table.column_names if name != "outline"}
        flat = table["outline"].combine_chunks()
        outline = np.frombuffer(b"".join(flat.to_pylist()), np.uint8).reshape(len(table), -1)
        number = arrays["track"]
        for run in np.split(np.arange(len(table)), np.flatnonzero(np.diff(number)) + 1):
            take = {name: values[run] for name, values in arrays.items()}
            thumbnail = told["thumbnails"].get(str(take["track"][0]), "")
            edges = outline[run]
            tracks.append(
                Track(
                    id=int(take["track"][0]),
                    shot=int(take["shot"][0]),
                    rows=take["row"],
                    landmarks=np.stack([take[name] for name in _POINTS], 1).reshape(-1, 3, 2),
                    box=np.stack([take[name] for name in _BOX], 1).astype(np.float32),
                    presence=take["presence"].astype(np.float32),
                    turn=np.stack([take[name] for name in _TURN], 1).astype(np.float32),
                    mouth=take["mouth"].astype(np.float32),
                    outline=edges if edges.any() else edges[:, :0],
                    texture=np.zeros((len(run), 0, 3), np.uint8),
                    covered=take["covered"],
                    thumbnail=base64.b64decode(thumbnail),
                )
            )
    return Tracks(tracks, np.array(told["shots"], np.int32), told["stop"], told["corrupt"])


def _outlines(outlines: list[np.ndarray]) -> pa.Array:
    """uint8 (n, ANGLES) of all tracks as fixed binary; zeros for those without."""
    whole = np.concatenate([each if each.shape[1] else np.zeros((len(each), ANGLES), np.uint8) for each in outlines])
    return pa.array([bytes(row) for row in whole], pa.binary(ANGLES))
