"""Lay out the charts; the template draws them. Units are SVG user units, y grows downwards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.lineage import SHORT, Node

WIDE: Final = 520.0  # a curve's plotting area
HIGH: Final = 180.0
BOX_WIDE: Final = 122.0
BOX_HIGH: Final = 46.0
GAP_X: Final = 28.0
GAP_Y: Final = 16.0


@dataclass(frozen=True)
class Curve:
    """A training curve: ``points`` of a polyline, ticks as (coordinate, label), and a title that sums it up.

    ``smooth`` is the polyline of the moving average, empty for a quantity that is not noisy.
    """

    name: str
    what: str
    title: str
    points: str
    smooth: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    steps: int


@dataclass(frozen=True)
class Box:
    """A box of the lineage graph, by its upper left corner."""

    x: float
    y: float
    step: str
    title: str
    digest: str
    tip: str


@dataclass(frozen=True)
class Graph:
    """The lineage graph: boxes, and curves from each input to its output as SVG paths."""

    width: float
    height: float
    boxes: list[Box]
    edges: list[str]


def read_log(folder: Path) -> list[dict[str, float]]:
    """Read a stage's training log; a base model has none."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def curve(name: str, log: Sequence[Mapping[str, float]], key: str = "loss") -> Curve:
    """Draw one of a log's numbers over optimizer steps; raise ValueError for an empty log."""
    if not log:
        raise ValueError(f"the log of {name} is empty")
    steps, values = [float(e["step"]) for e in log], [float(e[key]) for e in log]
    last_step, top, what = max(steps), max(values) or 1.0, key.replace("_", " ")
    x_ticks = [(value / last_step * WIDE, f"{value:g}") for value in nice_ticks(last_step)]
    y_ticks = [(HIGH - value / top * HIGH, f"{value:g}") for value in nice_ticks(top)]

    def line(heights: Sequence[float]) -> str:
        pairs = zip(steps, heights, strict=True)
        return " ".join(f"{x / last_step * WIDE:.1f},{HIGH - y / top * HIGH:.1f}" for x, y in pairs)

    if key == "loss":  # of one batch, so it varies much from step to step
        tenth = max(1, len(values) // 10)
        title = f"{what} {_mean(values[:tenth]):.3g} to {_mean(values[-tenth:]):.3g}"
        return Curve(name, what, title, line(values), line(_around(values)), x_ticks, y_ticks, int(last_step))
    return Curve(name, what, f"{what} up to {max(values):.3g}", line(values), "", x_ticks, y_ticks, int(last_step))


def _around(values: Sequence[float]) -> list[float]:
    """Return the moving average over a twentieth of all values."""
    reach, sums = max(1, len(values) // 40), [0.0, *accumulate(values)]
    spans = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def nice_ticks(top: float, about: int = 4) -> list[float]:
    """Return round numbers from 0 to at most ``top``, roughly ``about`` of them."""
    rough = top / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(step * k, 10) for k in range(int(top / step + 1e-9) + 1)]


def graph(tops: Sequence[Node]) -> Graph:
    """Lay out the ancestry of the artifacts: inputs to the left of their outputs."""
    nodes = {node.digest: node for top in tops for node in top.walk()}
    depth: dict[str, int] = {}
    for digest in nodes:
        _depth(nodes[digest], depth)
    columns: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for digest in sorted(nodes, key=lambda d: (nodes[d].step, nodes[d].name, d)):
        columns[depth[digest]].append(digest)
    tallest = max(len(column) for column in columns)
    height = tallest * (BOX_HIGH + GAP_Y) - GAP_Y
    place: dict[str, tuple[float, float]] = {}
    for number, column in enumerate(columns):
        if number:  # order by the mean height of the inputs, so that few lines cross
            column.sort(key=lambda d: (_mean([place[i.digest][1] for i in nodes[d].inputs.values()]), d))
        top = (height - (len(column) * (BOX_HIGH + GAP_Y) - GAP_Y)) / 2
        for row, digest in enumerate(column):
            place[digest] = (number * (BOX_WIDE + GAP_X), top + row * (BOX_HIGH + GAP_Y))
    edges = [
        _edge(place[child.digest], place[digest]) for digest in sorted(nodes) for child in nodes[digest].inputs.values()
    ]
    boxes = [_box(nodes[digest], *place[digest]) for digest in sorted(nodes, key=lambda d: place[d])]
    return Graph(len(columns) * (BOX_WIDE + GAP_X) - GAP_X, height, boxes, edges)


def _depth(node: Node, known: dict[str, int]) -> int:
    if node.digest not in known:
        known[node.digest] = 1 + max((_depth(child, known) for child in node.inputs.values()), default=-1)
    return known[node.digest]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = (start[0] + BOX_WIDE, start[1] + BOX_HIGH / 2), (end[0], end[1] + BOX_HIGH / 2)
    middle = x2 - GAP_X / 2
    return f"M{x1:g},{y1:g} C{middle:g},{y1:g} {middle:g},{y2:g} {x2:g},{y2:g}"


def _box(node: Node, x: float, y: float) -> Box:
    record: Mapping[str, Any] = node.record
    if node.step == "raw":
        md5 = str(record["dvc_md5"])
        return Box(x, y, "raw", f"raw {node.name}", md5[:SHORT], f"DVC md5 {md5}")
    title = node.step if node.name == node.step else f"{node.step} {node.name}"
    tip = f"{title}\nsha256 {node.digest}\ncode {record.get('code', '')}"
    return Box(x, y, node.step, title, node.digest[:SHORT], tip)
