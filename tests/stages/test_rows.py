"""What goes wrong in a stage travels as a row, and without the secrets of addresses."""

from __future__ import annotations

from typing import Any

import pytest

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, ConfigError, UnreadableVideo
from latentsync_ray.stages.join import failed_record
from latentsync_ray.stages.rows import BUG, attempt
from latentsync_ray.types import Pair, Part

SIGNED = "https://me:S3CRET@h.example/a.mp4?X-Amz-Signature=S3CRET"
PAIR = Pair(clip_id="a", video=SIGNED, audio=SIGNED)


@pytest.mark.parametrize(
    ("kind", "code"), [(UnreadableVideo, "unreadable_video"), (ConfigError, "ConfigError"), (ValueError, BUG)]
)
def test_rows_tell_of_errors_without_secrets_and_keep_the_address(kind: type[Exception], code: str) -> None:
    def stage(_: Any) -> Any:
        try:
            raise OSError(f"403: {SIGNED}")
        except OSError as cause:
            raise kind(f"{SIGNED} is wrong") from cause

    (row,) = attempt(stage, PAIR, Part)
    assert isinstance(row, Part)
    assert row.error_code == code
    assert row.error
    assert "https://***@h.example/a.mp4?*** is wrong" in row.error
    assert "S3CRET" not in row.error
    assert row.video == SIGNED, "which later stages open"


def test_records_show_addresses_only() -> None:
    record = failed_record(Pair.of_failed(PAIR, ClipError(f"{SIGNED} is wrong")), Recipe(model="tiny-random"))
    assert record.video == record.audio == "https://***@h.example/a.mp4?***"
    assert "S3CRET" not in repr(record)
