"""Where a model's files are: a name in ``MODELS``, a folder, any fsspec URI or a Hugging Face repository.

A folder holds ``latentsync_unet.pt`` (or ``.safetensors``, or ``unet.*``), ``whisper/tiny.pt`` (OpenAI) or ``whisper/`` in
transformers' layout, ``vae/`` in diffusers' layout (else the usual VAE is taken) and, unless it is named like a known model,
``latentsync.json``: ``{"resolution": 256, "unet": {the official model section}}``, where "unet" may be left out for the options
of 1.5 and 1.6. Knows files and names, no torch. What is on disk is used without asking the network.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentsync_ray import storage
from latentsync_ray.errors import ClipError, ConfigError, ModelError, WeightsNotFound
from latentsync_ray.model.options import UNetConfig
from latentsync_ray.model.specs import MODELS, Licence, ModelSpec

__all__ = ["ModelFiles", "ModelRow", "describe_models", "find_spec", "is_here", "locate", "models_folder"]

_DESCRIPTION = "latentsync.json"
_HUB = "hf://"

_Roles = Mapping[str, tuple[str, ...]]
"""What is needed -> the names it may have, best first."""

_UNET = tuple(f"{stem}.{kind}" for stem in ("latentsync_unet", "unet") for kind in ("pt", "safetensors"))
_MODEL: tuple[_Roles, ...] = (
    {"unet": _UNET, "whisper": ("whisper/tiny.pt", "whisper/small.pt")},
    {"unet": _UNET, "whisper": ("whisper/model.safetensors",), "whisper_config": ("whisper/config.json",)},
)
_VAE: _Roles = {"vae": ("diffusion_pytorch_model.safetensors",), "vae_config": ("config.json",)}


@dc.dataclass(frozen=True)
class ModelFiles:
    """A model's files, all on this machine."""

    unet: Path
    whisper: Path
    vae: Path
    vae_config: Path
    whisper_config: Path | None = None
    """For transformers' layout; OpenAI's file says it itself."""

    def digest(self) -> str:
        """64 hex digits of the content of all files, wherever they lie."""
        total = hashlib.sha256()
        for field in dc.fields(self):
            path: Path | None = getattr(self, field.name)
            if path is not None:
                with path.open("rb") as file:
                    total.update(field.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


@dc.dataclass(frozen=True)
class ModelRow:
    """One line of ``latentsync-ray models``."""

    name: str
    resolution: int
    found: str
    """Where it is on this machine; empty: it has to be fetched."""
    megabytes: int
    how_to_get: str
    licences: tuple[Licence, ...]


def models_folder() -> Path:
    """Where named models are looked for first: ``$LATENTSYNC_RAY_MODELS``, else a folder in the user's cache."""
    return Path(os.environ.get("LATENTSYNC_RAY_MODELS", "~/.cache/latentsync-ray/models")).expanduser()


def find_spec(name: str) -> ModelSpec:
    """What has to be known of a model before its weights: cheap, and without torch.

    Raises ConfigError for an unknown name, ModelError for a folder that does not describe its model.
    """
    if name in MODELS:
        return MODELS[name]
    if "://" not in name and not Path(name).is_dir():
        raise ConfigError(f"no model {name!r}: neither a folder nor one of {', '.join(MODELS)}")
    described = _gather([(name, {"description": (_DESCRIPTION,)})], [])
    known = MODELS.get(name.rstrip("/").rpartition("/")[2].partition("@")[0].lower())
    if described is None:
        if known is None:
            raise ModelError(
                f'{name} does not say what it is: put a {_DESCRIPTION} beside its weights, {{"resolution": 512}} for '
                'LatentSync 1.6 or {"resolution": 256} for 1.5'
            )
        return dc.replace(known, name=name, source=name)
    try:
        description = json.loads(described["description"].read_text(encoding="utf-8"))
        unknown = description.keys() - {"resolution", "unet"}
        resolution = int(description["resolution"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f'{_DESCRIPTION} of {name} must be of the form {{"resolution": 256, "unet": {{...}}}}') from error
    if unknown:
        raise ModelError(f"{_DESCRIPTION} of {name} has unknown keys {', '.join(sorted(unknown))}; known: resolution, unet")
    unet = UNetConfig.from_official(description["unet"]) if "unet" in description else UNetConfig()
    return ModelSpec(name, resolution, source=name, unet=unet)


def locate(spec: ModelSpec) -> ModelFiles:
    """The files of a model, fetched where needed.

    Raises WeightsNotFound, with every missing file, where to get it and where to put it.
    """
    _refuse_half(spec)
    own, own_vae, usual_vae = _candidates(spec)
    reasons: list[str] = []
    model = _gather(own, reasons)
    vae = _gather(own_vae + usual_vae, reasons)
    if model is None or vae is None:
        missing = _how_to_get(spec, model=model is None, vae=vae is None)
        raise WeightsNotFound("\n".join([f"no weights of {spec.name} on this machine", *reasons, missing]))
    return ModelFiles(**model, **vae)


def is_here(spec: ModelSpec) -> bool:
    """Whether a model's files can be had without a download from the hub."""
    if not spec.source:
        return True
    own, own_vae, usual_vae = _candidates(spec)
    return _choose(own, None) is not None and _choose(own_vae + usual_vae, None) is not None


def _refuse_half(spec: ModelSpec) -> None:
    """An incomplete folder is told: filled up from elsewhere, it would be a model that nobody put together."""
    folder = models_folder() / spec.name if spec.name in MODELS else Path(spec.source)
    inside = {role: tuple(f"vae/{name}" for name in names) for role, names in _VAE.items()}
    for layouts in (_MODEL, (inside,)):
        there = {name for roles in layouts for names in roles.values() for name in names if (folder / name).is_file()}
        lacking = [[names for names in roles.values() if not there.intersection(names)] for roles in layouts]
        if there and all(lacking):
            closest = min(zip(lacking, layouts, strict=True), key=lambda layout: len(layout[0]) / len(layout[1]))[0]
            missing = " and ".join(" or ".join(names) for names in closest)
            remedy = _how_to_get(spec, model=layouts is _MODEL, vae=layouts is not _MODEL)
            raise WeightsNotFound(
                f"{folder} holds {', '.join(sorted(there))}, but not {missing}; complete it, or move it away:\n{remedy}"
            )


def describe_models() -> list[ModelRow]:
    """The named models, and which of them are on this machine. Asks no network."""
    rows = []
    for spec in MODELS.values():
        found, missing = "needs no files", ""
        if spec.source:
            own, own_vae, usual_vae = _candidates(spec)
            model, vae = _gather(own), _gather(own_vae + usual_vae)
            found = str(model["unet"].parent) if model and vae else ""
            missing = _how_to_get(spec, model=model is None, vae=vae is None)
        rows.append(ModelRow(spec.name, spec.resolution, found, spec.megabytes, missing, spec.licences))
    return rows


_Candidates = list[tuple[str, _Roles]]


def _candidates(spec: ModelSpec) -> tuple[_Candidates, _Candidates, _Candidates]:
    """Where to look for the model, for a VAE of its own, and for the usual VAE."""
    places = [str(models_folder() / spec.name), spec.source] if spec.name in MODELS else [spec.source]
    inside = {role: tuple(f"vae/{name}" for name in names) for role, names in _VAE.items()}
    own = [(place, roles) for place in places for roles in _MODEL]
    return own, [(place, inside) for place in places], [(spec.vae, _VAE)]


def _gather(candidates: _Candidates, reasons: list[str] | None = None) -> dict[str, Path] | None:
    """The files of the first place that has all of its roles. With ``reasons``, which it fills, the hub is asked as well."""
    chosen = _choose(candidates, reasons)
    return None if chosen is None else {role: storage.fetch(file) for role, file in chosen.items()}


def _choose(candidates: _Candidates, reasons: list[str] | None) -> dict[str, str] | None:
    """Role -> path or URI in the first place that has all roles."""
    for online in (False,) if reasons is None else (False, True):
        unreachable: set[str] = set()
        for place, roles in candidates:
            if online and not place.startswith(_HUB):
                continue
            if online and place in unreachable:
                continue
            names = [name for alternatives in roles.values() for name in alternatives]
            try:
                files = _files(place, names, online=online)
            except (OSError, ValueError, ClipError) as error:
                if reasons is not None and (online or not place.startswith(_HUB)):
                    shown = place.partition("@")[0] if place.startswith(_HUB) else place
                    reason = f"{shown}: {str(error).strip().partition(chr(10))[0]}"
                    reasons += [reason] if reason not in reasons else []
                unreachable.add(place)
                continue
            chosen = {role: next((files[name] for name in names if name in files), "") for role, names in roles.items()}
            if all(chosen.values()):
                return chosen
    return None


def _files(place: str, names: Sequence[str], *, online: bool) -> dict[str, str]:
    """Those of ``names`` that ``place`` holds -> path or URI."""
    if place.startswith(_HUB):
        from huggingface_hub import constants, snapshot_download

        repository, _, revision = place.removeprefix(_HUB).partition("@")
        if online and not constants.HF_HUB_OFFLINE and storage.seen(f"{constants.ENDPOINT}/api/models/{repository}") is None:
            raise ConnectionError(f"{constants.ENDPOINT} does not answer")  # the download would ask for a minute and more
        # A model's own VAE comes with its weights: were it left for later, a usual one on disk would be taken in its place.
        patterns = [*names, *(f"vae/{name}" for name in _first_names(_VAE) if _UNET[0] in names)]
        place = snapshot_download(repository, revision=revision or None, allow_patterns=patterns, local_files_only=not online)
    paths = {name: storage.join(place, name) for name in names}
    return {name: path for name, path in paths.items() if storage.exists(path)}


def _how_to_get(spec: ModelSpec, *, model: bool, vae: bool) -> str:
    """Commands that bring the missing files to where they are looked for."""
    named = spec.name in MODELS
    folder = models_folder() / spec.name if named else spec.source
    wanted = []
    if model:
        wanted.append((spec.source, _first_names(_MODEL[0]), folder))
    if vae:
        wanted.append((spec.vae, _first_names(_VAE), f"{folder}/vae"))
    lines = []
    for place, files, into in wanted:
        repository, _, revision = place.removeprefix(_HUB).partition("@")
        if place.startswith(_HUB):
            version = f" --revision {revision}" if revision else ""
            into = f" --local-dir {into}" if named else ""
            lines.append(f"hf download {repository} {' '.join(files)}{version}{into}")
        else:
            lines.append(f"put {', '.join(files)} into {into}")
    return "\n".join(lines)


def _first_names(roles: _Roles) -> list[str]:
    return [names[0] for names in roles.values()]
