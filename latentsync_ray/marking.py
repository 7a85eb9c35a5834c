"""What a job demands of its rows, and how its clips are marked: sections of a job. ``stages.mark`` and ``label`` do it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray import redact
from latentsync_ray.resources import Strict

__all__ = ["Label", "Require", "Signing"]


class Require(Strict):
    """What each row of the manifest must have."""

    consent: bool = False
    """A reference to the consent of who is shown and heard, in the column ``consent``: text or a URI. Rows without one fail as
    ``not_consented`` before anything of them is read."""


class Signing(Strict):
    """Sign every clip with Content Credentials (C2PA). Needs the extra ``c2pa``; changes nothing that is seen or heard."""

    certificates: str
    """The signer's certificate and then those that vouch for it, as PEM: a path or URI that every machine can read."""
    key: str | None = None
    """The signer's private key, as PEM without a passphrase: a path or URI that every machine can read."""
    signer: str | None = None
    """In place of ``key``, ``"module:function"`` that signs: bytes to the bytes of a signature, e.g. with a key service. ECDSA
    signatures may be in DER or as IEEE P1363 has them."""
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """Of the key, by C2PA's name."""
    time_authority: str | None = None
    """URL of an RFC 3161 service that vouches for the time of each signature: without one, signatures hold no longer than the
    certificate. It is asked once for each clip."""

    @field_validator("certificates", "key")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        if (self.key is None) == (self.signer is None):
            raise PydanticCustomError("signing", "give either key or signer")
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Without the secrets of addresses."""
        for name, value in super().__repr_args__():
            yield name, redact.shown(value) if isinstance(value, str) else value


class Label(Strict):
    """Text that is burnt into every frame."""

    text: Annotated[str, Field(min_length=1, max_length=200)]
    """In one line."""
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-right"
    """Of the frame."""
    size: Annotated[float, Field(ge=0.01, le=0.2)] = 0.035
    """Height of the text, as a share of the frame's shorter side. Text that is too wide for the frame becomes smaller."""

    @field_validator("text")
    @classmethod
    def _printable(cls, value: str) -> str:
        value = " ".join(value.split())
        if not value or not all(char.isprintable() or unicodedata.category(char) == "Cf" for char in value):  # such as joiners
            raise PydanticCustomError("label", "use text that can be printed")
        return value
