"""What a release is worth: real federations over real scans, scored by a classifier on patients that nobody trained on.

    python benchmarks/utility.py            # everything, under an hour on two cores
    python benchmarks/utility.py --quick    # a few minutes

Each case prints one JSON line and is kept, so that a stopped run goes on. The table goes into RESULTS.md when one
commit has answered every case; a case is answered once, also where an audit stopped it. Beside each
family stand, in the same run: a classifier trained on the real images, one trained on them by DP-SGD at the same ε, and
a release of one hospital alone. The test images are read once per case, and nothing is chosen by them.

Hospitals are copied fresh for each case, with their ledgers empty: right for public data, and wrong anywhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import results
from data import STUDIES, load_test, prepare_hospitals
from direct import train_and_score_privately

from manikin.client.cohort import Cohort
from manikin.common import phantoms
from manikin.common.errors import AuditFailed
from manikin.common.evaluation import draw_balanced
from manikin.common.evaluation.classification import predict, score, train_classifier
from manikin.common.evaluation.comparison import LabelledImages, likeness
from manikin.common.export.contact import contact_sheet, flat
from manikin.common.files import write_atomically
from manikin.common.images import Patient, flatten
from manikin.common.release import load_release
from manikin.common.study import Study, load_study, parse_study
from manikin.embedded.federation import federate

REAL, DIRECT, ALONE = "real images", "classifier by DP-SGD", "one hospital alone (moments)"
PHANTOMS = "simulated images, no patient read"
SYNTHETIC = {"pneumonia": 4000, "mednist": 6000, "lgg": 2000, "hippocampus": 200, "phantoms": 4000}
RARE = "effusion"  # of the simulated federation
GROUPS = ("local", "distributed", "grid")
CLASSIFIERS = 2
PICTURES = 10
SECTIONS = {"local": "utility", "distributed": "utility-distributed", "grid": "utility-grid"}
COMMANDS = {"local": "make bench-utility", "distributed": "make bench-distributed", "grid": "make bench-grid"}
HEADINGS = {
    "local": "## Usefulness of releases",
    "distributed": "## Usefulness of releases, distributed mode",
    "grid": "## Usefulness over a grid of ε",
}
LOCAL_NOTES = """
- Unit `image`: the data set names no patients. ε is for adding or removing one of them.
- AUC (macro, one against the rest) and balanced accuracy: a small CNN trained on what the row names, tested on the
  official or kept-aside test images; `±` is the standard deviation over federations with fresh noise.
- Fréchet: distance to the test images in Manikin's phantom-trained feature space, comparable within one data set only;
  for real images, of as many training images.
- The classifier by DP-SGD has all hospitals' patients in one place, and serves one task only.
- Audits: the worst verdict of the hospitals in each run. A run that fails is not released, has no scores, and is not
  repeated: the means are over the others. At the studies' level α = 0.05 an honest release is stopped in up to 5 of
  100 federations. (An earlier round of this benchmark, when each hospital tested at 0.05 by itself, had 1 of 28
  federations stopped: `moments` at ε = 1, re-identification at one hospital, adjusted p = 0.044. That may be the false
  alarm that such a level allows; it cannot be told from one run. Each hospital now tests at its share of 0.05.)
- LGG has 14 to 45 patients a hospital, protected patient by patient: below the noise floor of local mode. What is
  released there is mostly the simulated prior, and the scores say what that costs.
- Hippocampus volumes have one class: no classifier.
- Tests: PneumoniaMNIST's official test split, 2,000 MedNIST images kept aside, the holdout patients of all hospitals
  for LGG and hippocampus. The rival's learning rate was chosen on the hospitals' holdout. These test sets were seen in
  earlier rounds: the prior of the hippocampus study was changed from a texture to phantoms after its distance had been
  read, and the 3D feature network was trained longer after it had been tried on real hippocampus and LGG volumes. So
  the hippocampus rows are not untouched, and no distance in 3D should be read as more than an order of magnitude.
"""


DISTRIBUTED_NOTES = """
- Three hospitals, one of which may work with the coordinator (`collusion = 1`): ε holds against them, by Rényi
  divergences of the Skellam mechanism. Otherwise as above.
- Kernel: kernel distance (times 1000) in the same features as Fréchet.
- `phantoms`: 5,010 simulated patients of three hospitals whose anatomy and scanners the prior has never seen, with a
  rare finding (effusion); 1,500 more are the test. Recall of rare: share of test patients with the finding that the
  classifier calls by it.
