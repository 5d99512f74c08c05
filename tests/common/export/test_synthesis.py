"""A data set is the same however often it was stopped, and a folder holds one."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from manikin.common.errors import BadData, Misconfigured, StorageFailure
from manikin.common.export import request as request_module
from manikin.common.export import synthesis
from manikin.common.export.shards import Workshop
from manikin.common.export.synthesis import synthesize
from manikin.common.release import load_release

VOLUME = {"modality": "MR", "spatial_dims": 3, "shape": [4, 6, 5], "spacing_mm": [1.0, 1.0, 2.0]}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Four images a shard, so that a few images are several shards."""
    monkeypatch.setattr(request_module, "SHARD_IMAGES", 4)


@pytest.fixture(scope="module")
def release(pristine):
    return load_release(pristine.bundle)


@pytest.fixture
def volumes(tmp_path, publish):
    (tmp_path / "published").mkdir()
    return load_release(publish(tmp_path / "published", data=VOLUME).bundle)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file_format", ["npz", "png", "nifti", "dicom"])
def test_the_same_seed_gives_the_same_bytes(release, tmp_path, file_format):
    for name in ("a", "b"):
        synthesize(release, tmp_path / name, count=10, file_format=file_format, seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("file_format", ["npz", "nifti", "dicom"])
def test_volumes_come_in_every_format_but_png(volumes, tmp_path, file_format):
    synthesize(volumes, tmp_path / "out", count=3, file_format=file_format)
    assert json.loads((tmp_path / "out" / "synthetic.json").read_text())["complete"]


def test_volumes_are_refused_as_png_before_anything_is_written(volumes, tmp_path):
    with pytest.raises(Misconfigured):
        synthesize(volumes, tmp_path / "out", count=3, file_format="png")
    assert not (tmp_path / "out").exists()


def test_another_seed_gives_other_images(release, tmp_path):
    for seed in (0, 1):
        synthesize(release, tmp_path / str(seed), count=4, file_format="npz", seed=seed)
    first, second = (np.load(tmp_path / str(seed) / "shard-00000.npz")["images"] for seed in (0, 1))
    assert not np.allclose(first, second)


def test_images_of_a_data_set_differ(release, tmp_path):
    synthesize(release, tmp_path / "out", count=12, file_format="npz")
    images = np.concatenate([np.load(path)["images"] for path in sorted((tmp_path / "out").glob("*.npz"))])
    assert len(np.unique(images.reshape(12, -1), axis=0)) == 12


@pytest.mark.parametrize("file_format", ["npz", "png"])
@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stopped_run_goes_on_to_the_same_bytes(release, tmp_path, monkeypatch, file_format, stop_after):
    arguments = {"count": 10, "file_format": file_format, "mix": {"normal": 0.7, "pneumonia": 0.3}}
    synthesize(release, tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "make", stopping(Workshop.make, stop_after))
        with pytest.raises(KeyboardInterrupt):
            synthesize(release, tmp_path / "stopped", **arguments)
    done: list[int] = []
    outcome = synthesize(release, tmp_path / "stopped", **arguments, progress=done.append)
    assert (outcome.made, outcome.found) == (10 - 4 * stop_after, 4 * stop_after)
    assert sum(done) == 10
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def stopping(make, after):
    calls = 0

    def stop(workshop, shard):
        nonlocal calls
        if calls == after:
            raise KeyboardInterrupt
        calls += 1
        return make(workshop, shard)

    return stop


def test_a_finished_data_set_is_left_alone(release, tmp_path):
    synthesize(release, tmp_path / "out", count=6, file_format="png")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    outcome = synthesize(release, tmp_path / "out", count=6, file_format="png")
    assert (outcome.made, outcome.found) == (0, 6)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"count": 7}, "count"),
        ({"seed": 1}, "seed"),
        ({"file_format": "npz"}, "format"),
        ({"mix": {"normal": 1.0}}, "mix"),
    ],
    ids=str,
)
def test_another_request_in_the_same_folder_is_refused(release, tmp_path, change, named):
    arguments = {"count": 6, "file_format": "png"}
    synthesize(release, tmp_path / "out", **arguments)
    before = contents(tmp_path / "out")
    with pytest.raises(Misconfigured, match=f"What differs: .*{named}"):
        synthesize(release, tmp_path / "out", **(arguments | change))
    assert contents(tmp_path / "out") == before


