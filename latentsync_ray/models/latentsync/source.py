"""Where a model's files are: a name in ``MODELS``, a folder, any fsspec URI or a Hugging Face repository.

A folder holds ``latentsync_unet.pt`` (or ``.safetensors``, or ``unet.*``), ``whisper/tiny.pt`` (OpenAI) or ``whisper/`` in
transformers' layout, ``vae/`` in diffusers' layout (else the usual VAE is taken) and, unless it is named like a known model,
``latentsync.json``: ``{"resolution": 256, "unet": {the official model section}}``, where "unet" may be left out for the options
of 1.5 and 1.6. Knows files and names, no torch. What is on disk is used without asking the network, and a folder that holds
only some of its files is refused rather than completed from elsewhere.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from latentsync_ray import redact, storage
from latentsync_ray.cache import cached
from latentsync_ray.errors import CheckpointMismatch, ClipError, ConfigError, ModelError, WeightsNotFound
from latentsync_ray.layout import join
from latentsync_ray.models.hub import HUB, cached_snapshot, download, hub_errors, page, published_names, size
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.remedies import incomplete_folder, nothing_found, published_bytes
from latentsync_ray.models.latentsync.specs import MODELS, PUBLISHED, ModelSpec, Published

__all__ = ["HINT", "ModelFiles", "Survey", "check_reachable", "find_spec", "locate", "models_folder", "survey"]

_DESCRIPTION = "latentsync.json"
HINT = f'put a {_DESCRIPTION} beside its weights, {{"resolution": 512}} for LatentSync 1.6 or {{"resolution": 256}} for 1.5'
"""What makes a folder a model of this family."""

_Roles = Mapping[str, tuple[str, ...]]
"""What is needed -> the names it may have, best first."""

_UNET = tuple(f"{stem}.{kind}" for stem in ("latentsync_unet", "unet") for kind in ("pt", "safetensors"))
_MODEL: tuple[_Roles, ...] = (
    {"unet": _UNET, "whisper": ("whisper/tiny.pt", "whisper/small.pt")},
    {"unet": _UNET, "whisper": ("whisper/model.safetensors",), "whisper_config": ("whisper/config.json",)},
)
_VAE: _Roles = {"vae": ("diffusion_pytorch_model.safetensors",), "vae_config": ("config.json",)}
_OWN_VAE: _Roles = {role: tuple(f"vae/{name}" for name in names) for role, names in _VAE.items()}


@dc.dataclass(frozen=True)
class ModelFiles:
    """A model's files, all on this machine."""

    unet: Path
    whisper: Path
    vae: Path
    vae_config: Path
    whisper_config: Path | None = None
    """For transformers' layout; OpenAI's file says it itself."""
    published: Mapping[str, Published] = dc.field(default_factory=dict, compare=False)
    """Role -> what the file has to be, for those that bear the name of a published model."""

    def digest(self) -> str:
        """64 hex digits of the content of all files, wherever they lie.

        Raises CheckpointMismatch, naming the file, when one is not what was published under the model's name.
        """
        total = hashlib.sha256()
        for role, path in self._paths().items():
            found = _sha256(path)
            if role in self.published and found != self.published[role].sha256:
                raise CheckpointMismatch(
                    f"{path} is not the file that was published under this model's name: its SHA-256 is {found}, "
                    f"not {self.published[role].sha256}. If it is damaged, remove it and fetch it again; weights of your own "
                    "go into a folder of their own, which recipe.model names by its path"
                )
            total.update(role.encode() + bytes.fromhex(found))
        return total.hexdigest()

    def check_sizes(self) -> None:
        """Raise CheckpointMismatch when a published file has not its published size: an interrupted copy, found in no time."""
        for role, path in self._paths().items():
            size = path.stat().st_size
            if role in self.published and size != self.published[role].bytes:
                raise CheckpointMismatch(
                    f"{path} has {size} bytes, and the file published under this model's name {self.published[role].bytes} "
                    "(interrupted download?): remove it and fetch it again"
                )

    def _paths(self) -> dict[str, Path]:
        return {field.name: path for field in dc.fields(self) if isinstance(path := getattr(self, field.name), Path)}


