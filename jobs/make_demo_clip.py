"""Make the clip and the speech that ship with the package: latentsync_ray/assets/demo.mp4 and demo.wav.

    python jobs/make_demo_clip.py [FOLDER]

Needs the espeak-ng program (apt-get install espeak-ng); using the package does not. The portrait speaks one text; the other,
in another voice, is what the demo makes it say.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from latentsync_ray.media.speech import write_wav
from latentsync_ray.nano.evaluate import write_portrait
from latentsync_ray.nano.portrait import Performance, render_clip
from latentsync_ray.nano.training.espeak import speak

FPS = 25
SIZE = 384
"""px; the photograph resolves about 256, a face of 140 px is enough for every detector."""
OWN_TEXT = "Good morning. I am an old photograph, and I have learned to talk. My lips follow every word that you hear."
NEW_TEXT = "Now I am saying something else, in another voice. Did you notice how my mouth has changed?"
OWN_VOICE, OWN_MANNER = "en-us+steph2", ("-s", "150", "-p", "45")
NEW_VOICE, NEW_MANNER = "en-gb+f4", ("-s", "150", "-p", "40")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    own, rate = speak(OWN_TEXT, ("-v", OWN_VOICE, *OWN_MANNER))
    performance = Performance.of_speech(own, rate, fps=FPS, seed=4)
    with tempfile.TemporaryDirectory() as scratch:
        write_wav(Path(scratch) / "own.wav", as_int16(own), rate=rate)
        write_portrait(folder / "demo.mp4", render_clip(performance, size=SIZE), Path(scratch) / "own.wav", crf=20)
    new, rate = speak(NEW_TEXT, ("-v", NEW_VOICE, *NEW_MANNER))
    write_wav(folder / "demo.wav", as_int16(new), rate=rate)
    for name, samples in (("demo.mp4", own), ("demo.wav", new)):
        print(f"{folder / name}: {len(samples) / rate:.2f} s, {(folder / name).stat().st_size / 1e3:.0f} kB")


def as_int16(samples: np.ndarray) -> np.ndarray:
    """16-bit PCM of samples in [-1, 1]."""
    return (samples * 32767).astype(np.int16)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "latentsync_ray" / "assets")
