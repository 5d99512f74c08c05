"""What a secure sum costs: seconds of one core a hospital and a round, beside Flower's SecAgg+ in the same run.

    python benchmarks/secure_sum.py            # a few minutes on one core
    python benchmarks/secure_sum.py --quick    # the smallest sizes, twice each; writes no page
    python benchmarks/secure_sum.py --json     # JSON lines alone

Both sides start from the same float32 vectors in one process on one core, put them on integers, mask them, add them up
and end with a float mean. Rounds of the two take turns. Each case prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import results
from numpy.typing import NDArray
from secagg import run_secagg

from manikin.common.keys import SigningKey
from manikin.common.wire import request_digest
from manikin.privacy.roster import Offer, Roster, make_offer
from manikin.privacy.secure_sum import Summation, mask, word_type

HOSPITALS, SIZES = (3, 10, 50), (100_000, 1_000_000)
ALLOWED_S, ALLOWED_AT = 0.3, (10, 1_000_000)  # masking, a hospital
ALLOWED_RATIO = 5.0  # a whole round against SecAgg+ with masks between all hospitals
REPEATS = {3: 5, 10: 5, 50: 1}  # measured rounds; each follows one that is not
FEW_SHARES = 3  # as in Flower's own example
CLIP, GRID_BITS = 8.0, 18  # the default grid of SecAgg+: 2²² steps from -8 to 8
BOUNDS = {32: int(CLIP) << GRID_BITS, 64: 1 << 40}  # of an entry, by the bits of the words that follow from it
PLAN, STEP = "0" * 64, 1
OURS, LONG = "Manikin, words of 32 bits", "Manikin, words of 64 bits"
WHOLE, FEW = "SecAgg+, all share masks", f"SecAgg+, {FEW_SHARES} shares"
RATIOS = {"ratio_to_manikin": OURS, "ratio_to_manikin_64": LONG}
SECTION = "secure-sum"
PAGE = results.ROOT / "benchmarks" / "RESULTS.md"
NOTES = f"""
- Seconds of one core (`process_time`), everything in one process, the median of the rounds; the methods take turns.
  Each measured round follows one of the same method that is not, so that none pays for memory that another gave back. A
  ratio is the median over turns of the peer's round by ours in the same turn.
- Masking: of one hospital, Manikin's `mask` alone (allowed: {ALLOWED_S} s at 10 hospitals and 10⁶ entries). All of a
  hospital's work: offer, checking all offers' signatures, rounding, masking, serialising. Of the peer, the four calls
  of its client.
- A round: all hospitals' work and the coordinator's, from float32 vectors to the float mean. Manikin: cut to ±8, round
  to 2⁻¹⁸, mask, serialise, add. The peer: Flower 1.41's own `SecAggPlusWorkflow` and `secaggplus_mod` with their
  defaults (the same grid), handing over messages as objects; no transport, broadcast, training or strategy on either
  side.
- Words: Manikin takes 32 bits where the plan's bound times the number of hospitals is below 2³⁰, as here and as SecAgg+
  does, and 64 bits otherwise. The second row has the same numbers under a larger bound.
