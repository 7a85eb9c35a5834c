"""The training of the small model: what it starts from, what it is fed, and that a run goes on and ends in a model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fractions import Fraction
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from make_demo_clip import NEW_TEXT, NEW_VOICE, OWN_TEXT, OWN_VOICE
from torch.multiprocessing.spawn import ProcessRaisedException
from train_pair import regress

from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech
from latentsync_ray.models.latentsync.audio import step_indices
from latentsync_ray.models.latentsync.model import load_model
from latentsync_ray.models.latentsync.options import WhisperSize
from latentsync_ray.models.latentsync.specs import WINDOW
from latentsync_ray.models.latentsync.whisper import build_encoder, speech_features
from latentsync_ray.models.mel import audio_step_count, log_mel_peak, mel_window
from latentsync_ray.nano.portrait import read_aperture, sound_curves
from latentsync_ray.nano.training.listen import features, slot_frames
from latentsync_ray.nano.training.loop import train
from latentsync_ray.nano.training.pictures import MOUTHS, draw_scene, load_scenes, render_scene, save_scenes
from latentsync_ray.nano.training.speech import HELD_OUT, SENTENCES, VOICES, Track
from latentsync_ray.nano.training.start import start_local
from latentsync_ray.nano.training.together import beside, together
from latentsync_ray.nano.training.vary import heard, varied

ROOT = Path(__file__).resolve().parent.parent.parent


def test_nothing_that_is_measured_with_is_learned_from() -> None:
    learned = {sentence for sentences in SENTENCES.values() for sentence in sentences}
    demo = ((OWN_VOICE, OWN_TEXT), (NEW_VOICE, NEW_TEXT))
    for voice, sentence in (*HELD_OUT, *demo):
        assert voice.partition("+")[2] not in VOICES
        assert sentence not in learned


def test_two_processes_train_as_one_with_both_batches(tmp_path: Path) -> None:
    together(regress, tmp_path / "both.pt", folder=tmp_path, processes=2)
    both = torch.load(tmp_path / "both.pt", weights_only=True)["network"]
    alone = regress(tmp_path / "alone.pt", draws=2)
    once = torch.load(tmp_path / "alone.pt", weights_only=True)["network"]
    assert all(torch.allclose(both[name], once[name], atol=1e-5) for name in once)
    half = regress(tmp_path / "half.pt").state_dict()
    assert not torch.allclose(half["weight"], alone.state_dict()["weight"], atol=1e-3), "one batch is something else"


@pytest.mark.slow
def test_a_process_that_fails_ends_all(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="nowhere"):
        together(regress, tmp_path / "nowhere" / "x.pt", folder=tmp_path, processes=2)


@pytest.mark.slow
def test_what_runs_beside_ends_with_what_it_runs_beside(tmp_path: Path) -> None:
    with beside(regress, tmp_path / "beside.pt"):
        regress(tmp_path / "here.pt")
    here, there = (torch.load(tmp_path / name, weights_only=True)["network"] for name in ("here.pt", "beside.pt"))
    assert all(torch.equal(here[name], there[name]) for name in here)
    with pytest.raises(ProcessRaisedException, match="nowhere"), beside(regress, tmp_path / "nowhere" / "x.pt"):
        pass
    with pytest.raises(ZeroDivisionError), beside(regress, tmp_path / "late.pt", 1, 10**9):
        raise ZeroDivisionError
    assert not active_children(), "it would train on, into the same file"


def test_all_steps_of_a_frame_agree_on_its_slot() -> None:
    slots = slot_frames(600)
    steps = step_indices(8, 590, Fraction(25), 1500)
    for frame, seen in enumerate(steps, start=8):
        assert (slots[seen, frame % 8] == frame).all()
    assert (slots[:, 3] % 8 == 3)[:1100].all()


def test_the_encoder_starts_by_looking_near_and_at_its_slots() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(WhisperSize(width=96, heads=8, layers=3))
    start_local(encoder, 8)
    encoder.set_attn_implementation("eager")
    mel = 0.3 * torch.randn(1, 80, 3000)
    with torch.inference_mode():
        layers = encoder.eval()(mel, output_attentions=True).attentions
    at = torch.arange(100, 1400)
    for layer, offsets in ((0, (-2, -1, 1, 2)), (1, (-6, -4, -2, 0, 2, 4, 6))):
        for head, offset in enumerate(offsets):
            off = layers[layer][0, head, 100:1400].argmax(dim=1) - at - offset
            assert (off.abs() <= 2).float().mean() > 0.9
            assert (off == 0).float().mean() > 0.6
    looked = layers[2][0, :, 100:1400].argmax(dim=2)
    for head in range(8):
        away = ((looked[head] - 2 * head - 1 + 8) % 16 - 8).abs()
        assert (away <= 1).float().mean() > 0.8, "at the middle of its own slot"
        assert (away == 0).float().mean() > 0.5
        assert ((looked[head] - at).abs() <= 14).float().mean() > 0.8, "and near"


def test_part_of_a_window_is_heard_as_in_the_whole() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(WhisperSize(width=64, heads=2, layers=2)).eval()
    mel = torch.randn(80, 3000)
    with torch.inference_mode():
        assert torch.equal(features(encoder, mel, 0), speech_features(encoder, mel))
        late = features(encoder, mel[:, :400], 96)
    assert late.shape == (200, 3, 64)
    assert not torch.allclose(late, speech_features(encoder, mel)[:200]), "where it stands matters"


@pytest.fixture(scope="module")
def spoken(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """A sentence, float at 16 kHz."""
    raw = tmp_path_factory.mktemp("speech") / "speech.raw"
    decode_speech(golden / "speech" / "0-en-us-f5.flac", raw, max_seconds=60)
    return np.array(read_speech(raw)) / 32768


def as_track(samples: np.ndarray) -> Track:
    sound = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
    return Track(
        mel=mel_window(sound, 0, log_mel_peak(sound)),
        sound=np.stack(sound_curves(samples, SAMPLE_RATE), axis=1).astype(np.float32),
        steps=audio_step_count(len(sound)),
    )


def test_the_spectrum_tells_how_the_mouth_would_change(spoken: np.ndarray) -> None:
    hertz = np.fft.rfftfreq(len(spoken), 1 / SAMPLE_RATE)
    gain = 10 ** (np.interp(hertz, [0, 400, 1500, 4000, 8000], [-6, 6, -10, 4, 0]) / 20)
    other = 0.4 * np.fft.irfft(np.fft.rfft(spoken) * gain, len(spoken))
    before, after = as_track(spoken), as_track(other)
    told = heard(after.mel, len(after.sound)) - heard(before.mel, len(before.sound))
    loud = before.curves[:, 0] > 0.1
    off = (told - (after.sound - before.sound))[loud]
    assert np.abs(after.sound - before.sound)[loud, 0].mean() > 5, "it is another sound"
    assert np.sqrt(np.mean(off[:, 0] ** 2)) < 0.5, "dB"
    assert np.sqrt(np.mean(off[:, 1] ** 2)) < 60, "Hz"


def test_a_varied_track_keeps_its_place_and_its_silence(spoken: np.ndarray) -> None:
    track, draw = as_track(spoken), np.random.default_rng(0)
    sounding = track.mel.any(axis=0)
    others = [varied(track, draw) for _ in range(20)]
    for other in others:
        assert (other.mel.any(axis=0) == sounding).all()
        assert other.mel.max() - other.mel[:, sounding].min() <= 2.0001, "80 dB"
        assert np.corrcoef(other.curves[:, 0], track.curves[:, 0])[0, 1] > 0.7
    assert len({other.curves.tobytes() for other in others}) > 10, "most are wanted otherwise"
    silent = as_track(np.zeros(SAMPLE_RATE))
    assert varied(silent, draw) is silent


@pytest.mark.slow
def test_scenes_go_on_where_they_were(tmp_path: Path) -> None:
    curves = np.random.default_rng(4).uniform(0, 1, (40, 2)).astype(np.float32)
    tracks = [Track(mel=np.zeros((80, 3000), np.float16), sound=curves, steps=80)] * MOUTHS
    path, done = tmp_path / "scenes.npy", tmp_path / "scenes.done"
    save_scenes(path, tracks, 2, resolution=32)
    whole = np.load(path)
    assert whole.any(axis=(1, 2, 3, 4, 5)).all()
    broken = np.load(path, mmap_mode="r+")
    broken[1] = 0
    broken.flush()
    done.write_text("1")
    kept = draw_scene(0, tracks)
    save_scenes(path, tracks, 2, resolution=32)
    assert (np.load(path) == whole).all()
    pictures, said = load_scenes(path, tracks)
    assert (len(pictures), len(said)) == (2, 2)
    assert (said[0].frames == kept.frames).all()


def test_a_scene_is_one_head_with_several_mouths() -> None:
    mouths = np.stack([np.linspace(0, 1, WINDOW), np.zeros(WINDOW)], axis=1).astype(np.float32)
    track = Track(mel=np.zeros((80, 3000), np.float16), sound=np.zeros((200, 2), np.float32), steps=400)
    assert draw_scene(3, [track] * 9).frames.max() <= 200 - WINDOW
    scene = render_scene(5, [mouths, mouths[::-1], 0 * mouths, mouths], resolution=64)
    assert scene.shape == (5, WINDOW, 64, 64, 3)
    assert (scene[0] == scene[3]).all()
    change = np.abs(scene[0].astype(int) - scene[1]).mean(axis=(0, 3))
    assert change[36:56, 12:52].mean() > 8 * change[:20].mean(), "only the mouth differs"
    openings = read_aperture([scene[number, 0] for number in (0, 1)])
    assert openings[1] > openings[0] + 0.05


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_an_interrupted_training_ends_like_one_that_was_not(tmp_path: Path, muon: bool) -> None:
    def run(path: Path, stop: int | None = None) -> torch.Tensor:
        torch.manual_seed(2)
        line = torch.nn.Linear(3, 1)

        def loss_of(draw: np.random.Generator) -> torch.Tensor:
            nonlocal stop
            if stop is not None:
                stop -= 1
                if stop < 0:
                    raise KeyboardInterrupt
            return (line(torch.from_numpy(draw.normal(size=(4, 3)).astype(np.float32))) - 1).square().mean()

        cpu = torch.device("cpu")
        return train(path, line, loss_of, steps=20, rate=0.1, muon=lambda name: muon, device=cpu, save_every=0.0).weight

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken.pt", stop=9)
    assert torch.equal(run(tmp_path / "broken.pt"), whole)
    assert torch.equal(run(tmp_path / "broken.pt", stop=0), whole), "a finished one is only loaded"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_tiny_training_from_nothing_ends_in_a_model(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs/train_nano.py"), "--work", str(tmp_path / "work"), "--output"]
    sizes = ["--tracks", "14", "--scenes", "2", "--encoder-steps", "2", "--autoencoder-steps", "2", "--unet-steps", "2"]
    subprocess.run([*command, str(tmp_path / "a"), *sizes], check=True, capture_output=True)
    model = load_model(str(tmp_path / "a"), device="cpu")
    assert model.info.template.side == 128
    subprocess.run([*command, str(tmp_path / "b"), *sizes], check=True, capture_output=True)
    assert load_model(str(tmp_path / "b"), device="cpu").checkpoint == model.checkpoint
