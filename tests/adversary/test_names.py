"""Names of patients, planted wherever a hospital's data have them, come out nowhere.

A small study as a hospital and a coordinator would run it by hand, then everything that was printed, logged, shown to
Prometheus or written outside the cohorts is searched for what was planted: as it is, in other cases and encodings, and
as the plain digests of patient ids that a dictionary would find.
"""

import base64
import csv
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import generate_latest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENTS = 30
SURNAMES = ("Quitzow", "Zsigmondy", "Wrzesniewski", "Xylander")  # no word of any program, and in no base64 by chance
BROKEN = "Jaruzelsky"
STUDY = """
schema = 1
name = "small"
[data]
modality = "CR"
spatial_dims = 2
shape = [8, 8]
window = [0, 255]
labels = ["normal", "ill"]
patients_min = 10
split = {train = 0.8, holdout = 0.1, calibration = 0.1}
[privacy]
epsilon = 8.0
delta = 1e-5
unit = "patient"
multiplicity = 1
[federation]
mode = "local"
quorum = 2
round_deadline_s = 120
weights = "equal"
[generator]
family = "moments"
coefficients = 8
[[stage]]
kind = "release"
family = "moments"
epsilon_share = 0.9
coefficients = 8
[audit]
epsilon_share = 0.1
fpr = 0.05
alpha = 0.05
synthetic = 20
tpr_limit = 0.2
"""


def patient_name(number):
    return f"{SURNAMES[number % len(SURNAMES)]}{number:03}"


def patient_id(number):
    return f"MRN-Q{number * 7919 + 104729}"


def pixels(number, seed):
    rng = np.random.default_rng([number, seed])
    return (rng.integers(0, 120, (8, 8)) + (number % 2) * 100).astype(np.uint8)


def write_dicom(path, number):
    """A radiograph whose header names the patient in every way that headers do."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.Modality, header.InstanceNumber = "CR", 1
    name = patient_name(number)
    header.PatientName, header.PatientID = f"{name}^Erika", patient_id(number)
    header.OtherPatientNames, header.ReferringPhysicianName = f"{name}^E", f"Dr^{name}"
    header.PatientComments = header.StudyDescription = f"Thorax of {name}"
    header.InstitutionName = f"Clinic {name}"
    header.add_new((0x0019, 0x0010), "LO", name)
    header.add_new((0x0019, 0x1001), "LO", f"private {name}")
    header.Rows = header.Columns = 8
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.PixelSpacing = [1.0, 1.0]
    header.PixelData = pixels(number, 1).tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def dicom_source(folder):
    """A folder a patient, named after them; one broken file, whose name is a patient's; labels by file."""
    rows = [("file", "label")]
    for number in range(PATIENTS):
        name = patient_name(number)
        write_dicom(folder / name / f"{name}.dcm", number)
        rows.append((f"{name}/{name}.dcm", ("normal", "ill")[number % 2]))
    whole = (folder / patient_name(0) / f"{patient_name(0)}.dcm").read_bytes()
    (folder / BROKEN).mkdir()
    (folder / BROKEN / f"{BROKEN}.dcm").write_bytes(whole[:-40])
    bad = whole.replace(b"PNUL", b"")
    (folder / BROKEN / f"{BROKEN}2.dcm").write_bytes(bad[:200] + b"\xff" * 40 + bad[200:])
    write_csv(folder.with_suffix(".csv"), rows)


