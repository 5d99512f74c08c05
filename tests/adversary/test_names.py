"""Names of patients, planted wherever a hospital's data have them, come out nowhere.

A small study as a hospital and a coordinator would run it by hand, and another over TLS with every process apart, then
everything that was printed, logged, shown to Prometheus or written outside the cohorts is searched for what was
planted: as it is, in other cases and encodings, and as the plain digests of patient ids that a dictionary would find.
"""

import base64
import contextlib
import csv
import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from prometheus_client import generate_latest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENTS = 60
SURNAMES = ("Quitzow", "Zsigmondy", "Wrzesniewski", "Xylander")  # no word of any program, and in no base64 by chance
BROKEN = "Jaruzelsky"
NAMES = ("north", "south", "coast")
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
    coded |= {
        "".join(f"%{byte:02{case}}" for byte in text.encode()).encode() for text, case in itertools.product(texts, "xX")
    }
    coded |= {quote(f"{patient_name(number)}^Erika").encode() for number in range(PATIENTS)}
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
    kept = (folder / "sources", *(folder / name / "cohort" for name in NAMES))
    return [f for f in folder.rglob("*") if f.is_file() and not any(f.is_relative_to(k) for k in kept)]


def test_the_search_finds_what_was_planted(studied):
    """Else the other tests would show nothing: in a header, in a file name, in labels.csv, and in what stays inside."""
    source = studied.folder / "sources"
    assert len(found((source / "north" / patient_name(1) / f"{patient_name(1)}.dcm").read_bytes())) >= 2
    assert len(found((source / "south.csv").read_bytes())) > PATIENTS
    assert found((studied.folder / "north" / "cohort" / "import-report.json").read_bytes())
    percent = "".join(f"%{byte:02X}" for byte in BROKEN.encode()).encode()
    for disguise in (BROKEN.upper().encode("utf-16-le"), base64.b64encode(b"x" + BROKEN.encode() + b"yz"), percent):
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
    assert packed(studied.folder) == []


def packed(folder):
    """Files that show a name once their packed parts are unpacked."""
    bad = []
    for file in files(folder):
        content = file.read_bytes()
        if file.suffix in (".png", ".pdf", ".html", ".gz"):
            starts = [i for i in range(len(content) - 1) if content[i : i + 2] in (b"x\x9c", b"x\xda", b"x\x01")]
            bad += [file] if found(b"".join(_unpacked(content[start:]) for start in starts[:200])) else []
    return bad


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


@dataclass
class Networked:
    """A study over TLS that has ended: its folder, all that was printed, and all pages that exporters showed."""

    folder: Path
    said: str = ""
    pages: dict[str, list[bytes]] = field(default_factory=dict)

    def scrape(self, ports):
        """Ask both programs that Prometheus asks; one that is not up yet is asked again later."""
        for name, port in ports.items():
            with contextlib.suppress(OSError):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
                self.pages.setdefault(name, []).append(page)


@pytest.fixture(scope="module")
def networked():
    """Three hospitals import, agree, and run a study with every process apart.

    A vault is killed, and another is lied to. In a short folder: a socket's name has a hundred letters at most.
    """
    with pytest.MonkeyPatch.context() as patch:
        place = Path(tempfile.mkdtemp(prefix="mk-"))
        patch.setenv("MANIKIN_CACHE", str(place / "cache"))
        yield run_over_a_network(place)
        shutil.rmtree(place)


def run_over_a_network(folder):
    from manikin.common.processes import LOOPBACK, Supervised, free_port, supervising
    from manikin.common.study import parse_study
    from manikin.embedded.loopback import COMMAND, agree, coordinator_process, hospital_process, introduce
    from manikin.server.agreements import create_coordinator, propose
    from manikin.server.running import Study

    studied = Networked(folder)
    (folder / "sources").mkdir()
    for name in NAMES:
        (picture_source if name == "south" else dicom_source)(folder / "sources" / name)
    studied.said += typed(folder, *(line for name in NAMES for line in importing(name)))
    home = create_coordinator(
        folder / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}"
    )
    folders = {name: folder / name for name in NAMES}
    introduce(home, folders)
    for name in NAMES:
        shutil.copy(home.folder / "hospitals" / f"{name}.client.pem", folders[name] / "gateway" / "client.pem")
    small = tomllib.loads(STUDY)
    small["data"]["patients_min"], small["privacy"]["epsilon"], small["federation"]["quorum"] = 50, 3.0, 2
    _, greedy = propose(home, parse_study(small))  # a quorum that the policies refuse
    studied.said += typed(folder, (12, "hospital", "approve", str(greedy), "--hospital", "north", "--json"))
    small["federation"]["quorum"] = 3
    plan = agree(home, parse_study(small), folders)
    ports = {"coordinator": free_port(), "hospital": free_port()}
    socket = folder / "north" / "run" / "vault.sock"
    gateway = ["--gateway", str(folder / "north" / "gateway"), "--socket", str(socket)]
    beside = {
        "registry": ["coordinator", "registry", "--coordinator", str(home.folder)],
        "coordinator-metrics": ["coordinator", "metrics", "--coordinator", str(home.folder)],
        "hospital-metrics": ["hospital", "metrics", *gateway],
    }
    for name, port in ports.items():
        beside[f"{name}-metrics"] += ["--listen", f"127.0.0.1:{port}"]
    others = [Supervised(name, [*COMMAND, *words], folder / "logs" / f"{name}.log") for name, words in beside.items()]
    parties = {name: hospital_process(place) for name, place in folders.items()}
    coordinator = coordinator_process(home, plan)
    study, killed, lied = Study(home, plan), False, False
    with supervising([*others, *parties.values(), coordinator]) as processes:
        for process in processes:
            process.start()
        deadline = time.monotonic() + 400
        while coordinator.ended() is None:
            assert time.monotonic() < deadline, (study.said(), coordinator.last_words())
            studied.scrape(ports)
            if not lied and (folder / "south" / "run" / "vault.sock").exists():
                lied = lie_to(folder / "south" / "run" / "vault.sock")
            if lied and not killed and "check the plan" in study.said().get("phase", ""):
                killed = kill_vault(folder / "north")
            time.sleep(0.5)
        assert study.said()["state"] == "finished", (study.said(), coordinator.last_words(20))
        assert killed
        studied.scrape(ports)
        studied.said += typed(
            folder,
            (0, "hospital", "sync", "--gateway", "north/gateway", "--json"),
            (0, "hospital", "metrics", *gateway, "--textfile", str(folder / "vault.prom")),
            (0, "coordinator", "status", "--coordinator", "coordinator", "--json"),
        )
    studied.said += typed(
        folder,
        *((0, "hospital", word, "--hospital", "north", "--json") for word in ("ledger", "egress", "check")),
        (0, "coordinator", "status", "--coordinator", "coordinator", "--json"),
    )
    studied.pages["vault"] = [(folder / "vault.prom").read_bytes()]
    return studied


