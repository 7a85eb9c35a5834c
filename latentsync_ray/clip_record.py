"""What is told of a clip in the end: a row of the metadata table."""

from __future__ import annotations

import dataclasses as dc
from datetime import datetime
from typing import Any, Literal

from latentsync_ray.row import LoopMode, Row

__all__ = ["ClipRecord"]


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ClipRecord(Row):
    """One clip as the world sees it, failed ones included: one row of the metadata table. None means: there is nothing."""

    video: str
    audio: str
    output: str | None = None
    output_path: str | None = None
    """The same, relative to the output folder: holds when the folder is moved."""
    video_version: str | None = None
    """With ``video_sha256``: what storage said of the video that the clip was made of, and its content's hash; see
    ``storage.version``. The next run makes the clip again when they have changed."""
    audio_version: str | None = None
    video_sha256: str | None = None
    audio_sha256: str | None = None
    settings: str | None = None
    """Of the settings that the row made for itself; see ``config.own_settings``."""
    status: Literal["ok", "ok_below_quality", "failed"] = "failed"
    """``ok_below_quality``: published, and no attempt kept the limits of the job's quality."""
    attempts: list[dict[str, Any]] | None = None
    """Of a job with such limits, in their order: seed, guidance_scale, the measures, and whether it kept them (``passed``)."""
    frames: int | None = None
    frames_without_face: int | None = None
    """Frames that were passed through: no face, another one's turn, a covered or turned mouth."""
    frames_no_face: int | None = None
    """Why frames were passed through: the six add up to ``frames_without_face``."""
    frames_not_speaker: int | None = None
    """There are faces, and none of them is the one that was chosen."""
    frames_too_brief: int | None = None
    """The chosen face can be seen for two frames at most."""
    frames_out_of_picture: int | None = None
    """Its mouth is beyond the picture's edge."""
    frames_turned: int | None = None
    frames_covered: int | None = None
    face: str | None = None
    """As it was asked for; see ``Recipe.face``."""
    face_choice: str | None = None
    """The rule by which it was chosen: ``only`` face, ``speaking``, ``largest``, ``all``, ``point``, ``track``."""
    face_tracks: str | None = None
    """The faces that got the speech, by their numbers in the file of tracks, e.g. ``0,2``."""
    faces_path: str | None = None
    """The file of the video's face tracks, relative to the output; None unless the job keeps them."""
    detector: str | None = None
    corrupt_frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    """Seconds of the video stream."""
    sync_score: float | None = None
    """Probability that lips and sound belong together as they are, 0 to 1 (see ``sync``); None when too little is seen."""
    sync_offset_ms: float | None = None
    """The offset at which they agree best, -600 to 600; above 0 the lips are late."""
    sync_correlation: float | None = None
    """How well the mouth's motion agrees with the sound, -1 to 1 (see ``measure``); None when too little face is seen."""
    sync_lag_ms: float | None = None
    """The offset at which it agrees best; above 0 the lips are late."""
    seam: float | None = None
    """Step across the patch's border beyond the filmed one, grey levels; this and what follows: see ``quality``."""
    seam_frame: int | None = None
    """Output frame, from 0, at which it is worst."""
    sharpness: float | None = None
    """Of the lips, against the filmed ones: 1 is as sharp."""
    sharpness_frame: int | None = None
    flicker: float | None = None
    """How far frames are off both their neighbours, beyond the filmed ones, grey levels."""
    flicker_frame: int | None = None
    identity: float | None = None
    """How alike the pattern of the skin around the lips is to the filmed one, at most 1."""
    identity_frame: int | None = None
    skin_shift: float | None = None
    """How much the skin's colour changed, CIEDE2000."""
    skin_shift_frame: int | None = None
    speech_motion: float | None = None
    """How much the lips change from frame to frame while the speech is loud, grey levels."""
    silence_motion: float | None = None
    """How much they do while it is silent, as a share of that."""
    silence_motion_frame: int | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    """Of the file as published, hex."""
    content_sha256: str | None = None
    """The same before it was signed, which does not differ from run to run; see ``Job.signing``."""
    content_type: str | None = None
    language: str | None = None
    """Of the speech, as the pair or the audio file says it."""
    audio_channel: int | None = None
    """The channel, counted from 1, that the model heard because a mix of all would have cancelled; None: the mix."""
    deinterlaced: bool | None = None
    content_credentials: str | None = None
    """Which inputs carried Content Credentials (C2PA): ``video``, ``audio``, ``video, audio``. Clips that are signed keep them
    as their ingredients'."""
    signed_by: str | None = None
    """Common name of the certificate that signed the file; None: it is not signed."""
    consent: str | None = None
    """What says that who is shown and heard agreed."""
    seed: int | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    cache_interval: int | None = None
    """Steps from one whole run of the network to the next; 1: all of them are."""
    loop_mode: LoopMode | None = None
    model: str | None = None
    checkpoint: str | None = None
    precision: str | None = None
    micro_batch: int | None = None
    """Windows that a call of the model had."""
    card: str | None = None
    """What the model ran on, e.g. ``NVIDIA H100 80GB HBM3``."""
    recipe: str | None = None
    """Fingerprint of the recipe."""
    version: str | None = None
    """Package version."""
    finished_at: datetime | None = None
    """UTC."""
    cost: float | None = None
    """Dollars by the server's tariff; None for clips that no server made."""
    plan_seconds: float | None = None
    track_seconds: float | None = None
    crop_seconds: float | None = None
    generate_seconds: float | None = None
    """Time of the model's device."""
    paste_seconds: float | None = None
    join_seconds: float | None = None
    idle_seconds: float | None = None
    """How long the device stood idle before it worked for this clip."""
    busy_share: float | None = None
    """What part of both it worked."""
    frames_per_second: float | None = None
    """Of the device: frames with a new face in each second that it worked."""
    tflop: float | None = None
    """10^12 floating-point operations that the model did; None when nobody has counted them."""

    def to_json(self) -> dict[str, Any]:
        """``to_row`` with the time as ISO 8601 text."""
        return {**self.to_row(), "finished_at": self.finished_at and self.finished_at.isoformat()}

    @property
    def ok(self) -> bool:
        """Whether there is a dubbed clip."""
        return self.status != "failed"

    @property
    def failed(self) -> bool:
        """Whether there is none; ``error_code`` and ``error`` say why."""
        return self.status == "failed"
