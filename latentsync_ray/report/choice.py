"""Which clips of a table are worth a look, by a rule that gives the same clips every time."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

__all__ = ["RULE", "choose"]

RULE = "failed first, one of each error in turn; then the lowest sync_score; then others, spread over the clip ids"
"""What ``choose`` does, in words for people."""

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


def choose(table: pa.Table, rows: int) -> pa.Table:
    """Up to ``rows`` rows of a table of records with the columns clip_id, status, error_code and sync_score.

    Failed clips take a third at most, unless there are not enough others: one of each error in turn, beginning with the most
    frequent one. Of what is left one half goes to the clips with the lowest ``sync_score``, worst first, and the other is
    spread evenly over the rest in the order of their ids.
    """
    table = table.sort_by("clip_id")
    ok, failed = table.filter(_pc.field("status") != "failed"), table.filter(_pc.field("status") == "failed")
    failed_rows = min(len(failed), max(rows // 3, rows - len(ok)))
    failed = failed.take(pa.array(_one_of_each(failed["error_code"].to_pylist())[:failed_rows], pa.int64()))
    left = min(rows - failed_rows, len(ok))
    score = ok["sync_score"].to_numpy().astype(np.float64)
    known = np.flatnonzero(np.isfinite(score))
    lowest = known[np.argsort(score[known], kind="stable")][: left // 2]
    others = np.setdiff1d(np.arange(len(ok)), lowest)
    spread = others[np.linspace(0, len(others) - 1, left - len(lowest)).round().astype(int)]
    return pa.concat_tables([failed, ok.take(pa.array(np.concatenate([lowest, spread])))])


def _one_of_each(codes: list[str | None]) -> list[int]:
    places = defaultdict(list)
    for place, code in enumerate(codes):
        places[code or ""].append(place)
    frequent = sorted(places, key=lambda code: -len(places[code]))
    turns = zip_longest(*(places[code] for code in frequent))
    return [place for place in chain.from_iterable(turns) if place is not None]