def importing(name):
    """The commands that make a hospital and bring in its scans."""
    yield 0, "hospital", "init", name, "--name", name
    yield 0, "hospital", "import", f"sources/{name}", "--hospital", name, "--labels", f"sources/{name}.csv", "--json"


def typed(folder, *commands):
    """What these commands print; each ends with its exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", AS_TYPED, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lie_to(socket):
    """Ask a vault what is no task, as a gateway that was taken over would."""
    from manikin.client.service import SocketPort
    from manikin.common.errors import ManikinError

    with contextlib.suppress(ManikinError):
        SocketPort(socket, connect_s=0.0).ready()
        SocketPort(socket).exchange(b"no task of anybody")
        return True
    return False


def kill_vault(hospital):
    """End a vault without a word to it."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "vault" in words and any(word.endswith(str(hospital / "run" / "vault.sock")) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
                return True
    return False


LOGS = {
    "coordinator": ("coordinator.log", "superlink.log", "serverapp.log"),
    "hospital": (
        "logs/gateway.log",
        "logs/vault.log",
        "gateway/home/logs/supernode.log",
        "gateway/home/logs/superexec.log",
    ),
}


def log_lines(networked):
    """The lines of each log of a coordinator's run and of hospitals, by file."""
    run = next((networked.folder / "coordinator" / "plans").glob("*/run/logs"))
    logs = [run / name for name in LOGS["coordinator"]]
    logs += [networked.folder / name / log for name in NAMES for log in LOGS["hospital"]]
    return {log: log.read_text().splitlines() for log in logs}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_over_a_network_every_kind_of_output_is_here_to_be_searched(networked):
    names = {str(file.relative_to(networked.folder)) for file in files(networked.folder)}
    for needed in (
        "run/release/",
        "run/status.json",
        "run/link.json",
        "run/checkpoint.safetensors",
        "superlink/state.db",
    ):
        assert any(name.startswith("coordinator/") and needed in name for name in names), needed
    for needed in ("ledger.sqlite", "egress.sqlite", "reports/", "gateway/inbox/", "gateway/home/relayed.json"):
        assert any(name.startswith("north/") and needed in name for name in names), needed
    assert {"south/last-refusal.json", "logs/registry.log", "coordinator/run.log", "vault.prom"} <= names
    assert {"coordinator", "hospital", "vault"} == set(networked.pages)
    assert b"manikin_run_state" in networked.pages["coordinator"][-1]
    assert b"manikin_gateway_messages" in networked.pages["hospital"][-1]
    assert b"manikin_vault_steps_charged" in networked.pages["vault"][-1]
    assert "finished" in networked.said
    assert "REFUSED" in networked.said


@pytest.mark.slow
def test_over_a_network_no_name_is_in_a_file_or_the_name_of_a_file(networked):
    folder = networked.folder
    bad = {str(f): found(f.read_bytes() + str(f.relative_to(folder)).encode()) for f in files(folder)}
    assert {file: needles for file, needles in bad.items() if needles} == {}
    assert packed(folder) == []


@pytest.mark.slow
def test_over_a_network_no_name_is_printed_or_shown_to_prometheus(networked):
    shown = {"printed": [networked.said.encode()], **networked.pages}
    assert [name for name, pages in shown.items() if found(b"".join(pages))] == []


@pytest.mark.slow
def test_over_a_network_every_log_is_lines_of_json_with_who_said_what(networked):
    said = {}
    for file, lines in log_lines(networked).items():
        if file.name == "vault.log":  # begins with words for a person
            lines = [line for line in lines if line.startswith("{")]
        said[file] = [json.loads(line) for line in lines]
        assert all({"timestamp", "level", "part", "event"} <= set(line) for line in said[file]), file
    events = {(line.get("program"), line["event"]) for lines in said.values() for line in lines if "source" not in line}
    assert {
        ("gateway", "ready"),
        ("clientapp", "answered"),
        ("clientapp", "failed"),
        ("coordinator", "connected"),
        ("serverapp", "asking"),
        ("serverapp", "released"),
        (None, "answered"),
    } <= events
    flower = {line["program"] for lines in said.values() for line in lines if line.get("source") == "flower"}
    assert {"supernode", "superexec", "clientapp", "serverapp"} <= flower
