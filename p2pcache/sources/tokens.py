"""Access tokens of clouds: values that are sent with each request until they end. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

EARLY_S = 120.0  # before its end another token is got: clocks differ, and requests take time


@dataclass(frozen=True, slots=True)
class Token:
    """Never stored, never shown. `expires_at`: unix time."""

    value: str = field(repr=False)
    expires_at: float = math.inf

    def usable_s(self, now_unix_s: float) -> float:
        """For how long it may be used: a short one for three quarters of its life."""
        left_s = self.expires_at - now_unix_s
        return max(0.0, left_s - min(EARLY_S, left_s / 4))