def test_another_version_does_not_go_on_with_a_data_set(release, tmp_path, monkeypatch):
    synthesize(release, tmp_path / "out", count=6, file_format="png")
    monkeypatch.setattr(synthesis, "__version__", "0.0.0")
    with pytest.raises(Misconfigured, match="What differs: manikin"):
        synthesize(release, tmp_path / "out", count=6, file_format="png")


def test_a_folder_with_other_files_is_refused(release, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Misconfigured, match="other files"):
        synthesize(release, tmp_path, count=6, file_format="png")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("content", ["", "[]", '{"complete": true}', "null"])
def test_a_damaged_manifest_is_refused(release, tmp_path, content):
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(Misconfigured, match=r"damaged|another data set"):
        synthesize(release, tmp_path, count=6, file_format="png")


def test_the_manifest_names_release_seed_and_mix(release, tmp_path):
    synthesize(release, tmp_path / "out", count=10, file_format="npz", seed=5, mix={"pneumonia": 1.0})
    manifest = json.loads((tmp_path / "out" / "synthetic.json").read_text())
    assert manifest["request"]["release_digest"] == release.digest
    assert manifest["request"]["seed"] == 5
    assert manifest["request"]["counts"] == {"normal": 0, "pneumonia": 10}


def test_labels_name_every_file_with_its_class(release, tmp_path):
    synthesize(release, tmp_path / "out", count=10, file_format="png", mix={"normal": 0.8, "pneumonia": 0.2})
    header, *rows = (tmp_path / "out" / "labels.csv").read_text().splitlines()
    assert header == "file,patient,label"
    assert len(rows) == 10
    assert all((tmp_path / "out" / row.split(",")[0]).is_file() for row in rows)
    assert sum(row.endswith(",pneumonia") for row in rows) == 2
    assert len({row.split(",")[1] for row in rows}) == 10


def test_croissant_lists_the_files_and_the_labels(release, tmp_path):
    synthesize(release, tmp_path / "out", count=4, file_format="png")
    metadata = json.loads((tmp_path / "out" / "croissant.json").read_text())
    images, labels = metadata["distribution"]
    assert len(list((tmp_path / "out").glob(images["includes"]))) == 4
    assert labels["contentSize"] == f"{(tmp_path / 'out' / 'labels.csv').stat().st_size} B"
    assert metadata["rai:dataCollectionType"] == ["Synthetic"]


@pytest.mark.parametrize("file_format", ["npz", "png"])
def test_a_full_disk_keeps_what_is_finished_and_leaves_no_halves(release, tmp_path, monkeypatch, file_format):
    synthesize(release, tmp_path / "whole", count=10, file_format=file_format)
    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "make", filling(Workshop.make, patch))
        with pytest.raises(StorageFailure):
            synthesize(release, tmp_path / "full", count=10, file_format=file_format)
    left = contents(tmp_path / "full")
    whole = contents(tmp_path / "whole")
    first = {name: content for name, content in whole.items() if name.startswith(("images/00000/", "shard-00000"))}
    assert left == first | {"synthetic.json": left["synthetic.json"]}
    synthesize(release, tmp_path / "full", count=10, file_format=file_format)
    assert contents(tmp_path / "full") == whole


def filling(make, patch):
    """The disk is full once the first shard is written."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "full")

    def fill(workshop, shard):
        if shard.index == 1:
            patch.setattr(os, "sync", full)
            patch.setattr(os, "fsync", full)
        return make(workshop, shard)

    return fill


def test_images_that_are_not_finite_are_never_written(release, tmp_path, monkeypatch):
    sample = type(release.generator).sample

    def broken(self, conditions, *, generator):
        images = sample(self, conditions, generator=generator)
        images[0] = float("nan")
        return images

    monkeypatch.setattr(type(release.generator), "sample", broken)
    with pytest.raises(BadData, match="not finite"):
        synthesize(release, tmp_path / "out", count=4, file_format="npz")
    assert list((tmp_path / "out").glob("*.npz")) == []


def test_two_processes_write_the_same_bytes(pristine, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "WORKERS_PAY_OFF_S", 0.0)
    release = load_release(pristine.bundle)
    for workers in (1, 2):
        synthesize(release, tmp_path / str(workers), count=10, file_format="png", workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
