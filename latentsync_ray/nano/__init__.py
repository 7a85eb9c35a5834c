"""What made ``nano`` and what measures it.

``portrait`` renders a head whose truth is known, ``training`` makes the model of it, and ``evaluate`` compares dubbed heads
with the truth.
"""

__all__: list[str] = []
