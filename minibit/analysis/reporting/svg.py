"""matplotlib's SVG made fit to stand in a page: colours as CSS variables, unique ids, short paths, the page's own font.

The result depends on the chart only; it refers to nothing outside itself.
"""

import io
import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from minibit.analysis.plots import BLUE, GREEN, INK, MUTED, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORANGE, PURPLE, GRID = "#E69F00", "#CC79A7", "#DDDDDD"  # the two of Okabe & Ito that plots does without; lines behind
VARIABLES = {
    BLUE: "--blue",
    VERMILION: "--vermilion",
    GREEN: "--green",
    INK: "--ink",
    MUTED: "--muted",
    ORANGE: "--orange",
    PURPLE: "--purple",
    GRID: "--grid",
}
_CURVED = re.compile(r"[CQ]")
_NUMBER = re.compile(r"-?\d+\.\d+")


def css_color(color: str) -> str:
    """Return the CSS variable that a colour stands for."""
    return f"var({VARIABLES[color]})"


def inline_svg(figure: "Figure", ident: str, label: str, under: str = "") -> Markup:
    """Return the figure as an ``<svg>`` for a page; its ids begin with ``ident``, ``under`` lies below all it draws."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", file.getvalue(), flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = _with_variables(_with_unique_ids(_shortened(body), ident))
    width, height = (f"{inches * 72:g}" for inches in figure.get_size_inches())
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg {size} role="img" aria-label="{escape(label)}">'
    return Markup(head + under + body.strip() + "</svg>")  # noqa: S704  matplotlib escapes texts, and so does this


def _shortened(body: str) -> str:
    body = re.sub(r' d="([^"]*)"', lambda match: f' d="{short_path(match[1])}"', body)
    body = re.sub(r" font-family: [^;]*sans-serif;?", "", body)
    body = re.sub(r"font: (?:(bold|[0-9]+) )?([0-9.]+px) [^;]*sans-serif;?", r"font-size: \2; font-weight: \1;", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r' (x|y)="(-?\d+\.\d+)"', lambda match: f' {match[1]}="{float(match[2]):.1f}"', body)
    body = re.sub(r' style="[^"]*"', lambda match: match[0].replace(": ", ":").replace("; ", ";"), body)
    body = body.replace("xlink:href", "href")
    return re.sub(r">\s+<", "><", body)


def short_path(path: str) -> str:
    """Return a path of straight lines in relative steps of a tenth of a pixel; a curved one rounded only."""
    if _CURVED.search(path):
        return re.sub(r"\s+", " ", _NUMBER.sub(lambda match: f"{float(match[0]):.2f}", path)).strip()
    parts, at, begin = [], (0, 0), (0, 0)
    for command, x, y in re.findall(r"([MLz])(?: (-?[\d.e-]+) (-?[\d.e-]+))?", path):
        if command == "z":
            parts.append("z")
            at = begin
            continue
        to = (round(float(x) * 10), round(float(y) * 10))
        parts.append(_moved(to) if command == "M" else _stepped(to[0] - at[0], to[1] - at[1]))
        at, begin = to, to if command == "M" else begin
    return "".join(parts)


def _moved(to: tuple[int, int]) -> str:
    return f"M{to[0] / 10:g} {to[1] / 10:g}"


def _stepped(right: int, down: int) -> str:
    if not right:
        return f"v{down / 10:g}" if down else ""
    return f"l{right / 10:g} {down / 10:g}" if down else f"h{right / 10:g}"


def _with_unique_ids(body: str, ident: str) -> str:
    used = dict.fromkeys(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    names = {first or second: f"{ident}-{number}" for number, (first, second) in enumerate(used)}
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", body)
    body = re.sub(r'href="#([^"]+)"', lambda match: f'href="#{names[match[1]]}"', body)
    return re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{names[match[1]]})", body)


def _with_variables(body: str) -> str:
    for color, variable in VARIABLES.items():
        body = re.sub(rf"(?i)(fill|stroke):{color}\b", rf"\1:var({variable})", body)
    return body
