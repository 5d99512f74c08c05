"""How fast images are drawn: `Diffusion.sample` beside bare forward passes of the very same network.

    python benchmarks/sample.py            # about three minutes on two cores
    python benchmarks/sample.py --quick    # fewer images and repetitions; writes no page

Both do as many evaluations in batches of the same size; what the ratio leaves is preconditioning, the solver's
arithmetic, the released moments that a sample starts from, and random numbers. The two take turns batch by batch, and
the medians count. One more case makes a shard of a data set, as `manikin synthesize` does, and tells how much of it is
drawing. Seconds are of one core (process time), so that other programs disturb them little. Each prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor

from manikin.common.export.batch import Source
from manikin.common.export.picture import Picture
from manikin.common.export.request import Request, shards
from manikin.common.export.shards import Workshop
from manikin.common.generators.base import GeneratorSpec
from manikin.common.generators.diffusion import Diffusion
from manikin.common.generators.moments import Moments

SHAPES = {"unet2d-28": (28, 28), "unet2d-64": (64, 64), "unet3d-32x48x32": (32, 48, 32)}
ROUNDS, QUICK_ROUNDS = 9, 3
FORMATS, IMAGES, QUICK_IMAGES = ("png", "npz"), 512, 128
LABELS = ("normal", "pneumonia")
ALLOWED = 0.9
PRIOR_IMAGES = 64
SECTION = "sample"
PAGE = results.ROOT / "benchmarks" / "RESULTS.md"
NOTES = f"""
- Denoiser of 16 channels (as the studies use it), class guidance 1, 6 levels of Heun's method: 11 evaluations an image.
- Images a second of one core: of `Diffusion.sample`, which starts from released moments; and of the bare network, as
  many evaluations in batches of the same size, gradients off. Medians over {ROUNDS} batches of each, taken in turns.
- Ratio: the median of the ratios of neighbours; at least {ALLOWED:g} is wanted.
- Shards: a part of a data set as `manikin synthesize` makes it; the share of its time that is `Diffusion.sample`.
"""
Line = dict[str, Any]


def generator(shape: tuple[int, ...]) -> Diffusion:
    """Untrained, with moments to start from: neither changes the arithmetic."""
    made = Diffusion(GeneratorSpec("diffusion", 1, shape, LABELS))
    moments = Moments(GeneratorSpec("moments", 1, shape, LABELS))
    prior = torch.rand(PRIOR_IMAGES, 1, *shape, generator=torch.Generator().manual_seed(0))
    moments.set_prior(2 * prior - 1)
    made.moments = moments
    return made


def evaluations(made: Diffusion) -> int:
    """Of the network, for one image."""
    by_heun = 2 * int(made.options["sampler_steps"]) - 1
    return by_heun if float(made.options["guidance"]) == 1.0 else 2 * by_heun


def run_case(shape: tuple[int, ...], rounds: int) -> Line:
    """Draw a batch and evaluate the bare network on one, in turns."""
    made = generator(shape)
    batch, count = made.sample_batch, evaluations(made)
    conditions, stream = torch.arange(batch) % len(LABELS), torch.Generator().manual_seed(0)
    noise = torch.randn(batch, 1, *shape, generator=stream)

    def forward() -> Tensor:
        out = noise
        for _ in range(count):
            out = made.net(noise, torch.zeros(batch), conditions)
        return out

    def draw() -> Tensor:
        return made.sample(conditions, generator=stream)

    with torch.inference_mode():
        pairs = [(timed(draw), timed(forward)) for _ in range(rounds + 1)]
    drawn, bare = zip(*pairs[1:], strict=True)  # the first pair warms caches
    return {
        "batch": batch,
        "evaluations": count,
        "parameters": sum(p.numel() for p in made.net.parameters()),
        "images_a_second": round(batch / statistics.median(drawn), 2),
        "forward_images_a_second": round(batch / statistics.median(bare), 2),
        "ratio_to_forward": round(statistics.median(b / d for d, b in pairs[1:]), 3),
    }


def run_shard(file_format: str, images: int) -> Line:
    """Make one shard of a data set; the share of its time that is drawing."""
    made, spent = generator(SHAPES["unet2d-28"]), list[float]()
    request = Request("ab" * 32, images, LABELS, (0.5, 0.5), 0, file_format)
    source = Source(request, made.spec, Picture("CR", 2, None, None), datetime(2026, 1, 1, tzinfo=UTC), "0")

    def sample(conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        started = time.process_time()
        drawn = Diffusion.sample(made, conditions, generator=generator)
        spent.append(time.process_time() - started)
        return drawn

    with tempfile.TemporaryDirectory() as folder:
        made.sample = sample  # type: ignore[method-assign]
        workshop = Workshop(made, source, Path(folder))
        total = timed(lambda: [workshop.make(piece) for piece in shards(request, made.spec.channels * 28 * 28)])
    return {
        "images": images,
        "images_a_second": round(images / total, 2),
        "share_drawing": round(sum(spent) / total, 3),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of one core."""
    started = time.process_time()
    work()
    return time.process_time() - started


def page(lines: Sequence[Line]) -> str:
    """Markdown: a row a network, and a line a format."""
    head = ("network", "batch", "images a second", "of the bare network", "ratio", "wanted")
    rows = [head, ("---",) * len(head)]
    for line in lines:
        if "ratio_to_forward" in line:
            met = "met" if line["ratio_to_forward"] >= ALLOWED else "missed"
            speeds = f"{line['images_a_second']:.1f}", f"{line['forward_images_a_second']:.1f}"
            ratio = f"{line['ratio_to_forward']:.2f}"
            rows.append((line["case"], str(line["batch"]), *speeds, ratio, f"{ALLOWED:g}, {met}"))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    written = [
        f"{line['case']}: {line['images_a_second']:.0f} images of 28 × 28 a second, of which drawing {share:.0%}"
        for line in lines
        if (share := line.get("share_drawing")) is not None
    ]
    return f"{table}\n\n{'; '.join(written)}."


def main() -> None:
    """All cases in one go; the page is written by a whole run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and no page")
    parser.add_argument("--json", action="store_true", help="only JSON lines, no table")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the table; results.jsonl is beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines, code = list[Line](), results.commit()
    rounds, images = (QUICK_ROUNDS, QUICK_IMAGES) if arguments.quick else (ROUNDS, IMAGES)
    cases: list[tuple[str, Callable[[], Line]]] = [
        *((name, lambda shape=shape: run_case(shape, rounds)) for name, shape in SHAPES.items()),
        *((f"shard of {kind}", lambda kind=kind: run_shard(kind, images)) for kind in FORMATS),
    ]
    for name, run in cases:
        head = {"case": name, "commit": code, "cores": os.cpu_count(), "date": results.today()}
        head |= {"load_before": round(os.getloadavg()[0], 2), "threads": 1}
        lines.append(head | run())
        print(json.dumps(lines[-1], sort_keys=True), flush=True)
    if not arguments.json:
        print(page(lines))
    if not arguments.quick:
        for line in lines:
            results.append(arguments.out.with_name("results.jsonl"), line)
        heading = f"## Drawing images\n\nCommit {code}, {results.today()}, `make bench-sample`"
        text = f"{heading}, one thread of {os.cpu_count()} cores.\n\n{page(lines)}\n{NOTES}"
        results.write_section(arguments.out, SECTION, text)


if __name__ == "__main__":
    main()
