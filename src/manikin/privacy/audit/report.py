"""The page that a privacy officer reads: one self-contained HTML file, and the same in JSON.

Promises: nothing is fetched from anywhere; the same result and context give the same bytes; the first lines need no
statistics. The page is computed from patients, without noise and without charge to the budget: it belongs to the
hospital and says so. Scans appear on it only if the context asks for them.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from manikin.common.files import write_atomically
from manikin.common.images import Float32Array
from manikin.privacy.audit.audit import NOT_TESTED, AuditResult, Pair
from manikin.privacy.audit.chart import distribution_chart, rank_chart, roc_chart
from manikin.privacy.audit.claim import best_guess_share, tpr_bound
from manikin.privacy.audit.finding import Finding
from manikin.privacy.audit.wording import chance, number, per_hundred

NOTICE = "Computed from patients, not noised, not charged: this page is the hospital's own and does not leave it."
EMBEDDED_NOTICE = (
    "This study ran with all its hospitals on one machine, so that one person can see every hospital's page. In a real "
    "federation each hospital sees its own and no other."
)
UNIT_NOTICE = (
    "This data set has no patient identifiers: every image is counted as a patient of its own (unit: image), and a "
    "person with several images is protected and tested less than it seems."
)
HEADLINES = {
    "pass": "These tests found no leak, and were strong enough to rule out one above the plan's limits.",
    "fail": "There is evidence that this generator gives away patients it was trained on. It should not be released.",
    "inconclusive": "The evidence does not settle it: no test failed, but a leak above the limits is not excluded.",
}
FEWEST_DRAWN = 10
AXES = {"distance": "distance to the nearest synthetic image (pixel units)", "loss": "loss of the generator"}


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the page says besides the result.

    Args:
        hospital, study: names.
        plan: digest of the plan.
        unit: "patient", or "image" where there are no patient ids.
        labels: names of the classes, for captions.
        embedded: all hospitals ran on one machine.
        show_pairs: put the most similar pairs, scans of patients among them, on the page.
    """

    hospital: str
    study: str
    plan: str
    unit: str
    labels: tuple[str, ...] = ()
    embedded: bool = False
    show_pairs: bool = False


def write_report(folder: Path, result: AuditResult, *, context: ReportContext) -> Path:
    """Write `audit.html` and `audit.json` below `folder`.

    Returns:
        The path of the page.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    page = folder / "audit.html"
    write_atomically(folder / "audit.json", _to_json(result, context), mode=0o640)
    write_atomically(page, render_page(result, context=context).encode(), mode=0o640)
    return page


def render_page(result: AuditResult, *, context: ReportContext) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(per_hundred=per_hundred, chance=chance, number=number, typeset=_typeset)
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    settings = result.settings
    return template.render(
        result=result,
        settings=settings,
        context=context,
        headline=HEADLINES[result.verdict],
        notices=_notices(context),
        bound=tpr_bound(settings.fpr, epsilon=settings.epsilon, delta=settings.delta),
        best_guess=best_guess_share(settings.mu),
        delta=f"{settings.delta:g}".replace("e-0", "e-"),
        decisive=[f for f in result.findings if f.verdict == result.verdict],
        rates=[f for f in result.findings if f.interval],
        figures=_figures(result),
        pairs=_shown_pairs(result, context),
        not_tested=NOT_TESTED,
    )


def _to_json(result: AuditResult, context: ReportContext) -> bytes:
    document = {**result.to_dict(), "context": asdict(context), "notice": " ".join(_notices(context))}
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _notices(context: ReportContext) -> list[str]:
    notices = [NOTICE]
    if context.embedded:
        notices.append(EMBEDDED_NOTICE)
    if context.unit == "image":
        notices.append(UNIT_NOTICE)
    return notices


def _figures(result: AuditResult) -> list[dict[str, Any]]:
    """One row of figures a test, where there are patients to draw."""
    by_name = {finding.name: finding for finding in result.findings}
    rows = []
    for name, scores in result.attacks.items():
        finding, others = by_name[f"membership-{name}"], np.concatenate([scores.holdout, scores.calibration])
        if min(len(others), len(scores.train)) >= FEWEST_DRAWN:
            threshold = None if finding.threshold is None else -finding.threshold
            measured = finding.interval if finding.threshold is not None else None
            roc = roc_chart(scores, result.settings, measured)
            spread = distribution_chart(-scores.train, -others, label=AXES[name], threshold=threshold)
            rows.append(_row(finding, roc, spread))
    ours, others = result.train_likeness.score, result.other_likeness.score
    if min(len(ours), len(others)) >= FEWEST_DRAWN:
        spread = distribution_chart(ours, others, label="relative distance to the most similar synthetic image")
        rows.append(_row(by_name["re-identification"], rank_chart(ours, others), spread))
    return rows


def _row(finding: Finding, *charts: str) -> dict[str, Any]:
    # The charts are built from numbers and fixed words only, so that there is nothing to escape.
    return {"title": finding.title, "charts": [Markup(chart) for chart in charts]}  # noqa: S704


def _shown_pairs(result: AuditResult, context: ReportContext) -> list[dict[str, Any]]:
    if not context.show_pairs:
        return []
    groups = (("Patients the generator was trained on", True), ("Patients it was not trained on", False))
    return [
        {"title": title, "pairs": [_shown(pair, context) for pair in result.pairs if pair.trained_on is trained_on]}
        for title, trained_on in groups
    ]


def _shown(pair: Pair, context: ReportContext) -> dict[str, str]:
    return {
        "real": _png(pair.real),
        "synthetic": _png(pair.synthetic),
        "correlation": f"{pair.correlation:.3f}",
        "key": pair.key[:12],
        "labels": f"{_label(pair.real_label, context)} | {_label(pair.synthetic_label, context)}",
    }


def _label(index: int, context: ReportContext) -> str:
    return context.labels[index] if index < len(context.labels) else str(index)


def _png(image: Float32Array) -> str:
    """Data address of an image's first channel, or of the middle slice of a volume, turned upright."""
    plane = image[0]
    if plane.ndim == 3:
        plane = np.rot90(plane[:, :, plane.shape[2] // 2])
    grey = np.clip((plane + 1) * 127.5, 0, 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _typeset(text: str) -> str:
    """Straight apostrophes as printed ones."""
    return text.replace("'", "\u2019")