"""
NOTES = {"local": LOCAL_NOTES, "distributed": DISTRIBUTED_NOTES, "grid": DISTRIBUTED_NOTES}


@dataclass(frozen=True)
class Case:
    """One number to find out."""

    dataset: str
    family: str
    study: str
    epsilon: float | None
    seed: int = 0
    mode: str = "local"

    @property
    def learned_by(self) -> str:
        return self.family if self.mode == "local" else f"{self.family}, {self.mode}"

    @property
    def name(self) -> str:
        limit = "" if self.epsilon is None else f", ε = {self.epsilon:g}"
        return f"{self.dataset}: {self.learned_by}{limit}, run {self.seed + 1}"


def cases(group: str, *, quick: bool = False) -> Iterator[Case]:
    """All cases of a group, cheap ones first."""
    yield from {"local": _local_cases, "distributed": _distributed_cases, "grid": _grid_cases}[group](quick)


def _distributed_cases(quick: bool) -> Iterator[Case]:
    """One noise for all hospitals: the same studies under secure sums, and a federation with a rare finding."""
    for seed in range(1 if quick else 3):
        for epsilon in (3.0,) if quick else (3.0, 1.0):
            for family in ("moments", "principal"):
                yield Case("pneumonia", family, f"pneumonia_{family}", epsilon, seed, "distributed")
    if quick:
        return
    yield Case("phantoms", REAL, "phantoms", None)
    yield Case("phantoms", DIRECT, "phantoms", 3.0)
    for seed in range(3):
        for family in ("moments", "principal"):
            yield Case("phantoms", family, f"phantoms_{family}", 3.0, seed, "distributed")
    for seed in range(3):
        yield Case("pneumonia", "diffusion", "pneumonia", 3.0, seed, "distributed")


def _grid_cases(quick: bool) -> Iterator[Case]:
    """A night's work: every data set, both modes, four ε."""
    for seed in range(1 if quick else 3):
        for epsilon in (0.5, 1.0, 3.0, 8.0):
            for mode in ("local", "distributed"):
                for dataset in ("pneumonia", "mednist", "lgg", "phantoms"):
                    for family, study in _families(dataset):
                        yield Case(dataset, family, study, epsilon, seed, mode)
            for dataset in ("pneumonia", "mednist", "lgg", "phantoms"):
                study = "pneumonia_moments" if dataset == "pneumonia" else dataset
                yield Case(dataset, DIRECT, study, epsilon, seed)
            yield Case("pneumonia", ALONE, "pneumonia_moments", epsilon, seed)


def _families(dataset: str) -> list[tuple[str, str]]:
    """Families of the grid, and their studies."""
    if dataset in ("mednist", "lgg"):
        return [("moments", dataset)]
    released = [(family, f"{dataset}_{family}") for family in ("moments", "principal")]
    return [*released, ("diffusion", dataset)]


def _local_cases(quick: bool) -> Iterator[Case]:
    yield Case("pneumonia", REAL, "pneumonia_moments", None)
    yield Case("pneumonia", PHANTOMS, "pneumonia_moments", 0.0)
    for seed in range(1 if quick else 3):
        for epsilon in (3.0,) if quick else (1.0, 3.0):
            yield Case("pneumonia", "moments", "pneumonia_moments", epsilon, seed)
            yield Case("pneumonia", ALONE, "pneumonia_moments", epsilon, seed)
            yield Case("pneumonia", DIRECT, "pneumonia_moments", epsilon, seed)
    if quick:
        return
    for dataset in ("mednist", "lgg", "hippocampus"):
        yield Case(dataset, REAL, dataset, None)
        for seed in range(3):
            yield Case(dataset, "moments", dataset, 3.0, seed)
        if dataset != "hippocampus":
            yield Case(dataset, DIRECT, dataset, 3.0)
    for seed in range(3):
        for epsilon in (1.0, 3.0):
            yield Case("pneumonia", "diffusion", "pneumonia", epsilon, seed)
    yield Case("hippocampus", "diffusion", "hippocampus_diffusion", 3.0)


