"""The README's tables name what is there."""

from __future__ import annotations

import re
from pathlib import Path

from latentsync_ray.errors import CLIP_ERRORS
from latentsync_ray.records import RECORD_SCHEMA

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def first_cells(header: str) -> set[str]:
    """Names in code font in the first column of the table under ``header``."""
    table = README.split(header, 1)[1].split("\n\n", 1)[0]
    return {
        name for line in table.splitlines() for name in re.findall(r"`([a-z0-9_]+)`", line.split("|")[1] if "|" in line else "")
    }


def test_columns_of_the_metadata_table() -> None:
    assert first_cells("| column | what |") == set(RECORD_SCHEMA.names)


def test_error_codes() -> None:
    assert first_cells("| `error_code` | meaning |") == set(CLIP_ERRORS)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    missing = [link for link in links if not (Path(__file__).parent.parent / link).exists()]
    assert links
    assert not missing
