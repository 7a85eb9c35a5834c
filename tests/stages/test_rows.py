"""What goes wrong in a stage travels as a row, and without the secrets of addresses."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ClipError, ConfigError, DeviceLost, ModelError, UnreadableVideo
from latentsync_ray.stages.failures import Failing, failed_record, failure_of
from latentsync_ray.stages.rows import attempt
from latentsync_ray.types import Pair, Part

SIGNED = "https://me:S3CRET@h.example/a.mp4?X-Amz-Signature=S3CRET"
PAIR = Pair(clip_id="a", video=SIGNED, audio=SIGNED)


@pytest.mark.parametrize(
    ("kind", "code"), [(UnreadableVideo, "unreadable_video"), (ConfigError, "ConfigError"), (ValueError, "internal_error")]
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
    record = failed_record(PAIR, Recipe(model="tiny-random"), ClipError(f"{SIGNED} is wrong"))
    assert record.video == record.audio == "https://***@h.example/a.mp4?***"
    assert "S3CRET" not in repr(record)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "out_of_memory", "Unable to allocate 9 GiB"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/speech.raw"), "storage_unavailable", "disk of /tmp/speech.raw"),
        (KeyError("lips"), "internal_error", "KeyError: 'lips' (a bug; please report it)\n"),
    ],
)
def test_what_an_error_means_for_the_clip(error: Exception, code: str, message: str) -> None:
    failure = failure_of(error)
    assert failure.code == code
    assert message in str(failure)


def test_a_bug_leaves_the_end_of_its_traceback() -> None:
    def dig(depth: int) -> None:
        if depth == 0:
            raise ValueError("the bottom")
        [dig, lambda depth: dig(depth)][depth % 2](depth - 1)

    with pytest.raises(ValueError, match="the bottom") as caught:
        dig(90)
    reason, *trace = str(failure_of(caught.value)).splitlines()
    assert reason == "ValueError: the bottom (a bug; please report it)"
    assert trace[-1] == "ValueError: the bottom"
    assert trace[0] == "..."
    assert len("\n".join(trace)) < 2100


@pytest.mark.parametrize("message", ["x" * 9000, "short\n" + "y" * 9000])
def test_a_bug_with_an_endless_line_is_cut(message: str) -> None:
    with Failing() as met:
        raise ValueError(message)
    assert met.failure
    assert met.failure.code == "internal_error"
    assert len(str(met.failure)) < 3000


@pytest.mark.parametrize("error", [ConfigError("wrong"), ModelError("gone"), DeviceLost("gone")])
def test_what_is_not_about_the_clip_is_raised(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        failure_of(error)
