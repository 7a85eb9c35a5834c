"""A signed clip: what it says, what it does not, and that the signature changes nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from certificates import Chain, make_chain
from cutting import cut

from latentsync_ray import Job, assets, redact
from latentsync_ray.config import Recipe
from latentsync_ray.errors import ConfigError, NotSigned
from latentsync_ray.marking import Signing
from latentsync_ray.media.provenance import provenance_of
from latentsync_ray.media.signing import Identity, Ingredient, sign_file
from latentsync_ray.media.xmp import SOURCE_TYPE
from latentsync_ray.sinks.mp4 import Mp4Sink
from latentsync_ray.stages.join import Join, steps
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import ClipRecord, FaceCrops, GeneratedFaces, Pair

RECIPE = Recipe(model="nano", detector="embedded", segment_frames=1024, preset="ultrafast")
SECRET = "a8f3c0ffee11"
CONSENT = f"https://forms.test/17?sig={SECRET}"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def source(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with credentials of its own."""
    path = tmp_path_factory.mktemp("private-folder") / "private-name.mp4"
    identity = Identity(certificates=chain.certificates.read_bytes(), key=chain.key.read_bytes())
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["tape"]}}
    manifest = {
        "claim_generator_info": [{"name": "camera", "version": "1"}],
        "title": "tape",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [opened]}}],
    }
    tape = Ingredient(said={"title": "tape", "relationship": "parentOf", "label": "tape", "instance_id": "x"})
    sign_file(assets.demo_video(), path, identity, manifest, [tape])
    return path


@pytest.fixture(scope="module")
def segments(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[FaceCrops]:
    pair = Pair(clip_id="a", video=str(source), audio=str(assets.demo_audio()), language="de", consent=CONSENT)
    return cut(Plan(RECIPE, str(tmp_path_factory.mktemp("plan")))(pair), RECIPE)


@pytest.fixture(autouse=True)
def _forget_secrets() -> Iterator[None]:
    known = set(redact._hidden)
    yield
    redact._hidden.intersection_update(known)


def joined(segments: list[FaceCrops], output: Path, signing: Signing | None) -> ClipRecord:
    paste = Paste(RECIPE, str(output))
    parts = [paste(GeneratedFaces.of(each, faces=np.full_like(each.faces, 128), checkpoint="c")) for each in segments]
    return Join(RECIPE, str(output), Mp4Sink(str(output)), steps=steps(signing))(parts)


def test_a_signed_clip_says_of_what_it_was_made(segments: list[FaceCrops], source: Path, chain: Chain, tmp_path: Path) -> None:
    plain = joined(segments, tmp_path / "plain", None)
    signed = [joined(segments, tmp_path / name, chain.signing) for name in ("one", "two")]
    assert {each.content_sha256 for each in (plain, *signed)} == {plain.sha256}
    assert len({each.sha256 for each in (plain, *signed)}) == 3, "a signature has its time, and is drawn"
    assert [each.signed_by for each in (plain, *signed)] == [None, "Test Studio", "Test Studio"]
    assert {each.consent for each in (plain, *signed)} == {"https://forms.test/17?***"}

    file = Path(str(signed[0].output))
    told = provenance_of(file, anchors=chain.authority.read_text())
    assert (told["credentials"], told["problems"]) == ("Trusted", [])
    assert told["xmp"] == provenance_of(Path(str(plain.output)))["xmp"]
    assert [each["action"] for each in told["actions"]] == ["c2pa.opened", "c2pa.placed", "c2pa.edited"]
    assert told["actions"][2]["digitalSourceType"] == SOURCE_TYPE
    assert sorted((each["title"], each["sha256"], each["credentials"]) for each in told["ingredients"]) == [
        ("source video", plain.video_sha256, "Valid"),
        ("speech", plain.audio_sha256, None),
    ]
    made = told["assertions"]["io.github.latentsync-ray.dub"]
    assert (made["model"], made["recipe"], made["seed"]) == ("nano", plain.recipe, plain.seed)
    assert (made["language"], made["consent"]) == ("de", "https://forms.test/17?***")

    content = file.read_bytes()
    key = chain.key.read_text().splitlines()[1]
    private = (SECRET, str(tmp_path), str(source.parent), source.stem, assets.demo_audio().name, key, str(chain.key))
    assert not [each for each in private if each.encode() in content]
    content_of_plain = Path(str(plain.output)).read_bytes()
    assert not [each for each in private if each.encode() in content_of_plain]


def test_an_altered_clip_is_found_out(segments: list[FaceCrops], chain: Chain, tmp_path: Path) -> None:
    file = Path(str(joined(segments, tmp_path, chain.signing).output))
    content = bytearray(file.read_bytes())
    content[-5000] ^= 1
    file.write_bytes(content)
    assert provenance_of(file)["credentials"] == "Invalid"


def test_nothing_is_published_that_could_not_be_signed(segments: list[FaceCrops], chain: Chain, tmp_path: Path) -> None:
    unreachable = chain.signing.model_copy(update={"time_authority": f"http://127.0.0.1:9/?key={SECRET}"})
    with pytest.raises(NotSigned, match="could not be signed") as failed:
        joined(segments, tmp_path, unreachable)
    assert SECRET not in str(failed.value)
    assert not list(tmp_path.rglob("clips/*.mp4"))
    assert list((tmp_path / "_work").rglob("*.mp4")), "its parts are for the next run"


def test_a_trial_tells_what_would_not_hold(chain: Chain, tmp_path: Path) -> None:
    check_signing(chain.signing)
    ended, other = make_chain(tmp_path / "ended", days=-1), make_chain(tmp_path / "other")
    for wrong, told in (
        (ended.signing, "signatures that do not hold|signing does not work"),
        (Signing(certificates=str(chain.certificates), key=str(other.key)), "signatures that do not hold"),
        (Signing(certificates=str(chain.certificates), key=str(tmp_path / "none.pem")), "signing.key cannot be read"),
        (Signing(certificates=str(chain.certificates), key=str(chain.authority)), "signing does not work"),
        (Signing(certificates=str(chain.certificates), signer="nobody:sign"), "cannot be imported"),
    ):
        with pytest.raises(ConfigError, match=told):
            check_signing(wrong)


def test_a_job_signs_by_a_key_or_by_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"manifest": "pairs.csv", "output": "out"}
    job = Job.model_validate({**fields, "signing": {"certificates": "chain.pem", "key": "s3://keys/key.pem"}})
    assert job.signing
    assert (job.signing.certificates, job.signing.key) == (str(tmp_path / "chain.pem"), "s3://keys/key.pem")
    for wrong in ({"certificates": "chain.pem"}, {"certificates": "c", "key": "k", "signer": "a:b"}):
        with pytest.raises(ValueError, match="either key or signer"):
            Job.model_validate({**fields, "signing": wrong})


def test_how_a_job_shows_tells_no_secret() -> None:
    signing = Signing(
        certificates=f"https://me:{SECRET}@host/chain.pem",
        key=f"https://host/key.pem?X-Amz-Signature={SECRET}",
        time_authority=f"https://me:{SECRET}@clock/",
    )
    assert SECRET not in repr(signing) + str(signing)
    assert signing.key
    assert SECRET in signing.key
    assert "signer='my_keys:sign'" in repr(Signing(certificates="/chain.pem", signer="my_keys:sign"))


def test_a_signed_file_still_plays(segments: list[FaceCrops], chain: Chain, tmp_path: Path) -> None:
    import av

    record = joined(segments, tmp_path, chain.signing)
    shutil.copy(str(record.output), tmp_path / "copy.mp4")
    with av.open(tmp_path / "copy.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == record.frames
