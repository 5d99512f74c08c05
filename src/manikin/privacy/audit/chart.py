"""The audit's figures, drawn as inline SVG: no script, no font file, the same bytes for the same scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from manikin.privacy.audit.claim import tpr_bound, tpr_on_curve
from manikin.privacy.audit.membership import Scores
from manikin.privacy.audit.settings import AuditSettings
from manikin.privacy.audit.statistics import roc_curve

Float64Array = NDArray[np.float64]
WIDTH, HEIGHT = 420, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 30, 46
OURS, OTHERS, CLAIM = "#1c4f82", "#b45309", "#6b2136"
SMALLEST_RATE = 1e-3
BINS = 40


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    percent: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return self.start + (min(max(value, low), high) - low) / (high - low) * (self.end - self.start)


def roc_chart(scores: Scores, settings: AuditSettings, interval: tuple[float, float] | None) -> str:
    """Log–log ROC of an attack with what the claim allows; where no patient stands behind the curve, it is shaded.

    Args:
        scores: of the attack.
        settings: of the audit: claim and false-positive rate.
        interval: of the recognised share at that rate, drawn as a bar; None where it was not measured.
    """
    outsiders = np.concatenate([scores.holdout, scores.calibration])
    x = Axis(SMALLEST_RATE, 1, LEFT, WIDTH - RIGHT, logarithmic=True, percent=True)
    y = Axis(SMALLEST_RATE, 1, HEIGHT - BOTTOM, TOP, logarithmic=True, percent=True)
    rates = np.geomspace(SMALLEST_RATE, 1 - 1e-9, 121)
    curve = tpr_on_curve(rates, settings.mu)
    bound = tpr_bound(rates, epsilon=settings.epsilon, delta=settings.delta)
    false, true = roc_curve(scores.train, outsiders)
    supported = x(1 / max(len(outsiders), 1))
    parts = [
        _rectangle(LEFT, TOP, supported - LEFT, HEIGHT - TOP - BOTTOM, "#ececec"),
        *_frame(x, y, "false alarms, share of patients not trained on", "recognised, share of training patients"),
        _text(LEFT + 5, HEIGHT - BOTTOM - 8, "not supported by data", size=10, colour="#666"),
        _path(zip(map(x, rates), map(y, rates), strict=True), "#888", dash="2 3"),
        _path(zip(map(x, rates), map(y, bound), strict=True), CLAIM, dash="7 3"),
        _path(zip(map(x, rates), map(y, curve), strict=True), CLAIM),
        _path(_steps(list(map(x, false)), list(map(y, true))), OURS, width=2),
        *_key(
            [("measured", OURS, ""), ("claim", CLAIM, ""), ("ε, δ alone", CLAIM, "7 3"), ("guessing", "#888", "2 3")]
        ),
    ]
    if interval is not None:
        at = x(settings.fpr)
        parts.append(_line(at, y(interval[0]), at, y(interval[1]), OURS, width=5, opacity=0.45))
    return _svg(parts, "Receiver operating characteristic, both axes logarithmic")


def distribution_chart(ours: Float64Array, others: Float64Array, *, label: str, threshold: float | None = None) -> str:
    """Shares of training and other patients over a score, outliers gathered in the outer bins.

    Args:
        ours, others: one value a patient, smaller for closer.
        label: of the axis.
        threshold: drawn as a line; patients to its left were flagged.
    """
    both = np.concatenate([ours, others])
    low, high = (float(q) for q in np.quantile(both, [0.002, 0.995]))
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, BINS + 1)
    heights = [_shares(ours, edges), _shares(others, edges)]
    x = Axis(low, high, LEFT, WIDTH - RIGHT)
    y = Axis(0, max(float(h.max()) for h in heights) * 1.08 or 1.0, HEIGHT - BOTTOM, TOP, percent=True)
    parts = _frame(x, y, label, "share of patients")
    for height, colour, fill in ((heights[0], OURS, 0.18), (heights[1], OTHERS, 0.0)):
        outline = [(x(edges[0]), y(0))]
        for left, right, top in zip(edges[:-1], edges[1:], height, strict=True):
            outline += [(x(left), y(top)), (x(right), y(top))]
        parts.append(_path([*outline, (x(edges[-1]), y(0))], colour, width=1.6, fill=fill))
    if threshold is not None:
        parts.append(_line(x(threshold), TOP, x(threshold), HEIGHT - BOTTOM, "#333", dash="4 3"))
        parts.append(_text(x(threshold) + 4, TOP + 10, "threshold", size=10, colour="#333"))
    parts += _key([("trained on", OURS, ""), ("not trained on", OTHERS, "")])
    return _svg(parts, f"Distribution of {label}")


def rank_chart(ours: Float64Array, others: Float64Array) -> str:
    """Share of training patients among the k closest, beside what chance gives: mean, and 95 of 100 shuffles at each k.

    Args:
        ours, others: one value a patient, smaller for closer.
    """
    m, n = len(ours), len(others)
    ks = np.unique(np.geomspace(min(5, m + n), m + n, 80).round().astype(np.int64))
    below = np.searchsorted(np.sort(ours), np.sort(np.concatenate([ours, others]))[ks - 1], side="right")
    tied = np.searchsorted(np.sort(others), np.sort(np.concatenate([ours, others]))[ks - 1], side="right")
    low, high = (hypergeom.ppf(q, m + n, m, ks) / ks for q in (0.025, 0.975))
    x = Axis(float(ks[0]), float(ks[-1]), LEFT, WIDTH - RIGHT, logarithmic=True)
    y = Axis(0, 1, HEIGHT - BOTTOM, TOP, percent=True)
    points = [x(k) for k in ks]
    band = [*zip(points, map(y, high), strict=True), *reversed(list(zip(points, map(y, low), strict=True)))]
    parts = [
        *_frame(x, y, "patients closest to a synthetic image", "share of them that were trained on"),
        _path(band, "#999", width=0, fill=0.3),
        _line(LEFT, y(m / (m + n)), WIDTH - RIGHT, y(m / (m + n)), "#888", dash="2 3"),
        _path(zip(points, map(y, below / (below + tied)), strict=True), OURS, width=2),
        *_key([("measured", OURS, ""), ("by chance", "#888", "2 3"), ("95 of 100 shuffles", "#bbb", "")]),
    ]
    return _svg(parts, "Share of training patients among the closest")


def _shares(values: Float64Array, edges: Float64Array) -> Float64Array:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / max(len(values), 1)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in _ticks(x):
        parts.append(_line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, "#333"))
        parts.append(_text(x(value), HEIGHT - BOTTOM + 17, _tick(value, x), anchor="middle"))
    for value in _ticks(y):
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#e3e3e3"))
        parts.append(_text(LEFT - 6, y(value) + 4, _tick(value, y), anchor="end"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#333"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f' transform="rotate(-90 12 {middle:.1f})"'
    parts.append(_text(12, middle, y_label, anchor="middle", extra=turned))
    return parts


def _ticks(axis: Axis) -> list[float]:
    if axis.logarithmic:
        first, last = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]
    rough = (axis.high - axis.low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _tick(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{100 * value:.3g} %"
    if axis.logarithmic:
        return f"{value:,.0f}"
    decimals = max(0, 1 - math.floor(math.log10(axis.high - axis.low)))
    return f"{value:.{decimals}f}"


def _key(entries: list[tuple[str, str, str]]) -> list[str]:
    parts = []
    x = float(LEFT)
    for name, colour, dash in entries:
        parts.append(_line(x, 12, x + 18, 12, colour, width=2, dash=dash))
        parts.append(_text(x + 22, 16, name))
        x += 34 + 6.2 * len(name)
    return parts


def _steps(xs: list[float], ys: list[float]) -> Iterable[tuple[float, float]]:
    """A staircase through the points: up first, then to the right."""
    yield xs[0], ys[0]
    for (x0, x1), y1 in zip(itertools.pairwise(xs), ys[1:], strict=True):
        yield x0, y1
        yield x1, y1


def _svg(parts: Iterable[str], title: str) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">\n{body}\n</svg>'


def _path(
    points: Iterable[tuple[float, float]], colour: str, *, width: float = 1.3, dash: str = "", fill: float = 0.0
) -> str:
    text = _thinned(f"{x:.1f},{y:.1f}" for x, y in points)
    shade = f'fill="{colour}" fill-opacity="{fill:g}"' if fill else 'fill="none"'
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{" ".join(text)}" {shade} stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def _thinned(points: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for point in points:
        if not kept or kept[-1] != point:
            kept.append(point)
    return kept


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = "", opacity: float = 1
) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    clear = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{dashes}{clear}/>'


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, colour: str = "#222", extra: str = ""
) -> str:
    style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}{extra}>{text}</text>'
