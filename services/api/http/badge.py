"""Badges: a label and a value in a flat picture. Pure."""

from html import escape

COLOURS = {
    "alive": "#2b7d3f",
    "silent": "#8a6300",
    "down": "#b3261e",
    "dead": "#6b3fa0",
    "unknown": "#5c6168",
    "paused": "#5c6168",
}
_WIDE, _NARROW = frozenset("mwMW@%"), frozenset("iljtfrI.,:;|!'()[] ")


def status(name: str, value: str) -> str:
    return _draw(name, value, COLOURS[value])


def uptime(name: str, window: str, share: float | None) -> str:
    """Never rounded up to 100 %, which would hide an outage."""
    if share is None:
        return _draw(f"{name} {window}", "no data", COLOURS["unknown"])
    colour = COLOURS["alive" if share >= 0.99 else "silent" if share >= 0.9 else "down"]
    return _draw(f"{name} {window}", f"{int(share * 10_000) / 100:g}%", colour)


def _width(text: str) -> int:
    """About how wide it is in 11 px Verdana."""
    return round(sum(9.5 if c in _WIDE else 4.4 if c in _NARROW else 7.2 for c in text)) + 12


def _draw(label: str, value: str, colour: str) -> str:
    left, right = _width(label), _width(value)
    label, value = escape(label), escape(value)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}"><title>{label}: {value}</title>'
        f'<rect width="{left}" height="20" fill="#44484d"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="{left / 2}" y="14" textLength="{left - 12}">{label}</text>'
        f'<text x="{left + right / 2}" y="14" textLength="{right - 12}">{value}</text></g></svg>'
    )
