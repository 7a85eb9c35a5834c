"""Lip-sync whole datasets of (video, audio) pairs with LatentSync on Ray."""

__version__ = "0.1.0"
