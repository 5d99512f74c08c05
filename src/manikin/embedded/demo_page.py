"""The demo's one page: what came out, what was promised, what was tested, and where everything is."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from manikin.client.cohort import Cohort
from manikin.common.files import write_atomically
from manikin.common.images import Float32Array, flatten
from manikin.embedded.federation import FederationResult
from manikin.privacy.budget import plan_mechanisms

COLUMNS = 12
ZOOM = 2


def write_page(
    out: Path,
    *,
    federation: FederationResult,
    synthetic: Path,
    scores: dict[str, Any],
    summary: dict[str, Any],
    real: list[Path],
) -> Path:
    """Write `out/index.html`, self-contained but for links into the same folder."""
    study = federation.plan.study
    environment = Environment(
        loader=PackageLoader("manikin.embedded"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    rows = [
        {
            "label": label,
            "real": picture(_real_images(real, federation, label)),
            "synthetic": picture(_synthetic_images(synthetic, label)),
        }
        for label in study.data.labels
    ]
    text = environment.get_template("demo.html").render(
        summary=summary,
        study=study,
        rows=rows,
        mechanisms=plan_mechanisms(federation.plan),
        audits=_audits(out, federation),
        scores=scores,
        release=federation.bundle.relative_to(out),
        trust=federation.trust.relative_to(out),
        synthetic=synthetic.relative_to(out),
    )
    page = out / "index.html"
    write_atomically(page, text.encode())
    return page


def picture(images: Float32Array) -> str:
    """A strip of images (n, h, w) in [-1, 1] as a data address of a PNG."""
    strip = np.concatenate(list(images), axis=1)
    pixels = np.round((np.clip(strip, -1, 1) + 1) * 127.5).astype(np.uint8)
    size = (pixels.shape[1] * ZOOM, pixels.shape[0] * ZOOM)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _real_images(folders: list[Path], federation: FederationResult, label: str) -> Float32Array:
    """Some simulated patients of each hospital with a label; phantoms, so showing them betrays nobody."""
    data = federation.plan.study.data
    index, found = data.labels.index(label), []
    for folder in folders:
        images, labels, _ = flatten(Cohort.open(folder).load(data)["train"])
        found.append(images[labels == index][: COLUMNS // len(folders), 0])
    return np.concatenate(found)


def _synthetic_images(folder: Path, label: str) -> Float32Array:
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["label"] == label][:COLUMNS]
    pixels = np.stack([np.asarray(Image.open(folder / name).convert("L")) for name in names])
    return (pixels / 127.5 - 1).astype(np.float32)


def _audits(out: Path, federation: FederationResult) -> list[dict[str, str]]:
    return [
        {
            "hospital": name,
            "verdict": str(json.loads(page.with_name("audit.json").read_bytes())["verdict"]),
            "page": str(page.relative_to(out)),
        }
        for name, page in federation.audits.items()
    ]
