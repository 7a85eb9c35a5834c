"""How the two networks that judge sync (``sync``) are made, and how they are judged; ``jobs/train_sync.py`` runs these steps.

voices.py        synthetic speech with the time of every phoneme
articulation.py  what lips do while phonemes are said
tracks.py        much of both, as microphones hear it
mouths.py        mouths drawn at random
eye.py           the network that reads lips off a picture
ear.py           the network that holds lips against sound
calibrate.py     what makes a probability of it
weights.py       the file that ships
judge.py         figures on clips that nobody learned from; ``jobs/judge_sync.py``
"""

__all__: list[str] = []
