"""Public data sets as hospitals: real scans written as sources, then imported as any hospital would.

    python benchmarks/data.py pneumonia --work DIR

makes `DIR/pneumonia/hospitals/*`, one folder a hospital, and `DIR/pneumonia/test`, which no hospital holds. Data are
found through MANIKIN_DATA (default: `../shared/data` beside the repository); nothing is ever written there nor into
the repository. Where a data set says nothing of patients, no patient ids are made up: the unit is then the image.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import BadData
from manikin.common.files import write_atomically
from manikin.common.images import Float32Array, Int64Array, flatten
from manikin.common.study import Data

STUDIES = Path(__file__).parent / "studies"
TEST = "test"
SHUFFLE_SEED = 2026
MEDNIST_TEST = 2000
PHANTOM_HOSPITALS, PHANTOM_PATIENTS, PHANTOM_TEST = ("north", "south", "coast"), 1670, 500
LGG_SITES = ("CS", "DU", "FG", "HT")


@dataclass(frozen=True)
class Source:
    """What one hospital imports: a file or folder, and for a folder its `labels.csv`."""

    hospital: str
    path: Path
    labels: Path | None = None


def data_root() -> Path:
    """Folder of the shared real data.

    Raises:
        BadData: there is none.
    """
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    root = Path(os.environ.get("MANIKIN_DATA", default)).resolve()
    if not root.is_dir():
        raise BadData("The real data are not here.", f"{root.name} is no folder.", "Set MANIKIN_DATA to their folder.")
    return root


def write_sources(dataset: str, work: Path) -> list[Source]:
    """Write what each hospital imports, and the test set if there is one, under `work`.

    Args:
        dataset: one of `DATASETS`.
        work: a folder outside the repository.

    Raises:
        BadData: the data are not here.
    """
    return DATASETS[dataset](data_root(), work)


def prepare_hospitals(dataset: str, work: Path) -> list[Path]:
    """Hospital folders of a data set, made by the real import; what was made before is taken as it is.

    Returns:
        The hospitals' folders; the test set, where there is one, is at `work / "test"` in the same form.
    """
    from manikin.client.cohort import create_hospital, import_source

    ready = work / "ready"
    if not ready.exists():
        for name in ("sources", "hospitals", TEST):
            shutil.rmtree(work / name, ignore_errors=True)
        for source in write_sources(dataset, work / "sources"):
            create_hospital(_folder(work, source.hospital), source.hospital)
            import_source(source.path, _folder(work, source.hospital), labels=source.labels)
        shutil.rmtree(work / "sources")
        write_atomically(ready, b"")
    return sorted(path for path in (work / "hospitals").iterdir() if path.is_dir())


def load_test(work: Path, hospitals: list[Path], data: Data) -> tuple[Float32Array, Int64Array]:
    """Test images (n, c, *spatial) and labels (n,): the split kept aside, else the holdout of all hospitals."""
    from manikin.client.cohort import Cohort

    data = data.model_copy(update={"patients_min": 1})
    if (work / TEST).exists():
        patients = [p for part in Cohort.open(work / TEST).load(data).values() for p in part]
    else:
        patients = [p for folder in hospitals for p in Cohort.open(folder).load(data)["holdout"]]
    images, labels, _ = flatten(patients)
    return images, labels


def _folder(work: Path, hospital: str) -> Path:
    return work / TEST if hospital == TEST else work / "hospitals" / hospital


def _pneumonia(root: Path, work: Path) -> list[Source]:
    """Train in three shuffled thirds (the file has all normals first); the official test split aside, val unused."""
    with np.load(root / "pneumoniamnist28" / "pneumoniamnist28.npz") as file:
        train, test = ((file[f"{part}_images"], file[f"{part}_labels"].ravel()) for part in ("train", "test"))
        names = file["class_names"]
    return [*_split_in_three(work, *train, names), _npz(work, TEST, *test, names)]


def _mednist(root: Path, work: Path) -> list[Source]:
    """10,000 images in three thirds, 2,000 kept aside as a test."""
    with np.load(root / "mednist" / "mednist64_12k.npz") as file:
        images, labels, names = file["images"], file["labels"], file["class_names"]
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(images))
    aside, rest = order[:MEDNIST_TEST], order[MEDNIST_TEST:]
    test = _npz(work, TEST, images[aside], labels[aside], names)
    return [*_split_in_three(work, images[rest], labels[rest], names), test]


def _lgg(root: Path, work: Path) -> list[Source]:
    """One hospital a site, slices with their patients; the site with a single patient is left out."""
    with np.load(root / "tcga_lgg_mri" / "lgg_slices64.npz") as file:
        images, labels, patients, sites = (file[key] for key in ("images", "tumour", "patient", "site"))
    names = np.array(["no tumour", "tumour"])
    usable = images[..., 1].std(axis=(1, 2)) > 0
    chosen = {site: np.flatnonzero((sites == site) & usable) for site in LGG_SITES}
    return [
        _npz(work, site, images[rows], labels[rows], names, axes="NHWC", patients=patients[rows], sites=sites[rows])
        for site, rows in chosen.items()
    ]


def _hippocampus(root: Path, work: Path) -> list[Source]:
    """260 NIfTI volumes in three shuffled folders, one label: there is no diagnosis, and no patient id to trust."""
    files = sorted((root / "msd_hippocampus" / "images").glob("*.nii.gz"))
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(files))
    sources = []
    for number, rows in enumerate(np.array_split(order, 3)):
        folder = work / f"hospital-{number + 1}"
        folder.mkdir(parents=True)
        for row in sorted(rows):
            shutil.copyfile(files[row], folder / files[row].name)
        labels = folder / "labels.csv"
        _write_csv(labels, [(files[row].name, "hippocampus") for row in sorted(rows)])
        sources.append(Source(folder.name, folder, labels))
    return sources


def _phantoms(root: Path, work: Path) -> list[Source]:
    """Simulated patients of the demo's three hospitals, with a rare finding, and as many again of each as a test."""
    from manikin.common import phantoms

    del root
    sources, aside = [], []
    for number, name in enumerate(PHANTOM_HOSPITALS):
        people = phantoms.population(name, "chest-xr")
        count = PHANTOM_PATIENTS + PHANTOM_TEST
        scans = phantoms.simulate(people, shape=(32, 32), count=count, seed=SHUFFLE_SEED + number)
        images, names = np.round((scans.images[:, 0] + 1) * 127.5).astype(np.uint8), np.array(scans.class_names)
        patients = np.array([f"{name}-{i}" for i in range(count)])
        rows = slice(PHANTOM_PATIENTS)
        sources.append(_npz(work, name, images[rows], scans.labels[rows], names, patients=patients[rows]))
        aside.append((images[PHANTOM_PATIENTS:], scans.labels[PHANTOM_PATIENTS:], patients[PHANTOM_PATIENTS:]))
    images, labels, patients = (np.concatenate(part) for part in zip(*aside, strict=True))
    return [*sources, _npz(work, TEST, images, labels, names, patients=patients)]


