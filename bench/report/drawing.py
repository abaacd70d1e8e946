"""Drawing of the report's charts: a canvas of marks in data coordinates that Vega-Lite turns into one small static SVG.

Nothing is left to the measures of a font: margins, ticks, titles, legends and labels are placed here, by an estimate of text widths, so
the same numbers give the same bytes on every machine. The background is transparent and all text takes ``currentColor``, so that a chart
fits a light page and a dark one.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError
from bench.result.text import visible as as_symbols

WIDTH = 640
"""Of every chart, in units of its view box."""
FONT_SIZE = 13
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#C46A98", "#B07800", "#3A8FC4", "#7A6FBF", "#837C00")
"""Okabe and Ito's colours, the light ones darkened: each has a contrast of 3 or more with white and with #111."""
INK = "#010203"
"""Stands for ``currentColor`` until the SVG is made."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 3), (9, 3, 2, 3), (14, 4))
"""As many as share no factor with the number of colours, so that a colour and a dash come together once in 40."""

Align = Literal["left", "center", "right"]


class Chart(NamedTuple):
    """A static chart, to be put into a page as it is."""

    svg: str
    """One ``<svg>`` element, named and described for screen readers by ``title`` and ``description``."""
    title: str
    description: str
    """One to three sentences with the numbers that matter; plain text, not escaped."""
    table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
    """The head and the rows of what is drawn; plain text, not escaped."""


class Point(NamedTuple):
    """A place in data coordinates."""

    x: float
    y: float


class Box(NamedTuple):
    """A rectangle in pixels of the view box."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from ``low`` to ``high``, with labelled ticks."""

    low: float
    high: float
    title: str = ""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()

    def share(self, value: float) -> float:
        """Where a value lies, 0 at ``low`` and 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, share: float) -> float:
        """The inverse of ``share``."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def clipped(self, value: float) -> float:
        """The nearest value on the axis."""
        return min(max(value, self.low), self.high)


def visible(text: str) -> str:
    """Text on one line, its control characters as symbols."""
    return as_symbols(text).replace("\n", "\u240a")


