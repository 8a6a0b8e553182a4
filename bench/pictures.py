"""Bars as SVG: groups side by side, one colour for each server. Drawn by hand, so that no library is needed."""

from __future__ import annotations

from xml.sax.saxutils import escape

COLOURS = {
    "globalcache": "#0b6e4f",
    "redis": "#c44536",
    "valkey": "#6c63b5",
    "memcached": "#d9a441",
    "echo": "#9aa5b1",
}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 320, 60, 56, 40


def bars(title: str, groups: dict[str, dict[str, float]], most: float) -> str:
    """Return a picture of groups of bars; bars longer than `most` are cut and carry their figure."""
    names = [name for name in COLOURS if any(name in group for group in groups.values())]
    floor = HEIGHT - BOTTOM
    parts = [_text(LEFT, 22, title, size=15)]
    for index, name in enumerate(names):
        x = float(LEFT + index * 120)
        parts += [f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[name]}"/>', _text(x + 17, 44, name)]
    for step in range(5):
        y = floor - (floor - TOP) * step / 4
        parts.append(f'<line x1="{LEFT}" y1="{y:.0f}" x2="{WIDTH - 10}" y2="{y:.0f}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{most * step / 4:,.0f}", anchor="end"))
    wide = (WIDTH - LEFT - 10) / max(len(groups), 1)
    for at, (label, group) in enumerate(groups.items()):
        begin = LEFT + at * wide
        each = wide * 0.85 / len(names)
        for index, name in enumerate(names):
            if name not in group:
                continue
            height = (floor - TOP) * min(group[name] / most, 1)
            x = begin + index * each
            parts.append(
                f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="{each * 0.9:.1f}" height="{height:.1f}" '
                f'fill="{COLOURS[name]}"><title>{escape(f"{label} {name}: {group[name]:,.0f}")}</title></rect>'
            )
            if group[name] > most:
                parts.append(_text(x + each * 0.45, TOP - 3, f"{group[name]:,.0f}", size=9, anchor="middle"))
        parts.append(_text(begin + wide * 0.42, floor + 16, label, anchor="middle"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
