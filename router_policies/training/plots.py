"""Small line charts as inline SVG: nothing is fetched, nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDE, HIGH, LEFT, BELOW, ABOVE, RIGHT = 480, 300, 62, 34, 10, 16
COLOURS = ("#1b6ca8", "#c2571a", "#8a8f98", "#2e8b57", "#8e44ad")


def lines(
    series: Mapping[str, Points],
    *,
    across: str,
    up: str,
    most: tuple[float, float],
    least: tuple[float, float] = (0.0, 0.0),
) -> str:
    """A chart of named lines. `least` and `most` are its corners; points beyond are clipped."""
    inner_wide, inner_high = WIDE - LEFT - RIGHT, HIGH - ABOVE - BELOW

    def place(point: tuple[float, float]) -> str:
        x = (point[0] - least[0]) / (most[0] - least[0])
        y = (point[1] - least[1]) / (most[1] - least[1])
        x, y = min(1.0, max(0.0, x)), min(1.0, max(0.0, y))
        return f"{LEFT + x * inner_wide:.1f},{ABOVE + (1 - y) * inner_high:.1f}"

    drawn = [
        f'<svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}" role="img">'
        f"<title>{escape(up)} against {escape(across)}</title>"
    ]
    for step in range(5):
        x = least[0] + (most[0] - least[0]) * step / 4
        y = least[1] + (most[1] - least[1]) * step / 4
        left, low = place((x, least[1])).split(",")
        _, at = place((least[0], y)).split(",")
        drawn.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{LEFT - 5}" y="{float(at) + 4:.0f}" text-anchor="end">{y:.3g}</text>'
            f'<text x="{left}" y="{float(low) + 14:.0f}" text-anchor="middle">{x:.3g}</text>'
        )
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(point) for point in points)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        drawn.append(
            f'<text x="{LEFT + 8}" y="{ABOVE + 14 + 14 * number}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    middle = ABOVE + inner_high // 2
    drawn.append(
        f'<text x="{LEFT + inner_wide / 2:.0f}" y="{HIGH - 4}" text-anchor="middle">'
        f"{escape(across)}</text>"
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(up)}</text></svg>"
    )
    return "".join(drawn)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; every cell is escaped."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
