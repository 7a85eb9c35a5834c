"""Consent: which rows of a manifest refer to one. Whether that is worth anything, people decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray.errors import NotConsented

__all__ = ["consented", "refusal"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them


def consented(table: pa.Table) -> np.ndarray:
    """Whether each row refers to a consent: bool (n,)."""
    if "consent" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    given = _pc.not_equal(_pc.fill_null(_pc.utf8_trim_whitespace(table["consent"]), ""), "")
    return given.combine_chunks().to_numpy(zero_copy_only=False)


def refusal(where: str) -> NotConsented:
    """The failure of a row without one; ``where`` names it."""
    return NotConsented(
        f"{where}consent is empty, and the job requires it (require.consent): write down there what says that who is shown and "
        "heard agreed, as text or a URI"
    )
