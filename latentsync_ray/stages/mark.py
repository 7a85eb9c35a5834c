"""What a clip says of its own making: XMP in every file and, where the job signs, Content Credentials (C2PA).

Neither holds an address, a folder's name or anything else of whoever ran the job, but for what a row names as its consent.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from latentsync_ray import __version__, redact, storage
from latentsync_ray.errors import ClipError, ConfigError, NotSigned
from latentsync_ray.marking import Signing
from latentsync_ray.media.signing import Identity, Ingredient, SigningFailed, common_name, read_credentials, sign_file
from latentsync_ray.media.xmp import SOURCE_TYPE, embed_xmp, xmp_packet
from latentsync_ray.registry import lookup
from latentsync_ray.stages.inputs import planned_input
from latentsync_ray.stages.unfinished import Unfinished

__all__ = ["Sign", "check_signing", "mark"]

_AGENT = {"name": "latentsync_ray", "version": __version__}
_WHAT = "A diffusion model repainted mouth and chin, so that the lips go with other speech."
_BLANK = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c6360606000000004000185e0ee8c0000000049454e44ae426082"
)
"""A PNG of one pixel, in hex."""


def mark(work: Unfinished) -> None:
    """Have the file say in XMP that a model changed it, and which, of what."""
    made = _made(work)
    properties = {
        "xmp:CreatorTool": f"latentsync_ray {__version__}",
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": made.pop("model"),
        **{f"latentsync:{name}": str(value) for name, value in made.items()},
    }
    embed_xmp(work.file, xmp_packet(properties))


def _made(work: Unfinished) -> dict[str, Any]:
    """How the clip was made, for the file itself."""
    clip, recipe = work.clip, work.recipe
    return {
        "model": redact.shown(recipe.model).partition("?")[0].rstrip("/").rpartition("/")[2],
        "checkpoint": next((part.checkpoint for part in work.parts if part.checkpoint), ""),
        "recipe": recipe.fingerprint(),
        "seed": clip.seed,
        "guidanceScale": clip.guidance_scale,
        "videoSha256": clip.video_sha256,
        "audioSha256": clip.audio_sha256,
    }


class Sign:
    """A step that signs the file as ``signing`` says. Raises NotSigned when that fails, ConfigError when it never can."""

    def __init__(self, signing: Signing) -> None:
        self.signing = signing

    def __call__(self, work: Unfinished) -> None:
        """The content's hash is noted before: a signature has the time in it, so that no two are the same."""
        identity = _identity(self.signing)
        with work.file.open("rb") as file:
            work.facts["content_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        signed = work.file.with_suffix(".signed.mp4")
        try:
            sign_file(work.file, signed, identity, _manifest(work), _ingredients(work))
            work.facts["signed_by"] = common_name(identity.certificates)
        except SigningFailed as error:
            raise NotSigned(f"the clip could not be signed: {error}") from redact.presentable(error, "")
        signed.replace(work.file)


def _manifest(work: Unfinished) -> dict[str, Any]:
    clip = work.clip
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["video"]}},
        {"action": "c2pa.placed", "parameters": {"ingredientIds": ["audio"]}},
        {"action": "c2pa.edited", "digitalSourceType": SOURCE_TYPE, "softwareAgent": _AGENT, "description": _WHAT},
    ]
    told = {"language": clip.language, "consent": clip.consent and redact.text(clip.consent)}
    made = {**_made(work), **{name: value for name, value in told.items() if value}}
    return {
        "claim_generator_info": [_AGENT],
        "title": f"{clip.clip_name or clip.clip_id}.mp4",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": "io.github.latentsync-ray.dub", "data": made},
        ],
    }


def _ingredients(work: Unfinished) -> list[Ingredient]:
    """Video and speech, by the hashes of their content; those with credentials of their own keep them."""
    return [_ingredient(work, "video", "source video", "parentOf"), _ingredient(work, "audio", "speech", "componentOf")]


def _ingredient(work: Unfinished, name: Literal["video", "audio"], title: str, relationship: str) -> Ingredient:
    digest = getattr(work.clip, f"{name}_sha256")
    said = {"title": title, "relationship": relationship, "label": name}
    signed = name in (work.clip.content_credentials or "").split(", ")
    return Ingredient(
        said={**said, "instance_id": f"sha256:{digest}", "description": f"SHA-256 {digest}"},
        path=planned_input(work.clip, name).path if signed else None,
    )


def check_signing(signing: Signing) -> None:
    """Sign a picture of one pixel and look whether the signature holds. Raises ConfigError that says what to do."""
    manifest = {"claim_generator_info": [_AGENT], "title": "trial", "assertions": [_TRIAL]}
    with tempfile.TemporaryDirectory() as folder:
        blank, signed = Path(folder, "blank.png"), Path(folder, "signed.png")
        blank.write_bytes(bytes.fromhex(_BLANK))
        try:
            sign_file(blank, signed, _identity(signing), manifest, media_type="image/png")
            found = read_credentials(signed)
        except SigningFailed as error:
            raise ConfigError(f"signing does not work: {error}") from redact.presentable(error, "")
    assert found is not None
    if found["validation_state"] == "Invalid":
        codes = [each["code"] for each in found.get("validation_status", ())]
        raise ConfigError(
            f"signing gives signatures that do not hold ({', '.join(codes)}): do key, algorithm and certificates belong "
            "together, and are these valid today?"
        )


_TRIAL = {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]}}


def _identity(signing: Signing) -> Identity:
    return _read(json.dumps(signing.model_dump()))


@lru_cache(maxsize=4)
def _read(asked: str) -> Identity:
    """Read once per process. Raises ConfigError."""
    signing = Signing.model_validate_json(asked)

    def content(name: str, uri: str) -> bytes:
        try:
            return storage.read_bytes(uri)
        except ClipError as error:
            raise ConfigError(f"signing.{name} cannot be read on this machine: {error}") from error

    key = content("key", signing.key) if signing.key else None
    if key:
        redact.hide(key.decode(errors="replace"))
    return Identity(
        certificates=content("certificates", signing.certificates),
        key=key,
        sign=lookup({}, signing.signer, "signer") if signing.signer else None,
        algorithm=signing.algorithm,
        time_authority=signing.time_authority,
    )
