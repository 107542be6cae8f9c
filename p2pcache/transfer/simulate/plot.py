"""Completion over time as an SVG picture, in a few lines of our own: no plotting library."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.transfer.simulate.case import Sample

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 48, 44
LINES = (
    ("exists", "somewhere in the swarm", "#888888"),
    ("mean", "the mean node has", "#0b6e99"),
    ("slowest", "the slowest node has", "#d1495b"),
    ("ended", "nodes that are complete", "#2e8b57"),
)


def svg(samples: Sequence[Sample], bound_s: float, title: str) -> str:
    """The picture. The same samples give the same text."""
    last_s = max([bound_s, *(s.at_s for s in samples)]) * 1.02
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_axes(last_s),
    ]
    x = _x(bound_s, last_s)
    parts.append(
        f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="black" stroke-dasharray="4 3"/>'
        f'<text x="{x - 4:.1f}" y="{HEIGHT - BOTTOM - 6}" text-anchor="end">the bound, '
        f"{bound_s:.3g} s</text>"
    )
    for number, (name, words, colour) in enumerate(LINES):
        points = " ".join(f"{_x(s.at_s, last_s):.1f},{_y(getattr(s, name)):.1f}" for s in samples)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + 166 * number}" y="38" fill="{colour}">{words}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _axes(last_s: float) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="black"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    for tick in range(5):
        at_s = last_s * tick / 4
        parts.append(
            f'<text x="{_x(at_s, last_s):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{at_s:.3g} s</text>"
        )
    return parts


def _x(at_s: float, last_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / last_s


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)