@dataclass(frozen=True)
class Bench:
    """The hospitals and the test of one data set, made once."""

    work: Path
    hospitals: list[Path]
    train: list[Patient]
    test: LabelledImages

    @classmethod
    def open(cls, dataset: str, work: Path, study: Study) -> Bench:
        """Import what is not there yet, and read the patients that may be learned from."""
        hospitals = prepare_hospitals(dataset, work / dataset)
        train = [p for folder in hospitals for p in Cohort.open(folder).load(study.data)["train"]]
        return cls(work, hospitals, train, load_test(work / dataset, hospitals, study.data))


def run_case(case: Case, work: Path, *, commit: str) -> dict[str, Any]:
    """One JSON line."""
    started = time.monotonic()
    study = case_study(case)
    bench = _open_bench(case.dataset, work)
    find: Callable[[Case, Study, Bench], dict[str, Any]] = {REAL: _real, DIRECT: _direct, PHANTOMS: _phantoms}.get(
        case.family, _federation
    )
    found = find(case, study, bench)
    return {
        "case": case.name,
        "dataset": case.dataset,
        "family": case.learned_by,
        "epsilon": case.epsilon,
        "delta": study.privacy.delta,
        "unit": study.privacy.unit,
        "seed": case.seed,
        "seconds": round(time.monotonic() - started, 1),
        "commit": commit,
        "date": results.today(),
        **found,
    }


def case_study(case: Case) -> Study:
    """The study file with the case's ε, and a name of its own, so that its noise is its own."""
    raw = load_study(STUDIES / f"{case.study}.toml").model_dump(mode="json", by_alias=True, exclude_none=True)
    if case.epsilon:
        raw["privacy"]["epsilon"] = case.epsilon
        raw["name"] = f"{raw['name']}-{case.epsilon:g}-{case.seed}"
    if case.mode == "distributed":
        raw["name"] += "-distributed"
        raw["federation"] |= {"mode": "distributed", "collusion": 1}
        for stage in raw["stage"]:
            if stage["kind"] == "train":
                stage["rounds"] = stage["steps"]
    if case.family == ALONE:
        raw["name"] += "-alone"
        raw["federation"]["quorum"] = 1
    return parse_study(raw)


@cache
def _open_bench(dataset: str, work: Path) -> Bench:
    return Bench.open(dataset, work, load_study(STUDIES / f"{dataset}.toml"))


def _real(case: Case, study: Study, bench: Bench) -> dict[str, Any]:
    del case
    images = flatten(bench.train)[:2]
    return {**_scores(images, study, bench), **_distances(likeness(images, images, bench.test, seeds=3)["real"])}


def _phantoms(case: Case, study: Study, bench: Bench) -> dict[str, Any]:
    """What the prior is worth by itself: simulated normal chests and pneumonias, ε = 0."""
    del case
    public = phantoms.population("public", "chest-xr")
    shares = {label: 1 / len(study.data.labels) for label in study.data.labels}
    drawn = phantoms.simulate(public, shape=study.data.shape, count=SYNTHETIC["pneumonia"], seed=0, findings=shares)
    images = drawn.images, np.array([study.data.labels.index(drawn.class_names[label]) for label in drawn.labels])
    found = likeness(images, flatten(bench.train)[:2], bench.test, seeds=3)["synthetic"]
    return {**_scores(images, study, bench), **_distances(found)}


def _direct(case: Case, study: Study, bench: Bench) -> dict[str, Any]:
    assert case.epsilon is not None
    scores = train_and_score_privately(
        bench.train,
        bench.test,
        classes=len(study.data.labels),
        epsilon=case.epsilon,
        delta=study.privacy.delta,
        seed=case.seed,
    )
    return {"auc": scores.auc, "balanced_accuracy": scores.balanced_accuracy, "frechet": None}


def _federation(case: Case, study: Study, bench: Bench) -> dict[str, Any]:
    hospitals = bench.hospitals[:1] if case.family == ALONE else bench.hospitals
    run = bench.work / "runs" / study.name
    shutil.rmtree(run, ignore_errors=True)
    folders = [Path(shutil.copytree(h, run / "hospitals" / h.name, symlinks=True)) for h in hospitals]
    try:
        result = federate(study, folders, run / "out")
    except AuditFailed:
        return {"auc": None, "balanced_accuracy": None, "frechet": None, "audit": "fail"}
    release = load_release(result.bundle, result.trust)
    shutil.rmtree(run / "hospitals")
    synthetic = draw_balanced(release, SYNTHETIC[case.dataset])
    _save_pictures(bench.work / "contact" / f"{study.name}.png", synthetic, study)
    found = likeness(synthetic, flatten(bench.train)[:2], bench.test, seeds=3)["synthetic"]
    facts = {"audit": result.verdict, "spent": round(result.epsilon, 4), "parts": result.seconds}
    return {**_scores(synthetic, study, bench), **_distances(found), **facts}


