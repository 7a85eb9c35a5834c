"""Finding a model's files, without network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from latentsync_ray.errors import CheckpointMismatch, ConfigError, ModelError, WeightsNotFound
from latentsync_ray.faces.listing import describe_detectors
from latentsync_ray.models import hub as hub_module
from latentsync_ray.models.find import describe_models, find_model
from latentsync_ray.models.latentsync import source
from latentsync_ray.models.latentsync.family import LatentSyncInfo
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.source import ModelFiles, check_reachable, locate
from latentsync_ray.models.latentsync.specs import MODELS, PUBLISHED, ModelSpec, Published

MODEL = ("latentsync_unet.pt", "whisper/tiny.pt")
VAE = ("diffusion_pytorch_model.safetensors", "config.json")


def spec_of(name: str) -> ModelSpec:
    """What is known of the model of that name before its files."""
    info = find_model(name)
    assert isinstance(info, LatentSyncInfo)
    return info.spec


class Hub:
    """Hugging Face with these repositories: on this machine, or to be downloaded."""

    def __init__(self, root: Path) -> None:
        self.root, self.cached, self.online, self.asked = root, set[str](), set[str](), list[tuple]()

    def add(self, repository: str, *files: str, cached: bool) -> None:
        fill(self.root / repository, *files)
        (self.cached if cached else self.online).add(repository)

    def snapshot_download(
        self,
        repository: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        local_files_only: bool = False,
        local_dir: Path | None = None,
        tqdm_class: type | None = None,
    ) -> str:
        self.asked.append((repository, revision, local_files_only))
        published, here = self.root / repository, local_dir or self.root / "cache" / repository
        if repository in self.cached:
            return str(published)
        if repository in self.online and not local_files_only:
            for name in (name for name in allow_patterns if (published / name).exists()):
                fill(here, name)
                shutil.copy(published / name, here / name)
        if here.exists():
            return str(here)
        raise LocalEntryNotFoundError("no network here\nand more lines")

    def published_names(self, place: str) -> set[str]:
        repository, _ = hub_module.split_place(place)
        self.asked.append((repository, None, False))
        if repository not in self.online:
            raise LocalEntryNotFoundError("no network here\nand more lines")
        published = self.root / repository
        return {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}


def fill(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    for module in (hub_module, source):
        monkeypatch.setattr(module, "published_names", hub.published_names)
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path / "models"))
    for place in list(PUBLISHED):
        monkeypatch.setitem(PUBLISHED, place, {})  # files here hold nothing but their names
    return hub


def test_named_model_from_the_models_folder(tmp_path: Path, hub: Hub) -> None:
    folder = fill(tmp_path / "models/latentsync-1.5", *MODEL, *(f"vae/{name}" for name in VAE))
    files = locate(spec_of("latentsync-1.5"))
    assert files == ModelFiles(folder / MODEL[0], folder / MODEL[1], folder / "vae" / VAE[0], folder / "vae" / VAE[1])
    assert hub.asked == []


def test_what_is_on_disk_is_not_asked_of_the_network(tmp_path: Path, hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=True)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    assert locate(spec_of("latentsync-1.6")).unet == tmp_path / "hub/ByteDance/LatentSync-1.6/latentsync_unet.pt"
    assert all(offline for *_, offline in hub.asked)


def test_the_rest_is_downloaded(hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    assert locate(spec_of("latentsync-1.6")).whisper.read_text() == "whisper/tiny.pt"


def test_nothing_found_says_what_to_do(tmp_path: Path) -> None:
    spec = spec_of("latentsync-1.6")
    with pytest.raises(WeightsNotFound) as caught:
        locate(spec)
    folder, revisions = tmp_path / "models/latentsync-1.6", [place.partition("@")[2] for place in (spec.source, spec.vae)]
    assert str(caught.value).splitlines() == [
        "no weights of latentsync-1.6 on this machine",
        f"{spec.source}: no network here",
        "with network: latentsync-ray models download latentsync-1.6",
        "by hand, or for a machine without network:",
        "hf download ByteDance/LatentSync-1.6 latentsync_unet.pt whisper/tiny.pt "
        f"--revision {revisions[0]} --local-dir {folder}",
        "hf download stabilityai/sd-vae-ft-mse diffusion_pytorch_model.safetensors config.json "
        f"--revision {revisions[1]} --local-dir {folder}/vae",
    ]


def test_the_usual_vae_of_a_folder_is_fetched_only_on_demand(tmp_path: Path, hub: Hub) -> None:
    fill(tmp_path / "models/latentsync-1.6", *MODEL)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    with pytest.raises(WeightsNotFound) as caught:
        locate(spec_of("latentsync-1.6"))
    assert "latentsync-1.6 has no vae/, and the usual autoencoder is not on this machine" in str(caught.value)
    assert "latentsync-ray models download latentsync-1.6" in str(caught.value)
    assert "LatentSync-1.6 latentsync_unet.pt" not in str(caught.value)
    assert all(offline for *_, offline in hub.asked)
    said: list[str] = []
    files = locate(spec_of("latentsync-1.6"), complete=True, say=said.append)
    assert files.vae == tmp_path / "hub/cache/stabilityai/sd-vae-ft-mse" / VAE[0]
    assert said == ["latentsync-1.6: downloading from huggingface.co/stabilityai/sd-vae-ft-mse"]


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (MODEL[:1], MODEL[1:]),
        (MODEL[1:], MODEL[:1]),
        ((MODEL[0], "whisper/config.json"), ("whisper/model.safetensors",)),
        ((*MODEL, "vae/config.json"), (f"vae/{VAE[0]}",)),
        (tuple(f"vae/{name}" for name in VAE), MODEL),
    ],
)
def test_a_folder_that_lacks_files_is_named_and_not_completed(
    present: tuple[str, ...], missing: tuple[str, ...], tmp_path: Path, hub: Hub
) -> None:
    folder = fill(tmp_path / "models/latentsync-1.6", *present)
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=True)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    spec = spec_of("latentsync-1.6")
    for asked in (locate, check_reachable):
        with pytest.raises(WeightsNotFound) as caught:
            asked(spec)
        first, *rest = str(caught.value).splitlines()
        assert first.startswith(f"no weights of latentsync-1.6: {folder} holds {present[0]}")
        assert first.endswith(f" but not {', '.join(missing)}")
        assert rest[0] == "complete the folder: latentsync-ray models download latentsync-1.6"
        assert all(name.removeprefix("vae/") in "\n".join(rest) for name in missing)
        assert rest[-1] == f"or remove it, to have the model taken from {spec.source}"
    (row,) = [row for row in describe_models() if row.name == "latentsync-1.6"]
    assert (row.found, row.incomplete) == ("", str(caught.value))


def test_a_folder_is_completed_on_demand(tmp_path: Path, hub: Hub) -> None:
    folder = fill(tmp_path / "models/latentsync-1.6", MODEL[0], f"vae/{VAE[1]}")
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    files = locate(spec_of("latentsync-1.6"), complete=True)
    assert files == ModelFiles(folder / MODEL[0], folder / MODEL[1], folder / "vae" / VAE[0], folder / "vae" / VAE[1])


def test_a_folder_of_ones_own_that_lacks_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "LatentSync-1.5", MODEL[0])
    with pytest.raises(WeightsNotFound, match=f"holds {MODEL[0]} but not {MODEL[1]}\nput {MODEL[1]} into {folder}"):
        locate(spec_of(str(folder)))


def test_other_machines_find_a_name_on_the_hub(hub: Hub) -> None:
    spec = spec_of("latentsync-1.6")
    with pytest.raises(WeightsNotFound, match=r"LatentSync-1\.6@.*: no network here"):
        check_reachable(spec)
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    with pytest.raises(WeightsNotFound, match=r"sd-vae-ft-mse@.*: no network here"):
        check_reachable(spec)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    assert not check_reachable(spec)
    assert not (hub.root / "cache").exists(), "nothing was fetched"
    hub.cached |= hub.online
    assert check_reachable(spec)


def test_a_repository_without_the_files(hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", MODEL[0], cached=False)
    with pytest.raises(WeightsNotFound, match=r"the repository does not hold latentsync_unet\.pt, whisper/tiny\.pt"):
        check_reachable(spec_of("latentsync-1.6"))


def test_an_interrupted_copy_is_found_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("latentsync-1.6")
    folder = fill(tmp_path / "models/latentsync-1.6", *MODEL, *(f"vae/{name}" for name in VAE))
    monkeypatch.setitem(PUBLISHED, spec.source, {MODEL[0]: Published(99, "0" * 64)})
    with pytest.raises(CheckpointMismatch, match=rf"{folder / MODEL[0]} has 18 bytes, .* 99 \(interrupted download\?\)"):
        locate(spec)


def test_other_content_under_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("latentsync-1.6")
    fill(tmp_path / "models/latentsync-1.6", *MODEL, *(f"vae/{name}" for name in VAE))
    monkeypatch.setitem(PUBLISHED, spec.source, {MODEL[0]: Published(18, "0" * 64)})
    monkeypatch.setitem(PUBLISHED, spec.vae, {VAE[0]: Published(1, "0" * 64)})
    files = locate(spec)
    assert list(files.published) == ["unet"], "a vae/ of its own may be any"
    with pytest.raises(CheckpointMismatch, match="is not the file that was published under this model's name"):
        files.digest()


def test_what_is_downloaded_is_pinned() -> None:
    for spec in MODELS.values():
        for place in (spec.source, spec.vae):
            if place.startswith("hf://"):
                assert len(place.partition("@")[2]) == 40
                assert place in PUBLISHED


def test_terms_are_told_with_where_they_are_stated() -> None:
    rows = {row.name: {licence.part: licence for licence in row.licences} for row in describe_models()}
    assert rows["latentsync-1.5"]["weights"].terms == "openrail++"
    assert rows["latentsync-1.5"]["weights"].stated_at == "huggingface.co/ByteDance/LatentSync-1.5"
    assert "copy" in rows["latentsync-1.6"]["weights"].note
    for name in ("latentsync-1.6", "latentsync-1.5"):
        assert rows[name]["speech encoder"].terms == rows[name]["autoencoder"].terms == "MIT"
    detectors = {row.name: row for row in describe_detectors()}
    assert detectors["embedded"].found == "installed"
    assert detectors["insightface"].licences[0].terms == "non-commercial research only"


def test_folder_in_transformers_layout(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    folder = fill(tmp_path / "mine", "unet.safetensors", "whisper/model.safetensors", "whisper/config.json")
    (folder / "latentsync.json").write_text('{"resolution": 256}')
    spec = spec_of(str(folder))
    assert (spec.resolution, spec.unet) == (256, UNetConfig())
    files = locate(spec)
    assert (files.unet.name, files.whisper.name) == ("unet.safetensors", "model.safetensors")
    assert files.whisper_config == folder / "whisper/config.json"
    assert files.vae == tmp_path / "hub/stabilityai/sd-vae-ft-mse" / VAE[0]


def test_folder_with_its_own_unet_options(tmp_path: Path) -> None:
    (tmp_path / "latentsync.json").write_text(json.dumps({"resolution": 128, "unet": {"cross_attention_dim": 64}}))
    spec = spec_of(str(tmp_path))
    assert (spec.resolution, spec.unet.audio_width, spec.unet.motion) == (128, 64, "none")


def test_folder_named_like_a_known_model(tmp_path: Path) -> None:
    folder = fill(tmp_path / "LatentSync-1.5", *MODEL)
    assert spec_of(f"{folder}/").resolution == 256
    with pytest.raises(WeightsNotFound, match="has no vae/"):
        locate(spec_of(str(folder)))


def test_any_filesystem(hub: Hub) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    for name in MODEL:
        memory.pipe(f"/models/a/{name}", name.encode())
    memory.pipe("/models/a/latentsync.json", b'{"resolution": 512}')
    files = locate(spec_of("memory://models/a"))
    assert files.unet.read_text() == "latentsync_unet.pt"


def test_a_repository_at_a_revision(tmp_path: Path, hub: Hub) -> None:
    hub.add("me/own", "latentsync.json", *MODEL, *(f"vae/{name}" for name in VAE), cached=False)
    (tmp_path / "hub/me/own/latentsync.json").write_text('{"resolution": 256}')
    assert locate(spec_of("hf://me/own@v2")).unet == tmp_path / "hub/cache/me/own/latentsync_unet.pt"
    assert {revision for repository, revision, _ in hub.asked if repository == "me/own" and revision} == {"v2"}
    assert spec_of("hf://ByteDance/LatentSync-1.5@abc").resolution == 256


def test_a_repositorys_own_vae_goes_before_the_usual_one(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    hub.add("me/LatentSync-1.5", *MODEL, *(f"vae/{name}" for name in VAE), cached=False)
    assert locate(spec_of("hf://me/LatentSync-1.5")).vae.is_relative_to(tmp_path / "hub/cache/me")


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"no model 'latentsync-9': neither a folder nor one of latentsync-1\.6"):
        spec_of("latentsync-9")


def test_a_folder_must_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'put a latentsync\.json beside its weights, {"resolution": 512}'):
        spec_of(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"resolution": "big"}'])
def test_a_broken_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "latentsync.json").write_text(text)
    with pytest.raises(ModelError, match=r"must be of the form"):
        spec_of(str(tmp_path))


def test_an_unknown_key_in_a_description(tmp_path: Path) -> None:
    (tmp_path / "latentsync.json").write_text('{"resolution": 256, "unets": {}}')
    with pytest.raises(ModelError, match="unknown keys unets; known: resolution, unet"):
        spec_of(str(tmp_path))


def test_listing_asks_no_network(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    hub.add("ByteDance/LatentSync-1.5", *MODEL, *(f"vae/{name}" for name in VAE), cached=True)
    rows = {row.name: row for row in describe_models()}
    assert list(rows) == list(MODELS)
    assert rows["latentsync-1.5"].found == str(tmp_path / "hub/ByteDance/LatentSync-1.5")
    assert (rows["latentsync-1.5"].command, rows["latentsync-1.5"].by_hand) == ("", [])
    assert rows["latentsync-1.6"].found == ""
    assert [line.partition(" ")[0] for line in rows["latentsync-1.6"].by_hand] == ["hf", "hf"]
    assert rows["tiny-random"].found == "needs no files"
    assert all(offline for *_, offline in hub.asked)


def test_digest_is_content_not_place(tmp_path: Path) -> None:
    def files(folder: str) -> ModelFiles:
        root = fill(tmp_path / folder, "a", "b", "c", "d")
        return ModelFiles(root / "a", root / "b", root / "c", root / "d")

    assert files("x").digest() == files("y").digest()
    changed = files("z")
    changed.unet.write_text("other")
    assert changed.digest() != files("x").digest()


def test_weights_are_hashed_once_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "unet.pt"
    weights.write_bytes(b"weights")
    files = ModelFiles(weights, weights, weights, weights)
    digest, asked = files.digest(), []
    monkeypatch.setattr(source, "_hashed", lambda path: asked.append(path) or "00" * 32)
    assert ModelFiles(weights, weights, weights, weights).digest() == digest
    assert asked == []
    weights.write_bytes(b"others, and longer")
    assert files.digest() != digest
    assert asked == [weights]
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", "/dev/null/no-folder")
    files.digest()
    assert asked == [weights] * 5, "without a cache, each of the four files anew"
