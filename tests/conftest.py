"""For every test: nothing is judged by how fast this machine happens to be."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