@dc.dataclass(frozen=True)
class Survey:
    """What there is of a model without a download: on this machine, or in the folder or URI that the model is."""

    model: Mapping[str, str]
    """Role -> path or URI; empty when there is no model."""
    vae: Mapping[str, str]
    place: str
    """Where the model is, or what holds only some of its files; empty when there is neither."""
    own_vae: bool
    present: Sequence[str] = ()
    missing: Sequence[str] = ()
    """Of a place that is incomplete: the names it has, and those it lacks."""
    reasons: Sequence[str] = ()
    """What went wrong at places that could not be looked into."""

    @property
    def complete(self) -> bool:
        """Whether all files are there."""
        return bool(self.model and self.vae)


def models_folder() -> Path:
    """Where named models are looked for first: ``$LATENTSYNC_RAY_MODELS``, else a folder in the user's cache."""
    return Path(os.environ.get("LATENTSYNC_RAY_MODELS", "~/.cache/latentsync-ray/models")).expanduser()


def find_spec(name: str) -> ModelSpec | None:
    """What has to be known of the model of that name, or in that folder or URI, before its weights: cheap, and without torch.

    None when there is no model of this family. Raises ModelError for a folder that does not describe its model rightly.
    """
    if name in MODELS:
        return MODELS[name]
    if "://" not in name and not Path(name).is_dir():
        return None
    described = _description(name)
    known = MODELS.get(name.rstrip("/").rpartition("/")[2].partition("@")[0].lower())
    if described is None:
        return known and dc.replace(known, name=name, source=name)
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
        unknown = description.keys() - {"resolution", "unet"}
        resolution = int(description["resolution"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f'{_DESCRIPTION} of {name} must be of the form {{"resolution": 256, "unet": {{...}}}}') from error
    if unknown:
        raise ModelError(f"{_DESCRIPTION} of {name} has unknown keys {', '.join(sorted(unknown))}; known: resolution, unet")
    unet = UNetConfig.from_official(description["unet"]) if "unet" in description else UNetConfig()
    return ModelSpec(name, resolution, source=name, unet=unet)


def survey(spec: ModelSpec) -> Survey:
    """What there is of a model's files without a download. Asks no hub, but looks into the folder or URI that a model is."""
    reasons: list[str] = []
    for place in [str(models_folder() / spec.name), spec.source] if spec.name in MODELS else [spec.source]:
        model, vae = _look(place, *_MODEL, reasons=reasons), _look(place, _OWN_VAE, reasons=reasons)
        if not model.present and not vae.present:
            continue
        if model.files and (vae.files or not vae.present):
            usual = vae.files or _look(spec.vae, _VAE, reasons=reasons).files
            return Survey(model.files, usual, place, bool(vae.files), reasons=reasons)
        if not place.startswith(HUB):  # where a download broke off, the next one goes on
            missing = [*(model.missing if not model.files else ()), *(vae.missing if vae.present and not vae.files else ())]
            return Survey({}, {}, place, bool(vae.present), [*model.present, *vae.present], missing, reasons)
    return Survey({}, _look(spec.vae, _VAE, reasons=reasons).files, "", False, reasons=reasons)


def locate(
    spec: ModelSpec, *, say: Callable[[str], None] | None = None, bar: bool = False, complete: bool = False
) -> ModelFiles:
    """The files of a model, fetched where needed. ``say`` is told of downloads, unless a ``bar`` shows them (see ``download``).

    A folder that lacks files is left as it is, and the usual VAE of a model in a folder is taken from this machine only;
    ``complete`` fetches both. Raises WeightsNotFound, with every missing file, where to get it and where to put it, and
    CheckpointMismatch when a file has not the size of the published one.
    """
    found = survey(spec)
    if found.missing and not (complete and spec.name in MODELS):
        raise _incomplete(spec, found)
    if not found.complete and (complete or not found.place or found.place.startswith(HUB)):
        reasons = _fetch(spec, found, say=say, bar=bar)
        found = survey(spec)
        found = dc.replace(found, reasons=[*found.reasons, *reasons])
    if found.missing:
        raise _incomplete(spec, found)
    if not found.complete:
        raise _missing(spec, found)
    wanted = {**found.model, **found.vae}
    if say and any(storage.is_remote(uri) for uri in wanted.values()):
        say(f"fetching {spec.name} into this machine's cache, unless it is there")
    files = ModelFiles(**{role: storage.fetch(uri) for role, uri in wanted.items()}, published=_published(spec, found))
    files.check_sizes()
    return files


def check_reachable(spec: ModelSpec) -> bool:
    """Make sure that other machines can find the model too; whether this one has it. Raises WeightsNotFound."""
    found = survey(spec)
    if found.missing:
        raise _incomplete(spec, found)
    if found.complete:
        return True
    reasons = list(found.reasons)
    for place, roles, there in ((spec.source, _MODEL, found.model), (spec.vae, (_VAE,), found.vae)):
        if there or (place == spec.vae and not found.model and not reasons and _has(spec.source, (_OWN_VAE,), reasons)):
            continue
        if not _has(place, roles, reasons):
            raise _missing(spec, dc.replace(found, reasons=reasons))
    return False


@dc.dataclass(frozen=True)
class _Found:
    files: Mapping[str, str]
    """Role -> path or URI of a layout whose roles are all there; empty when none is."""
    present: Sequence[str]
    missing: Sequence[str]


def _look(place: str, *layouts: _Roles, reasons: list[str]) -> _Found:
    """Which of the layouts ``place`` holds; of one that is incomplete, what is there and what is not."""
    best = _Found({}, (), ())
    for roles in layouts:
        names = _names(roles)
        try:
            root = str(cached_snapshot(place, [*names, *_names(_OWN_VAE)]) or "") if place.startswith(HUB) else place
            there = {name: uri for name in names if root and storage.exists(uri := join(root, name))}
        except (OSError, ValueError, ClipError) as error:
            reason = f"{redact.shown(place)}: {str(error).strip().partition(chr(10))[0]}"
            reasons += [reason] if reason not in reasons else []
            continue
        chosen = {role: next((name for name in names if name in there), "") for role, names in roles.items()}
        present = [name for name in chosen.values() if name]
        if all(chosen.values()):
            return _Found({role: there[name] for role, name in chosen.items()}, present, ())
        if not best.missing or len(present) > len(best.present):
            best = _Found({}, present, [names[0] for role, names in roles.items() if not chosen[role]])
    return best


def _has(place: str, layouts: Sequence[_Roles], reasons: list[str]) -> bool:
    """Whether the hub has all files of one of the layouts; what is against it goes to ``reasons``."""
    if not place.startswith(HUB):
        return False
    try:
        names = published_names(place)
    except hub_errors() as error:
        reasons.append(f"{place}: {str(error).strip().partition(chr(10))[0]}")
        return False
    if any(all(names & set(alternatives) for alternatives in roles.values()) for roles in layouts):
        return True
    reasons.append(f"{place}: the repository does not hold {', '.join(_first_names(layouts[0]))}")
    return False


def _fetch(spec: ModelSpec, found: Survey, *, say: Callable[[str], None] | None, bar: bool) -> list[str]:
    """Download what is missing; what went wrong, a line for each place."""
    reasons: list[str] = []
    folder = Path(found.place) if found.missing else None
    own = [name for name in found.missing if name.startswith("vae/")]
    wanted: list[tuple[str, list[str], Path | None]] = []
    if folder and set(found.missing) - set(own):
        wanted.append((spec.source, [name for name in found.missing if name not in own], folder))
    if folder and own:
        wanted.append((spec.vae, [name.removeprefix("vae/") for name in own], folder / "vae"))
    if not folder and not found.model and spec.source.startswith(HUB):
        # A model's own VAE comes with its weights: were it left for later, a usual one on disk would be taken in its place.
        wanted.append((spec.source, [*dict.fromkeys(name for roles in (*_MODEL, _OWN_VAE) for name in _names(roles))], None))
    for place, names, into in wanted:
        reasons += _brought(spec, place, names, into, say=say, bar=bar)
    if not reasons and not (rest := survey(spec)).vae and not rest.missing:
        reasons += _brought(spec, spec.vae, _names(_VAE), None, say=say, bar=bar)
    return reasons


def _brought(
    spec: ModelSpec, place: str, names: Sequence[str], into: Path | None, *, say: Callable[[str], None] | None, bar: bool
) -> list[str]:
    if say:
        known = published_bytes(place, names)
        say(
            f"{spec.name}: downloading {f'{size(known)} ' if known else ''}from {page(place)}"
            + (f" into {into}" if into else "")
        )
    try:
        download(place, names, into=into, say=say, bar=bar)
    except hub_errors() as error:
        return [f"{place}: {str(error).strip().partition(chr(10))[0]}"]
    return []


def _incomplete(spec: ModelSpec, found: Survey) -> WeightsNotFound:
    return WeightsNotFound(incomplete_folder(spec, found.place, present=found.present, missing=found.missing))


def _missing(spec: ModelSpec, found: Survey) -> WeightsNotFound:
    folder = str(models_folder() / spec.name) if spec.name in MODELS else spec.source
    return WeightsNotFound(nothing_found(spec, folder, model=not found.model, vae=not found.vae, reasons=found.reasons))


def _published(spec: ModelSpec, found: Survey) -> dict[str, Published]:
    """Role -> what was published, for the files under a model's own name and the usual VAE."""
    known = dict(PUBLISHED.get(spec.source, {}))
    roles = {role: (uri, known) for role, uri in found.model.items()}
    if not found.own_vae:
        roles |= {role: (uri, dict(PUBLISHED.get(spec.vae, {}))) for role, uri in found.vae.items()}
    return {role: files[name] for role, (uri, files) in roles.items() for name in files if uri.endswith(f"/{name}")}


def _sha256(path: Path) -> str:
    """Hash of a file's content, hex. Gigabytes are read once per machine, and again when the file's size or time changes."""
    facts = path.stat()
    which = json.dumps([str(path.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ino])
    try:
        noted = cached(f"{hashlib.sha256(which.encode()).hexdigest()[:32]}.sha256", lambda draft: _note(_hashed(path), draft))
        return noted.read_text(encoding="ascii")
    except (ConfigError, ClipError, FileNotFoundError):  # no folder or no room to note it in, or somebody emptied it
        return _hashed(path)


def _note(text: str, path: Path) -> None:
    path.write_text(text, encoding="ascii")


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _description(place: str) -> Path | None:
    """The model's own account of itself, as a file on this machine."""
    try:
        if not place.startswith(HUB):
            uri = join(place, _DESCRIPTION)
            return storage.fetch(uri) if storage.exists(uri) else None
        root = cached_snapshot(place, [_DESCRIPTION])
        if root is None or not (root / _DESCRIPTION).exists():
            root = download(place, [_DESCRIPTION])
    except ClipError:
        return None
    except hub_errors():
        return None
    return root / _DESCRIPTION if (root / _DESCRIPTION).exists() else None


def _names(roles: _Roles) -> list[str]:
    return [name for alternatives in roles.values() for name in alternatives]


def _first_names(roles: _Roles) -> list[str]:
    return [names[0] for names in roles.values()]