def picture_source(folder):
    """Pictures named after patients, who are named in labels.csv as well."""
    folder.mkdir()
    rows = [("file", "patient", "label")]
    for number in range(PATIENTS):
        name = f"{patient_name(number)} portrait.png"
        Image.fromarray(pixels(number, 2)).save(folder / name)
        rows.append((name, f"{patient_name(number)}, {patient_id(number)}", ("normal", "ill")[number % 2]))
    (folder / f"{BROKEN}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + BROKEN.encode())
    rows.append((f"{BROKEN}.png", BROKEN, "ill"))
    write_csv(folder.with_suffix(".csv"), rows)


AS_TYPED = """
import json, sys
from manikin.cli.main import main
for code, *words in json.loads(sys.argv[1]):
    try:
        main(["--debug", *words])
    except SystemExit as ended:
        assert ended.code == code, (words, ended.code)
"""


@dataclass
class Studied:
    """A study that has ended: its folder, and all that was said on the way."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Two hospitals import, a study is run, goes wrong, and is run again; every command as it is typed."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "sources").mkdir()
    dicom_source(folder / "sources" / "north")
    picture_source(folder / "sources" / "south")
    (folder / "study.toml").write_text(STUDY)
    (folder / "greedy.toml").write_text(STUDY.replace("patients_min = 10", "patients_min = 1000"))
    commands = []
    for name in ("north", "south"):
        commands.append((0, "hospital", "init", name, "--name", name))
        labels = ("--labels", f"sources/{name}.csv")
        commands.append((0, "hospital", "import", f"sources/{name}", "--hospital", name, *labels, "--json"))
    both = ("--hospital", "north", "--hospital", "south", "--workers", "1", "--json")
    commands.append((16, "federate", "greedy.toml", *both, "--out", "refused"))
    commands.append((0, "federate", "study.toml", *both, "--out", "run"))
    commands.append((0, "hospital", "show", "north", "--json"))
    commands += [(0, "hospital", word, "--hospital", "north", "--json") for word in ("ledger", "egress")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MANIKIN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-P", "-c", AS_TYPED, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Studied(folder, done.stdout + done.stderr)


@functools.cache
def planted():
    """What is searched for, as bytes: the texts in several cases and encodings, and plain digests of patient ids."""
    texts = [*SURNAMES, BROKEN, *(patient_id(number) for number in range(PATIENTS))]
    cases = {case for text in texts for case in (text, text.upper(), text.lower())}
    plain = {text.encode(code) for text in cases for code in ("utf-8", "utf-16-le", "utf-32-le")}
    coded = {code for text in texts for code in (*_base64(text.encode()), text.encode().hex().encode())}
    ids = [patient_id(number) for number in range(PATIENTS)]
    names = [f"{patient_name(number)}, {patient_id(number)}" for number in range(PATIENTS)]
    hashed = {
        getattr(hashlib, kind)(text.encode()).hexdigest().encode()
        for text, kind in itertools.product([*ids, *names], ("md5", "sha1", "sha256"))
    }
    return plain | coded | hashed


def _base64(text):
    """What a text's base64 surely holds, at each of the three places where it may begin."""
    ends = {shift: len(base64.b64encode(bytes(shift + len(text))).rstrip(b"=")) for shift in range(3)}
    coded = {shift: base64.b64encode(bytes(shift) + text) for shift in range(3)}
    return {coded[shift][(shift * 8 + 5) // 6 : ends[shift] - 1] for shift in range(3)}


def found(content):
    return sorted(needle for needle in planted() if needle in content)


def files(folder):
    """Files that a study wrote: all but the sources and the cohorts, which hold the scans themselves."""
    kept = (folder / "sources", folder / "north" / "cohort", folder / "south" / "cohort")
    return [f for f in folder.rglob("*") if f.is_file() and not any(f.is_relative_to(k) for k in kept)]


def test_the_search_finds_what_was_planted(studied):
    """Else the other tests would show nothing: in a header, in a file name, in labels.csv, and in what stays inside."""
    source = studied.folder / "sources"
    assert len(found((source / "north" / patient_name(1) / f"{patient_name(1)}.dcm").read_bytes())) >= 2
    assert len(found((source / "south.csv").read_bytes())) > PATIENTS
    assert found((studied.folder / "north" / "cohort" / "import-report.json").read_bytes())
    for disguise in (BROKEN.upper().encode("utf-16-le"), base64.b64encode(b"x" + BROKEN.encode() + b"yz")):
        assert found(b"..." + disguise)
    assert found(hashlib.sha256(patient_id(3).encode()).hexdigest().encode())


def test_every_kind_of_output_is_here_to_be_searched(studied):
    names = {str(file.relative_to(studied.folder)) for file in files(studied.folder)}
    for needed in ("ledger.sqlite", "egress.sqlite", "reports/", "last-refusal.json"):
        assert any(name.startswith("north/") and needed in name for name in names), needed
    for needed in ("run/release/", "run/trust.json", "run/checkpoint.safetensors", "run/local_only/"):
        assert any(name.startswith(needed) for name in names), needed
    assert "Importing" in studied.said
    assert "Refused" in studied.said
    assert "patients" in studied.said


def test_no_name_is_printed_or_logged_or_in_an_error(studied):
    assert found(studied.said.encode()) == []


def test_no_name_is_in_a_file_or_the_name_of_a_file(studied):
    bad = {str(f): found(f.read_bytes() + str(f.relative_to(studied.folder)).encode()) for f in files(studied.folder)}
    assert {file: needles for file, needles in bad.items() if needles} == {}


def test_no_name_is_in_what_is_packed(studied):
    """Streams that zlib packs, as in PNG and PDF, are looked at unpacked."""
    for file in files(studied.folder):
        content = file.read_bytes()
        if file.suffix in (".png", ".pdf", ".html", ".gz"):
            starts = [i for i in range(len(content) - 1) if content[i : i + 2] in (b"x\x9c", b"x\xda", b"x\x01")]
            unpacked = b"".join(_unpacked(content[start:]) for start in starts[:200])
            assert found(unpacked) == [], file


def _unpacked(content):
    try:
        return zlib.decompressobj().decompress(content, 1 << 20)
    except zlib.error:
        return b""


def test_no_name_is_in_a_metric(studied):
    from manikin.client.metrics import Hospital, registry_of
    from manikin.client.vault import Vault

    counters = Vault(studied.folder / "north", embedded=True).counters
    page = generate_latest(registry_of(Hospital(counters=counters)))
    assert b"manikin_vault_steps_charged" in page
    assert found(page) == []


@pytest.mark.parametrize("rows", [("missing",), ("twice",), ("empty",)])
def test_no_name_is_in_an_error_about_labels(studied, tmp_path, rows):
    """A wrong line of labels.csv is shown by its number: its fields may be names."""
    name = f"{patient_name(1)}/{patient_name(1)}.dcm"
    lines = {
        "missing": [(f"{BROKEN}/none.dcm", "ill")],
        "twice": [(name, "ill"), (name, "normal")],
        "empty": [("", "ill", BROKEN)],
    }[rows[0]]
    write_csv(tmp_path / "labels.csv", [("file", "label"), *lines])
    words = ["hospital", "import", studied.folder / "sources" / "north", "--hospital", studied.folder / "north"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "manikin", *map(str, words), "--labels", str(tmp_path / "labels.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 11, done.stderr
    assert found((done.stdout + done.stderr).encode()) == []