def _distances(found: dict[str, Any]) -> dict[str, float | None]:
    return {"frechet": found["frechet"], "kernel": found["kernel"]}


def _scores(images: LabelledImages, study: Study, bench: Bench) -> dict[str, float | None]:
    classes = len(study.data.labels)
    if classes < 2:
        return {"auc": None, "balanced_accuracy": None}
    scores, recalls = [], []
    rare = study.data.labels.index(RARE) if RARE in study.data.labels else None
    for seed in range(CLASSIFIERS):
        model = train_classifier(*images, classes=classes, seed=seed)
        probabilities = predict(model, bench.test[0])
        scores.append(score(probabilities, bench.test[1]))
        if rare is not None:
            recalls.append(float((probabilities[bench.test[1] == rare].argmax(1) == rare).mean()))
    return {
        "auc": _mean([found.auc for found in scores]),
        "balanced_accuracy": _mean([found.balanced_accuracy for found in scores]),
        **({"recall_of_rare": _mean(recalls)} if recalls else {}),
    }


def _mean(values: list[float | None]) -> float | None:
    """The mean, or None where the test holds one class only; an AUC of 0 is a score like any other."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _save_pictures(path: Path, synthetic: LabelledImages, study: Study) -> None:
    """A row of samples a class, outside the repository."""
    images, labels = synthetic
    rows = {c: [flat(image[0]) for image in images[labels == c][:PICTURES]] for c in range(len(study.data.labels))}
    write_atomically(path, contact_sheet(rows, study.data.labels))


def default_work() -> Path:
    """The cache folder, where a stopped run is found again."""
    root = os.environ.get("MANIKIN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "manikin"
    return Path(root) / "benchmarks"


def main() -> None:
    """Run the cases that this commit has not answered yet; write the page when all are answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder for hospitals, runs and JSON lines")
    parser.add_argument("--quick", action="store_true", help="one federation and its references")
    parser.add_argument("--group", choices=GROUPS, default="local", help="which cases; grid takes a night")
    parser.add_argument("--round", default="", help="name of a series that goes over several commits")
    parser.add_argument("--json", action="store_true", help="only JSON lines, no table")
    parser.add_argument("--only", default="", help="run only cases whose name holds this text")
    parser.add_argument(
        "--out", type=Path, default=results.ROOT / "benchmarks" / "RESULTS.md", help="page of the table"
    )
    arguments = parser.parse_args()
    group = arguments.group
    wanted = [case for case in cases(group, quick=arguments.quick) if arguments.only in case.name]
    journal, code = arguments.work / "utility.jsonl", results.commit()
    series = arguments.round or code
    done = results.answers(results.read(journal), series=series)
    for case in wanted:
        if case.name not in done:
            line = run_case(case, arguments.work, commit=code)
            done[case.name] = line | ({"round": series} if arguments.round else {})
            results.append(journal, done[case.name])
        print(json.dumps(done[case.name], sort_keys=True), flush=True)
    every = [case.name for case in cases(group)]
    known = [done[name] for name in dict.fromkeys(every) if name in done]
    if not arguments.json:
        print(results.table(known))
    if not arguments.quick and (group == "grid" or len(known) == len(set(every))):
        write_page(arguments.out, known, group, of=len(set(every)))


def write_page(out: Path, lines: Sequence[dict[str, Any]], group: str, *, of: int) -> None:
    """The section of the page; for the long grid, of as many cases as there are answers."""
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    answered = (
        f" {len(lines)} of {of} cases are answered; a stopped grid goes on where it was." if group == "grid" else ""
    )
    head = f"{HEADINGS[group]}\n\nCommit {commits}, {results.today()}, `{COMMANDS[group]}`.{answered}"
    results.write_section(out, SECTIONS[group], f"{head}\n\n{results.table(lines)}\n\n{NOTES[group]}")


if __name__ == "__main__":
    main()
