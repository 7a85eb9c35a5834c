"""Everything that can go wrong, as one tree.

    LatentSyncError
    ├── ConfigError             the job, manifest or arguments are wrong: nothing has started (exit code 2)
    ├── ModelError              the model cannot be used: nothing has started
    │   ├── WeightsNotFound     not on disk and not reachable; says what to download and where to put it
    │   └── CheckpointMismatch  keys or shapes differ from the configuration; names them
    ├── DeviceLost              the accelerator died: the worker process must end and be replaced
    └── ClipError               this clip's data: becomes the clip's record, and the run goes on
        ├── UnreadableVideo     unreadable_video
        ├── UnreadableAudio     unreadable_audio
        ├── NoFace              no_face
        ├── TooLarge            too_large
        ├── InvalidPair         invalid_pair (transient: the row may have been corrected)
        ├── NotConsented        not_consented (transient: the row may have got a consent)
        ├── InputNotFound       input_not_found (transient: it may have arrived)
        ├── StorageUnavailable  storage_unavailable (transient: worth another run)
        ├── InputChanged        input_changed (transient: replaced while it was being dubbed)
        ├── MixedParts          mixed_parts (transient: its finished parts do not fit together, or went away)
        ├── NotSigned           not_signed (transient: key service or time authority did not answer)
        ├── BelowQuality        below_quality
        ├── TryAgain            try_again (transient: made again, as it fell short of the job's quality; never recorded)
        ├── NotFinite           not_finite
        ├── OutOfMemory         out_of_memory (transient: more may be free)
        ├── WorkerDied          worker_died (transient: the process working on it was killed)
        ├── NotBegun            not_begun (transient: the run's time was up before its turn; never recorded)
        └── InternalError       internal_error (transient: a bug, which another version may not have)

Knows nothing about Ray, media or models. An error that is not in this tree is a bug; ``stages.failures`` says what that
means for a clip.
"""

from __future__ import annotations

import types
from collections import abc

from latentsync_ray import redact

__all__ = [
    "CLIP_ERRORS",
    "BelowQuality",
    "CheckpointMismatch",
    "ClipError",
    "ConfigError",
    "DeviceLost",
    "InputChanged",
    "InputNotFound",
    "InternalError",
    "InvalidPair",
    "LatentSyncError",
    "MixedParts",
    "ModelError",
    "NoFace",
    "NotBegun",
    "NotConsented",
    "NotFinite",
    "NotSigned",
    "OutOfMemory",
    "StorageUnavailable",
    "TooLarge",
    "TryAgain",
    "UnreadableAudio",
    "UnreadableVideo",
    "WeightsNotFound",
    "WorkerDied",
    "headline",
    "is_transient",
]


class LatentSyncError(Exception):
    """Base of every error this package raises on purpose. Secrets in the addresses that its message quotes are left out."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact.text(each) if isinstance(each, str) else each for each in args))


class ConfigError(LatentSyncError):
    """The job, the manifest or an argument is wrong; nothing has been started."""


class ModelError(LatentSyncError):
    """The model cannot be used."""


class WeightsNotFound(ModelError):
    """The weights are neither on disk nor reachable."""


class CheckpointMismatch(ModelError):
    """A checkpoint's keys or shapes differ from what the configuration builds."""


class DeviceLost(LatentSyncError):
    """The accelerator stopped answering; the process that owns it has to end."""


class ClipError(LatentSyncError):
    """Something about one clip's data. Turned into that clip's record; never stops a run.

    ``code`` is the stable name in the ``error_code`` column; ``transient`` says that running again may help.
    """

    code = "clip_error"
    transient = False
    learned: abc.Mapping[str, object] = types.MappingProxyType({})
    """Columns of the clip's record that were known before it failed."""


class UnreadableVideo(ClipError):
    """The video cannot be opened or decoded."""

    code = "unreadable_video"


class UnreadableAudio(ClipError):
    """The audio cannot be opened or decoded, or the file has no audio."""

    code = "unreadable_audio"


class NoFace(ClipError):
    """No frame of the clip shows a usable face."""

    code = "no_face"


class TooLarge(ClipError):
    """The input exceeds a limit of the recipe (pixels per frame, seconds)."""

    code = "too_large"


class InvalidPair(ClipError):
    """A manifest row carries a value that cannot be used. Transient: the row may have been corrected."""

    code = "invalid_pair"
    transient = True


class NotConsented(ClipError):
    """The job requires consent, and the row refers to none. Transient: it may have got one."""

    code = "not_consented"
    transient = True


class InputNotFound(ClipError):
    """The video or audio does not exist at its URI, or access is denied. Transient: it may have arrived."""

    code = "input_not_found"
    transient = True


class StorageUnavailable(ClipError):
    """Storage kept failing after bounded retries."""

    code = "storage_unavailable"
    transient = True


class InputChanged(ClipError):
    """The video or audio was replaced while the clip was in work."""

    code = "input_changed"
    transient = True


class MixedParts(ClipError):
    """The clip's finished parts do not fit together, or went away; they will be made again."""

    code = "mixed_parts"
    transient = True


class NotSigned(ClipError):
    """The finished clip could not be signed, and so was not published. Transient: who signs may answer."""

    code = "not_signed"
    transient = True


class BelowQuality(ClipError):
    """No attempt at the clip keeps the limits of the job's quality, and the job withholds such clips."""

    code = "below_quality"


class TryAgain(ClipError):
    """This attempt falls short of the job's quality. It is kept aside, and another is made; the clip gets no record yet."""

    code = "try_again"
    transient = True


class NotFinite(ClipError):
    """The model's numbers overflowed on this clip, and on others they do not."""

    code = "not_finite"


class OutOfMemory(ClipError):
    """The memory of the device, or of the machine, did not suffice for this clip. Transient: more may be free."""

    code = "out_of_memory"
    transient = True


class WorkerDied(ClipError):
    """The process working on the clip was killed (for example for memory) in every attempt."""

    code = "worker_died"
    transient = True


class NotBegun(ClipError):
    """The run's time was up before the clip's turn. It gets no record, and the next run begins it."""

    code = "not_begun"
    transient = True


class InternalError(ClipError):
    """The clip met a bug of this package or of a plugin. Transient: another version may not have it."""

    code = "internal_error"
    transient = True


CLIP_ERRORS: dict[str, type[ClipError]] = {
    error.code: error
    for error in (
        UnreadableVideo,
        UnreadableAudio,
        NoFace,
        TooLarge,
        InvalidPair,
        NotConsented,
        InputNotFound,
        StorageUnavailable,
        InputChanged,
        MixedParts,
        NotSigned,
        BelowQuality,
        TryAgain,
        NotFinite,
        OutOfMemory,
        WorkerDied,
        NotBegun,
        InternalError,
    )
}
"""``error_code`` -> the error, in the order of the tree."""


def headline(error: str | None) -> str:
    """The first line of a record's ``error``: an ``internal_error`` goes on with the end of its traceback."""
    return (error or "").partition("\n")[0]


def is_transient(code: str | None) -> bool:
    """Whether running a clip that failed with this ``error_code`` again may help; codes of others' making are final."""
    return code in CLIP_ERRORS and CLIP_ERRORS[code].transient
