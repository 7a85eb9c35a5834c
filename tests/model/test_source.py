"""Finding a model's files, without network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from latentsync_ray.errors import ConfigError, ModelError, WeightsNotFound
from latentsync_ray.model import source
from latentsync_ray.model.options import UNetConfig
from latentsync_ray.model.source import ModelFiles, describe_models, find_spec, is_here, locate
from latentsync_ray.model.specs import MODELS

MODEL = ("latentsync_unet.pt", "whisper/tiny.pt")
VAE = ("diffusion_pytorch_model.safetensors", "config.json")


class Hub:
    """Hugging Face with these repositories: on this machine, or to be downloaded."""

    def __init__(self, root: Path) -> None:
        self.root, self.cached, self.online, self.asked = root, set[str](), set[str](), list[tuple]()
        self.probed = list[str]()

    def add(self, repository: str, *files: str, cached: bool) -> None:
        fill(self.root / repository, *files)
        (self.cached if cached else self.online).add(repository)

    def seen(self, uri: str) -> bool | None:
        repository = uri.partition("/api/models/")[2]
        self.probed.append(repository)
        return True if repository in self.online else None

    def snapshot_download(
        self, repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        self.asked.append((repository, revision, local_files_only))
        published, here = self.root / repository, self.root / "cache" / repository
        if repository in self.cached:
            return str(published)
        if repository in self.online and not local_files_only:
            for name in (name for name in allow_patterns if (published / name).exists()):
                fill(here, name)
                shutil.copy(published / name, here / name)
        if here.exists():
            return str(here)
        raise LocalEntryNotFoundError("no network here\nand more lines")


def fill(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(source.storage, "seen", hub.seen)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("LATENTSYNC_RAY_MODELS", str(tmp_path / "models"))
    return hub


def test_named_model_from_the_models_folder(tmp_path: Path, hub: Hub) -> None:
    folder = fill(tmp_path / "models/latentsync-1.5", *MODEL, *(f"vae/{name}" for name in VAE))
    files = locate(find_spec("latentsync-1.5"))
    assert files == ModelFiles(folder / MODEL[0], folder / MODEL[1], folder / "vae" / VAE[0], folder / "vae" / VAE[1])
    assert hub.asked == []


def test_what_is_on_disk_is_not_asked_of_the_network(tmp_path: Path, hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=True)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    assert locate(find_spec("latentsync-1.6")).unet == tmp_path / "hub/ByteDance/LatentSync-1.6/latentsync_unet.pt"
    assert all(offline for *_, offline in hub.asked)


def test_the_rest_is_downloaded(hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    assert locate(find_spec("latentsync-1.6")).whisper.read_text() == "whisper/tiny.pt"


def test_nothing_found_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound) as caught:
        locate(find_spec("latentsync-1.6"))
    folder = tmp_path / "models/latentsync-1.6"
    assert str(caught.value).splitlines() == [
        "no weights of latentsync-1.6 on this machine",
        "hf://ByteDance/LatentSync-1.6: https://huggingface.co does not answer",
        "hf://stabilityai/sd-vae-ft-mse: https://huggingface.co does not answer",
        f"hf download ByteDance/LatentSync-1.6 latentsync_unet.pt whisper/tiny.pt "
        f"--revision c42c7e6c8e9c213626389fa7d9a3c444b8536353 --local-dir {folder}",
        f"hf download stabilityai/sd-vae-ft-mse diffusion_pytorch_model.safetensors config.json "
        f"--revision 31f26fdeee1355a5c34592e401dd41e45d25a493 --local-dir {folder}/vae",
    ]


def test_a_hub_that_is_away_is_asked_once(hub: Hub) -> None:
    with pytest.raises(WeightsNotFound):
        locate(find_spec("latentsync-1.6"))
    assert sorted(set(hub.probed)) == ["ByteDance/LatentSync-1.6", "stabilityai/sd-vae-ft-mse"]
    assert all(offline for *_, offline in hub.asked)


def test_only_the_vae_missing(tmp_path: Path) -> None:
    fill(tmp_path / "models/latentsync-1.6", *MODEL)
    with pytest.raises(WeightsNotFound) as caught:
        locate(find_spec("latentsync-1.6"))
    assert "LatentSync-1.6 latentsync_unet.pt" not in str(caught.value)
    assert "hf download stabilityai/sd-vae-ft-mse" in str(caught.value)


def test_folder_in_transformers_layout(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    folder = fill(tmp_path / "mine", "unet.safetensors", "whisper/model.safetensors", "whisper/config.json")
    (folder / "latentsync.json").write_text('{"resolution": 256}')
    spec = find_spec(str(folder))
    assert (spec.resolution, spec.unet) == (256, UNetConfig())
    files = locate(spec)
    assert (files.unet.name, files.whisper.name) == ("unet.safetensors", "model.safetensors")
    assert files.whisper_config == folder / "whisper/config.json"
    assert files.vae == tmp_path / "hub/stabilityai/sd-vae-ft-mse" / VAE[0]


def test_folder_with_its_own_unet_options(tmp_path: Path) -> None:
    (tmp_path / "latentsync.json").write_text(json.dumps({"resolution": 128, "unet": {"cross_attention_dim": 64}}))
    spec = find_spec(str(tmp_path))
    assert (spec.resolution, spec.unet.audio_width, spec.unet.motion) == (128, 64, "none")


def test_folder_named_like_a_known_model(tmp_path: Path) -> None:
    folder = fill(tmp_path / "LatentSync-1.5", *MODEL)
    assert find_spec(f"{folder}/").resolution == 256
    with pytest.raises(WeightsNotFound, match="does not answer"):  # its VAE
        locate(find_spec(str(folder)))


def test_any_filesystem(hub: Hub) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    for name in MODEL:
        memory.pipe(f"/models/a/{name}", name.encode())
    memory.pipe("/models/a/latentsync.json", b'{"resolution": 512}')
    files = locate(find_spec("memory://models/a"))
    assert files.unet.read_text() == "latentsync_unet.pt"


def test_a_repository_at_a_revision(tmp_path: Path, hub: Hub) -> None:
    hub.add("me/own", "latentsync.json", *MODEL, *(f"vae/{name}" for name in VAE), cached=False)
    (tmp_path / "hub/me/own/latentsync.json").write_text('{"resolution": 256}')
    assert locate(find_spec("hf://me/own@v2")).unet == tmp_path / "hub/cache/me/own/latentsync_unet.pt"
    assert {revision for repository, revision, _ in hub.asked if repository == "me/own"} == {"v2"}
    assert find_spec("hf://ByteDance/LatentSync-1.5@abc").resolution == 256


def test_a_repositorys_own_vae_goes_before_the_usual_one(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    hub.add("me/LatentSync-1.5", *MODEL, *(f"vae/{name}" for name in VAE), cached=False)
    assert locate(find_spec("hf://me/LatentSync-1.5")).vae.is_relative_to(tmp_path / "hub/cache/me")


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"no model 'latentsync-9': neither a folder nor one of latentsync-1\.6"):
        find_spec("latentsync-9")


def test_a_folder_must_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'put a latentsync\.json beside its weights, {"resolution": 512}'):
        find_spec(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"resolution": "big"}'])
def test_a_broken_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "latentsync.json").write_text(text)
    with pytest.raises(ModelError, match=r"must be of the form"):
        find_spec(str(tmp_path))


def test_an_unknown_key_in_a_description(tmp_path: Path) -> None:
    (tmp_path / "latentsync.json").write_text('{"resolution": 256, "unets": {}}')
    with pytest.raises(ModelError, match="unknown keys unets; known: resolution, unet"):
        find_spec(str(tmp_path))


def test_listing_asks_no_network(tmp_path: Path, hub: Hub) -> None:
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    hub.add("ByteDance/LatentSync-1.5", *MODEL, *(f"vae/{name}" for name in VAE), cached=True)
    rows = {row.name: row for row in describe_models()}
    assert list(rows) == list(MODELS)
    assert rows["latentsync-1.5"].found == str(tmp_path / "hub/ByteDance/LatentSync-1.5")
    assert rows["latentsync-1.5"].how_to_get == ""
    assert rows["latentsync-1.6"].found == ""
    assert rows["latentsync-1.6"].how_to_get.count("hf download") == 2
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


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (["latentsync_unet.pt"], "whisper/tiny.pt or whisper/small.pt"),
        (["unet.safetensors", "whisper/model.safetensors"], "whisper/config.json"),
        ([*MODEL, "vae/config.json"], "vae/diffusion_pytorch_model.safetensors"),
    ],
)
def test_an_incomplete_folder_is_named_and_not_filled_up(files: list[str], lacks: str, tmp_path: Path, hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=True)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    folder = fill(tmp_path / "models/latentsync-1.6", *files)
    with pytest.raises(WeightsNotFound) as caught:
        locate(find_spec("latentsync-1.6"))
    first, command, *_ = str(caught.value).splitlines()
    assert first.startswith(f"{folder} holds ")
    assert f"but not {lacks}" in first
    assert command.startswith("hf download")


def test_whether_a_model_is_here_downloads_nothing(hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=True)
    assert not is_here(find_spec("latentsync-1.6"))
    assert is_here(find_spec("nano"))
    assert is_here(find_spec("tiny-random"))
    assert all(offline for *_, offline in hub.asked)
    locate(find_spec("latentsync-1.6"))
    assert is_here(find_spec("latentsync-1.6"))


def test_downloads_are_pinned(hub: Hub) -> None:
    hub.add("ByteDance/LatentSync-1.6", *MODEL, cached=False)
    hub.add("stabilityai/sd-vae-ft-mse", *VAE, cached=False)
    locate(find_spec("latentsync-1.6"))
    assert all(re.fullmatch("[0-9a-f]{40}", str(revision)) for _, revision, _ in hub.asked)
    assert {name for name, *_ in hub.asked} == {"ByteDance/LatentSync-1.6", "stabilityai/sd-vae-ft-mse"}


def test_every_part_of_every_model_has_a_licence_and_a_source() -> None:
    for row in describe_models():
        assert row.licences
        for licence in row.licences:
            assert licence.name
            assert licence.source or licence.name == "unknown"
