"""For every test: nothing is judged by how fast this machine happens to be."""

from __future__ import annotations

import compileall
from pathlib import Path

from hypothesis import HealthCheck, settings

PACKAGE = Path(__file__).parents[1] / "p2pcache"

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_sessionstart() -> None:
    """Compile the product once: where PYTHONDONTWRITEBYTECODE is set, each of the hundreds of
    processes that the tests start would do so for itself, an agent in 0.5 s.
    """
    compileall.compile_dir(PACKAGE, quiet=2)
