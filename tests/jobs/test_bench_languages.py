"""Languages of one video, from the file to the MP4: a worker encodes its pictures once, and no byte changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_languages import measure

from latentsync_ray import Recipe


@pytest.mark.slow
def test_another_language_encodes_no_picture(tmp_path: Path) -> None:
    """The files are compared by ``measure``."""
    made = list(measure(tmp_path, Recipe(model="tiny-random", steps=1, cpu_threads=1), 1.0))
    assert [(one.language, one.remembers) for one in made] == [
        (language, remembers) for remembers in (False, True) for language in ("first", "second", "third")
    ]
    assert len({one.record.sha256 for one in made}) == 3
    assert all(one.known < 0.6 and one.spent.encode > 0 for one in made[:4]), "loops and overlaps, at most"
    assert all((one.known, one.spent.encode) == (1.0, 0.0) for one in made[4:])
    assert all((warm.record.tflop or 0) < (cold.record.tflop or 0) for cold, warm in zip(made[1:3], made[4:], strict=True))
