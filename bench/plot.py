"""A ROC curve as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from bench.scoring import Floats

WIDTH, HEIGHT = 760, 560
LEFT, TOP, RIGHT, BOTTOM = 80, 50, 730, 490
INK, GRID, CURVE = (30, 30, 30), (220, 220, 220), (20, 90, 180)


def roc_png(path: Path, title: str, false: Floats, true: Floats, lowest: float) -> None:
    """Draws true-accept against false-accept rates, the latter on a logarithmic scale from
    `lowest` to 1."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    decades = math.ceil(-math.log10(lowest))

    def x(rate: float) -> float:
        return LEFT + (RIGHT - LEFT) * (1 + max(-decades, math.log10(max(rate, 1e-12))) / decades)

    def y(rate: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * rate

    for decade in range(-decades, 1):
        draw.line([(x(10.0**decade), TOP), (x(10.0**decade), BOTTOM)], fill=GRID)
        draw.text((x(10.0**decade) - 14, BOTTOM + 8), f"1e{decade}" if decade else "1", fill=INK)
    for tenth in range(0, 11, 2):
        draw.line([(LEFT, y(tenth / 10)), (RIGHT, y(tenth / 10))], fill=GRID)
        draw.text((LEFT - 32, y(tenth / 10) - 6), f"{tenth / 10:.1f}", fill=INK)
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK)
    points = _steps(false, true)
    draw.line([(x(f), y(t)) for f, t in points], fill=CURVE, width=2)
    draw.text((LEFT, 18), title, fill=INK)
    draw.text((LEFT + 220, HEIGHT - 30), "false-accept rate", fill=INK)
    draw.text((8, TOP - 24), "true-accept rate", fill=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _steps(false: Floats, true: Floats) -> Sequence[tuple[float, float]]:
    """The curve's corners, without the points between them."""
    points: list[tuple[float, float]] = []
    for f, t in zip(false.tolist(), true.tolist(), strict=True):
        between = len(points) > 1 and (
            points[-1][0] == points[-2][0] == f or points[-1][1] == points[-2][1] == t
        )
        if between:
            points[-1] = (f, t)
        else:
            points.append((f, t))
    return points