DATASETS: dict[str, Callable[[Path, Path], list[Source]]] = {
    "pneumonia": _pneumonia,
    "mednist": _mednist,
    "lgg": _lgg,
    "hippocampus": _hippocampus,
    "phantoms": _phantoms,
}


def _split_in_three(work: Path, images: NDArray[Any], labels: NDArray[Any], names: NDArray[np.str_]) -> list[Source]:
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(images))
    parts = np.array_split(order, 3)
    return [_npz(work, f"hospital-{i + 1}", images[p], labels[p], names) for i, p in enumerate(parts)]


def _npz(
    work: Path,
    hospital: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    names: NDArray[np.str_],
    *,
    axes: str = "NHW",
    **columns: NDArray[Any],
) -> Source:
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{hospital}.npz"
    arrays = {"images": images, "axes": np.array(axes), "labels": labels.astype(np.int64), "class_names": names}
    np.savez(path, **arrays, **columns)  # type: ignore[arg-type]
    return Source(hospital, path)


def _write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("file", "label"), *rows])
    write_atomically(path, text.getvalue().encode())


def main() -> None:
    """Make the hospitals of one data set and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--work", type=Path, default=None, help="folder for the hospitals; default: a temporary one")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="manikin-bench-"))
    for folder in prepare_hospitals(arguments.dataset, work / arguments.dataset):
        print(folder)


if __name__ == "__main__":
    main()