def shortened(text: str, length: int = 22) -> str:
    """Visible text of at most ``length`` characters, with an ellipsis where something was cut off."""
    text = visible(text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """An upper estimate of the width in pixels; wide characters such as Chinese ones count as a square."""
    return sum(size * (0.58 if ord(c) < 0x1100 else 1.05) for c in text)


def luminance(colour: str) -> float:
    """Relative luminance of a colour "#rrggbb" (WCAG 2.2, definition of relative luminance)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


class Canvas:
    """Marks in data coordinates over two axes; ``svg`` draws them in the order in which their style first came, text last."""

    def __init__(
        self,
        x: Axis,
        y: Axis,
        height: int,
        *,
        left: int = 62,
        right: int = 20,
        top: int = 30,
        bottom: int = 46,
        headroom: int = 13,
    ) -> None:
        """``height``: of the plot, in pixels; ``left`` to ``bottom``: the margins around it; ``headroom``: up to the title of ``y``,
        whose ``low`` is at the bottom."""
        self.x, self.y, self.height = x, y, height
        self.left, self.right, self.top, self.bottom = left, right, top, bottom
        self.width = WIDTH - left - right
        self._lines = 0
        self._marks: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for value, label in x.ticks:
            self.line([Point(value, y.low), Point(value, y.high)], INK, width=1, opacity=0.15)
            self.text(self.pixel(Point(value, y.low)), label, dy=17, align="center", size=12)
        for value, label in y.ticks:
            self.line([Point(x.low, value), Point(x.high, value)], INK, width=1, opacity=0.15)
            self.text(self.pixel(Point(x.low, value)), label, dx=-7, dy=4, align="right", size=12)
        if x.title:
            self.text(Point(self.width / 2, height), x.title, dy=bottom - 9, align="center")
        if y.title:
            self.text(Point(-left, 0), y.title, dx=2, dy=-headroom)

    def pixel(self, point: Point) -> Point:
        """Where a point of the data lies in the plot, in pixels from its top left corner."""
        return Point(self.x.share(point.x) * self.width, (1 - self.y.share(point.y)) * self.height)

    def _data(self, pixel: Point) -> Point:
        return Point(self.x.value(pixel.x / self.width), self.y.value(1 - pixel.y / self.height))

    def _add(self, kind: str, style: dict[str, Any], row: dict[str, Any]) -> None:
        self._marks.setdefault((kind, *style.items()), []).append(row)

    def line(self, points: Sequence[Point], colour: str, *, width: float = 2, dash: tuple[int, ...] = (), opacity: float = 1) -> None:
        """Straight segments through the points."""
        style = {"color": colour, "strokeWidth": width, "strokeDash": dash, "opacity": opacity}
        if len(points) == 2:
            (x, y), (x2, y2) = points
            self._add("rule", style, {"x": x, "y": y, "x2": x2, "y2": y2})
        else:
            self._lines += 1
            for order, point in enumerate(points):
                self._add("line", style, {"x": point.x, "y": point.y, "order": order, "line": self._lines})

    def pixel_line(self, pixels: Sequence[Point], colour: str) -> None:
        """A thin line through pixels of the plot, such as from a label to what it names."""
        self.line([self._data(pixel) for pixel in pixels], colour, width=1, opacity=0.7)

    def leader(self, point: Point, box: Box) -> None:
        """A thin line from a pixel to the nearest place of a label's box."""
        end = Point(min(max(point.x, box.left), box.right), min(max(point.y, box.top + 3), box.bottom - 3))
        self.pixel_line([point, end], INK)

    def bar(self, low: Point, high: Point, colour: str) -> None:
        """A filled rectangle between two corners."""
        self._add("rect", {"color": colour}, {"x": low.x, "y": low.y, "x2": high.x, "y2": high.y})

    def mark(self, point: Point, colour: str, shape: str, *, filled: bool = True) -> None:
        """A symbol, hollow where it is not filled."""
        style = {"stroke": colour, "fill": colour if filled else "transparent", "shape": shape, "size": 80, "strokeWidth": 2, "opacity": 1}
        self._add("point", style, {"x": point.x, "y": point.y})

    def text(
        self, pixel: Point, text: str, *, dx: float = 0, dy: float = 0, align: Align = "left", size: int = FONT_SIZE, colour: str = INK
    ) -> None:
        """Text whose baseline starts, is centred or ends ``dx, dy`` from a pixel of the plot."""
        place = self._data(Point(pixel.x + dx, pixel.y + dy))
        self._add("text", {"align": align, "fontSize": size, "color": colour}, {"x": place.x, "y": place.y, "text": text})

    def row_label(self, index: float, text: str) -> None:
        """The name of a row of bars or dots, left of the plot."""
        self.text(self.pixel(Point(self.x.low, index)), text, dx=-9, dy=4.5, align="right")

    def legend(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Symbols and what they mean above the plot, in lines as ``legend_lines`` breaks them: (colour, shape, text) each."""
        for line, row in enumerate(_broken(entries)):
            for at, colour, shape, text in row:
                pixel = Point(at - self.left, line * 20 - self.top + 12)
                self.mark(self._data(pixel), colour, shape)
                self.text(pixel, text, dx=11, dy=4.5)

    def specification(self) -> dict[str, Any]:
        """The chart in Vega-Lite, as plain values: what altair would make and check costs twice what drawing does."""
        channels = {
            name: {"field": name, "type": "quantitative", "axis": None,
                   "scale": {"type": "log" if axis.log else "linear", "domain": [axis.low, axis.high], "nice": False}}
            for name, axis in (("x", self.x), ("y", self.y))
        }  # fmt: skip
        more = {
            "text": {"text": {"field": "text", "type": "nominal"}},
            "line": {"order": {"field": "order", "type": "quantitative"}, "detail": {"field": "line", "type": "nominal"}},
        }
        ends = {name: {"field": name} for name in ("x2", "y2")}
        layers = [
            {
                "data": {"values": rows},
                "mark": {"type": kind, **dict(style)},
                "encoding": {**channels, **(ends if "x2" in rows[0] else {}), **more.get(kind, {})},
            }
            for (kind, *style), rows in sorted(self._marks.items(), key=lambda marks: marks[0][0] == "text")
        ]
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.4.1.json",
            "width": self.width,
            "height": self.height,
            "padding": {"left": self.left, "right": self.right, "top": self.top, "bottom": self.bottom},
            "autosize": {"type": "none"},
            "background": "transparent",
            "config": {"aria": False, "font": "Arial", "view": {"stroke": None}},
            "layer": layers,
        }

    def svg(self, title: str, description: str, key: str) -> str:
        """The whole as one SVG element; ``key`` tells its ids from those of the other charts of a page.

        Raises BenchError where vl-convert is not installed.
        """
        try:
            import vl_convert
        except ImportError as error:
            raise BenchError(f"charts: {error.name} is not installed; pip install 'adaptation-bench[report]'") from error
        drawn: str = vl_convert.vegalite_to_svg(self.specification(), allowed_base_urls=[])
        return _inlined(drawn, self.height + self.top + self.bottom, title, description, key)


def _broken(entries: Iterable[tuple[str, str, str]]) -> list[list[tuple[float, str, str, str]]]:
    rows: list[list[tuple[float, str, str, str]]] = [[]]
    at = 10.0
    for colour, shape, text in entries:
        width = 26 + text_width(text)
        if rows[-1] and at + width > WIDTH:
            rows.append([])
            at = 10.0
        rows[-1].append((at, colour, shape, text))
        at += width
    return rows


def legend_height(entries: Iterable[tuple[str, str, str]]) -> int:
    """Of a legend with these entries, in pixels."""
    return 20 * len(_broken(entries)) + 4


_UNUSED = re.compile(r' (?:(?:aria-[a-z]+|role|pointer-events|class|font-family)="[^"]*"|opacity="1"|stroke-dasharray="")')
_LONG = re.compile(r"(\d+\.\d\d)\d+")


def _inlined(svg: str, height: int, title: str, description: str, key: str) -> str:
    """What vl-convert drew under a root of our own. Tags alone are changed: in text, "<" and ">" are escaped."""

    def lean(tag: re.Match[str]) -> str:
        return _LONG.sub(r"\1", _UNUSED.sub("", tag[0])).replace(f'"{INK}"', '"currentColor"')

    body = re.sub(r"<[^>]*>", lean, svg[svg.index(">") + 1 : svg.rindex("</svg>")])
    body = re.sub(r'<path d="[^"]*"(?: display="none")?/>', "", body)  # the frames' own: without stroke or fill
    name = "chart-" + hashlib.sha256(f"{key}\n{title}".encode("utf-8", "replace")).hexdigest()[:10]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" role="img"'
        f' aria-labelledby="{name}-title {name}-description" font-family="system-ui, sans-serif">'
        f'<title id="{name}-title">{html.escape(visible(title))}</title>'
        f'<desc id="{name}-description">{html.escape(visible(description))}</desc>{body}</svg>'
    )