- "All share masks" is the peer nearest to equal secrecy: every hospital masks against every other (`num_shares` all,
  threshold ⅔; so many of them with the server still open one, against all but one of Manikin's). With {FEW_SHARES}
  shares (Flower's example) a hospital masks against two others, and those two with the server see it. The number
  wanted, a round at least {ALLOWED_RATIO:.0f} times faster, is for the first.
- SecAgg+ goes on when hospitals drop out, which costs it shares and a second mask; Manikin's sum does not go on. Masks
  of SecAgg+ come from NumPy's Mersenne Twister under a seed folded to 32 bits; ours from ChaCha20 under 256 bits.
- Error on integers: the largest difference to the sum in exact arithmetic. Error of the mean: against float64, rounding
  included; the peer rounds at random, Manikin to the nearest.
"""
Line = dict[str, Any]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Round:
    """What one round took and gave; seconds of one core."""

    mask_s: float | None
    hospital_s: float
    round_s: float
    error_on_integers: int | None
    error_of_mean: float


def run_manikin(vectors: Vectors, *, bound: int) -> Round:
    """A whole round over one vector (d,) a hospital."""
    word = word_type(bound, hospitals=len(vectors))
    identities = {f"hospital {i}": SigningKey.generate() for i in range(len(vectors))}
    public = {name: key.public_key for name, key in identities.items()}
    began, masking, working = time.process_time(), list[float](), list[float]()
    privates, offers, spent = dict[str, bytes](), list[dict[str, str]](), dict[str, float]()
    for name, key in identities.items():
        start = time.process_time()
        privates[name], offer = make_offer(key, hospital=name, plan=PLAN, step=STEP)
        offers.append(offer.as_json())
        spent[name] = time.process_time() - start
    request = request_digest({"plan": PLAN, "step": STEP, "offers": offers})
    summation = Summation(agree(offers, public), size=vectors.shape[1], bound=bound)
    for name, vector in zip(identities, vectors, strict=True):
        start = time.process_time()
        roster, share = agree(offers, public), round_to_grid(vector)
        ready = time.process_time()
        part = mask(share, private=privates[name], own=name, roster=roster, request=request, bound=bound)
        masking.append(time.process_time() - ready)
        body = part.tobytes()
        working.append(spent[name] + time.process_time() - start)
        summation.add(name, np.frombuffer(body, dtype=word))
    total = summation.total()
    mean = total / (len(vectors) << GRID_BITS)
    whole = time.process_time() - began
    exact = np.abs(total - sum(round_to_grid(vector) for vector in vectors)).max()
    medians = statistics.median(masking), statistics.median(working)
    return Round(*medians, whole, int(exact), error_of(mean, vectors))


def agree(offers: Sequence[dict[str, str]], public: dict[str, bytes]) -> Roster:
    """The roster, as each party checks it."""
    read = [Offer.from_json(offer) for offer in offers]
    return Roster.agreed(read, identities=public, counted=public, quorum=len(public), plan=PLAN, step=STEP)


def round_to_grid(vector: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 (d,): cut to ±`CLIP`, in units of the grid; scaling by a power of two is exact."""
    scaled = np.clip(vector, -CLIP, CLIP)
    scaled *= 1 << GRID_BITS
    return np.rint(scaled, out=scaled).astype(np.int64)


def run_peer(vectors: Vectors, *, shares: int) -> Round:
    """The same by SecAgg+."""
    mean, hospital_s, round_s = run_secagg(list(vectors), shares=shares, clip=CLIP)
    return Round(None, hospital_s, round_s, None, error_of(mean, vectors))


def error_of(mean: NDArray[Any], vectors: Vectors) -> float:
    """The largest difference to the mean in float64."""
    return float(np.abs(mean - vectors.mean(axis=0, dtype=np.float64)).max())


def measure(hospitals: int, size: int, repeats: int) -> list[Line]:
    """All methods in turns; one line each."""
    vectors = np.random.default_rng(hospitals).normal(size=(hospitals, size)).astype(np.float32)
    runs: dict[str, Callable[[], Round]] = {
        OURS: lambda: run_manikin(vectors, bound=BOUNDS[32]),
        LONG: lambda: run_manikin(vectors, bound=BOUNDS[64]),
        WHOLE: lambda: run_peer(vectors, shares=hospitals),
        FEW: lambda: run_peer(vectors, shares=FEW_SHARES),
    }
    if hospitals <= FEW_SHARES:
        del runs[FEW]
    turns = [{method: after_another(run) for method, run in runs.items()} for _ in range(repeats)]
    return [summary(method, turns) for method in runs]


def after_another(run: Callable[[], Round]) -> Round:
    """The second of two rounds: as in a process that lives long, its memory is there already."""
    run()
    return run()


def summary(method: str, turns: Sequence[Mapping[str, Round]]) -> Line:
    """Medians over the turns, worst errors, and a peer's ratios to ours in the same turn."""
    facts = [asdict(turn[method]) for turn in turns]
    seconds = [key for key in ("mask_s", "hospital_s", "round_s") if facts[0][key] is not None]
    errors = [key for key in ("error_on_integers", "error_of_mean") if facts[0][key] is not None]
    line: Line = {"method": method, "rounds": len(turns)}
    line |= {key: round(statistics.median(fact[key] for fact in facts), 5) for key in seconds}
    line |= {key: max(fact[key] for fact in facts) for key in errors}
    if method not in (OURS, LONG):
        for name, own in RATIOS.items():
            ratios = [turn[method].round_s / turn[own].round_s for turn in turns]
            line[name] = round(statistics.median(ratios), 2)
    return line


def page(lines: Sequence[Line]) -> str:
    """Markdown: a row a case, then what was wanted."""
    head = ("hospitals", "entries", "method", "masking, s", "a hospital, s", "a round, s", "to 32, 64 bits")
    rows = [(*head, "error on integers", "error of the mean", "rounds")]
    rows.append(("---",) * len(rows[0]))
    rows += [_row(line) for line in lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n{verdict(lines)}"


def _row(line: Line) -> tuple[str, ...]:
    errors = line.get("error_on_integers"), line["error_of_mean"]
    return (
        str(line["hospitals"]),
        f"{line['entries']:,}",
        line["method"],
        f"{line['mask_s']:.4f}" if "mask_s" in line else "–",
        f"{line['hospital_s']:.4f}",
        f"{line['round_s']:.3f}",
        ", ".join(f"{line[name]:.1f} ×" for name in RATIOS) if "ratio_to_manikin" in line else "–",
        "–" if errors[0] is None else str(errors[0]),
        f"{errors[1]:.1e}",
        str(line["rounds"]),
    )


def verdict(lines: Sequence[Line]) -> str:
    """Whether the numbers wanted were reached; with the worst of each."""
    wrong = sum(line.get("error_on_integers", 0) for line in lines)
    said = [f"Errors on integers: {wrong}, {_reached(wrong == 0)}."]
    masking = [
        line["mask_s"] for line in lines if "mask_s" in line and (line["hospitals"], line["entries"]) == ALLOWED_AT
    ]
    if masking:
        reached = _reached(max(masking) <= ALLOWED_S)
        said.append(f"Masking at 10 hospitals and 10⁶ entries: {max(masking):.3f} s of {ALLOWED_S} allowed, {reached}.")
    for name, own in RATIOS.items():
        least = min(line[name] for line in lines if line["method"] == WHOLE)
        reached = _reached(least >= ALLOWED_RATIO)
        said.append(f"{own}: rounds of SecAgg+ at equal secrecy took {least:.1f} times as long or more, {reached}.")
    return " ".join(said)


def _reached(good: bool) -> str:
    return "met" if good else "missed"


def main() -> None:
    """All cases; the page is written by a whole run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="3 and 10 hospitals, 10⁵ entries, twice each; no page")
    parser.add_argument("--json", action="store_true", help="print JSON lines alone")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the table; results.jsonl is beside it")
    arguments = parser.parse_args()
    code, lines = results.commit(), list[Line]()
    for hospitals, size in [(n, d) for d in SIZES for n in HOSPITALS if not arguments.quick or n * d <= 10 * SIZES[0]]:
        head = {"hospitals": hospitals, "entries": size, "commit": code, "cores": os.cpu_count()}
        head |= {"load_before": round(os.getloadavg()[0], 2), "date": results.today()}
        repeats = 2 if arguments.quick else REPEATS[hospitals]
        for line in measure(hospitals, size, repeats):
            case = {"case": f"secure sum: {hospitals} × {size:,}, {line['method']}"}
            lines.append(head | case | line)
            print(json.dumps(lines[-1], sort_keys=True), flush=True)
    if not arguments.json:
        print(page(lines))
    if not arguments.quick:
        for line in lines:
            results.append(arguments.out.with_name("results.jsonl"), line)
        heading = f"## Secure sums\n\nCommit {code}, {results.today()}, `make bench-secure-sum`"
        text = f"{heading}, one core of {os.cpu_count()}.\n\n{page(lines)}\n{NOTES}"
        results.write_section(arguments.out, SECTION, text)


if __name__ == "__main__":
    main()
