"""How the small model that ships with the package is made; ``jobs/train_nano.py`` runs these steps one after the other.

speech.py    tracks: synthetic speech, as log-mel and as what the mouth does meanwhile
pictures.py  aligned faces of the rendered portrait: same head and light, different mouths
vary.py      the same tracks at other levels and colours, and what the mouth does then
listen.py    the speech encoder, trained to hear what the mouth does
start.py     where its attention looks before it is trained
paint.py     the picture autoencoder
mouth.py     the denoising network, trained to replace one mouth by another that follows the speech
loop.py      what the three trainings share: schedule, averaging, resuming
together.py  several processes that train one network, or another one beside it
folder.py    the finished model as a folder, with its card
"""

__all__: list[str] = []
