"""Every read of a patient in a whole study, by the function that does it, and the mechanism that pays for it.

Each look at a `Patient`'s fields, and at the cohort's database, is noted with the nearest function of Manikin that does
it, while real vaults answer a whole study in this process. The readers must be exactly those of the table below. Not
seen: how many patients a list holds, and what a function does with an array that a reader named here has handed to it.
"""

import ast
import sys
from pathlib import Path

import pytest

import manikin
from manikin.client.cohort import Hospital
from manikin.client.cohort.store import Store
from manikin.client.vault import Vault
from manikin.common import frames
from manikin.common.images import Patient
from manikin.common.keys import SigningKey
from manikin.common.plan import Party
from manikin.common.study import parse_study
from manikin.common.wire import Refused
from manikin.privacy import gradients
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.networked import ask_audits
from manikin.server.planning import propose
from manikin.server.rounds import Rounds

pytestmark = pytest.mark.usefixtures("private_cache")

KEY = SigningKey.generate()
SOURCES = Path(manikin.__file__).parent

RELEASE = "sum of one bounded statistic a patient, with noise: charged"
GRADIENT = "clipped gradient of a patient that the step drew, in a sum with noise (DP-SGD): charged"
BINDING = "binds the noise to the very images, by SHA-256 and a keyed stream: leaves as noise alone"
ORDER = "order and oneness of the patients' keyed hashes; a double ends as 'unavailable'"
AUDIT = "the audit page, which stays in the hospital: an acknowledgement leaves whatever was found"
LOADING = "brings images to the study's shape and splits: all that can leave is 'unavailable'"
LEDGER = "the keyed hashes that the ledger charges: they stay in the hospital"
COUNTING = "counts for the hospital's own eyes, and whether it knows patients: all that can leave is 'unavailable'"

# Reader -> what it looks at, and why that is no leak. A reader that is missing here fails the test, with its name.
CHECKS_AND_STEPS = {
    "client.cohort.intake.describe": ("tally shared_contents several_labels", COUNTING),
    "client.cohort.cohort.Cohort.load": ("layouts key", LOADING),
    "client.cohort.cohort._brought_to_study": ("pixels", LOADING),
    "client.vault.Vault._charge": ("key", LEDGER),
    "client.steps._bound": ("key images labels", BINDING),
    "privacy.engine.in_order": ("key", ORDER),
    "privacy.gradients._voxels": ("images", GRADIENT),
    "privacy.gradients._rows": ("images", GRADIENT),
}
AUDITS = {
    "privacy.audit.audit.run_audit": ("key", AUDIT),
    "privacy.audit.audit._check": ("images", AUDIT),
    "privacy.audit.audit._pairs": ("key images labels", AUDIT),
    "privacy.audit.membership.distance_scores": ("images labels", AUDIT),
    "privacy.audit.membership.loss_scores": ("images labels", AUDIT),
    "privacy.audit.reidentification.measure_likeness": ("images labels", AUDIT),
}
MOMENTS = {"common.generators.moments.Moments.statistic": ("images labels", RELEASE)}
PRINCIPAL = {"common.generators.principal.Principal.statistic": ("images labels", RELEASE)}
SHARED_PASS = {"privacy.gradients._shared_gradients": ("key images labels", GRADIENT)}
ONE_BY_ONE = {
    "privacy.gradients.gradients": ("key", GRADIENT),
    "privacy.gradients.patient_gradient": ("images labels", GRADIENT),
}
SMALL = CHECKS_AND_STEPS | AUDITS | MOMENTS | SHARED_PASS
LARGE = CHECKS_AND_STEPS | AUDITS | PRINCIPAL | ONE_BY_ONE


class Reads:
    """Notes who looks at patients and at the cohort's database, and whether a vault was answering then."""

    def __init__(self):
        self.inside, self.outside = set(), set()

    def note(self, what):
        frame, reader, within = sys._getframe(2), None, False
        while frame is not None:
            code = frame.f_code
            place = Path(code.co_filename)
            if SOURCES in place.parents and place.name != "images.py":
                reader = reader or name_of(place, code.co_qualname)
                within = within or code is Vault.exchange.__code__ or code is Vault.__init__.__code__
            frame = frame.f_back
        (self.inside if within else self.outside).add((reader, what))

    def install(self, patch):
        fields = {"key", "images", "labels", "site", "__dict__"}

        def read(patient, field):
            if field in fields and not blank(patient):
                self.note(field)
            return object.__getattribute__(patient, field)

        patch.setattr(Patient, "__getattribute__", read)
        for query in ("tally", "shared_contents", "several_labels", "layouts", "images"):
            patch.setattr(Store, query, self.noting(query if query != "images" else "pixels", getattr(Store, query)))

    def noting(self, what, original):
        def asked(store, *arguments):
            self.note(what)
            return original(store, *arguments)

        return asked


def blank(patient):
    """Made up, of zeros: no hospital's patient is without a key."""
    fields = object.__getattribute__(patient, "__dict__")
    return not fields.get("key") and not fields["images"].any()


def name_of(place, qualname):
    module = ".".join(place.relative_to(SOURCES).with_suffix("").parts)
    return f"{module}.{qualname.split('.<locals>')[0]}"


class Wire:
    """Real vaults behind frames, all in this process."""

    def __init__(self, folders):
        self.vaults = {folder.name: Vault(folder, embedded=True) for folder in folders}
        self.names = tuple(self.vaults)

    def ask(self, tasks, *, deadline_s):
        for name, task in tasks.items():
            reply = frames.decode_reply(self.vaults[name].exchange(frames.encode_task(task.signed(KEY))))
            yield name, Missing(reply.code) if isinstance(reply, Refused) else reply


def whole_study(study_dict, folders, run):
    """Proposed, a canary round, every step, and the audits."""
    parties = [Party(f.name, Hospital.open(f).signing_key.public_key.hex()) for f in folders]
    plan = propose(parse_study(study_dict)).agreed(Party("consortium", KEY.public_key.hex()), parties)
    rounds = Rounds(plan, Wire(folders), Checkpoints(run, plan.digest))
    rounds.canary()
    rounds.run()
    ask_audits(rounds, plan)
    for folder in folders:
        assert (folder / "reports" / plan.digest[:12] / "audit.json").exists(), "the audit came to its end"


def local(study, patch):
    return SMALL


def distributed(study, patch):
    study["federation"] |= {"mode": "distributed", "quorum": 3, "collusion": 1}
    study["stage"][2] |= {"steps": 2, "rounds": 2}
    return SMALL


def of_large_images(study, patch):
    """Too large for passes that patients share; with the other family that releases."""
    patch.setattr(gradients, "SHARED_VOXELS", 1)
    study["stage"][1] = {"kind": "release", "family": "principal", "epsilon_share": 0.5, "directions": 8, "own": 2}
    return LARGE


@pytest.mark.parametrize("kind", [local, distributed, pytest.param(of_large_images, marks=pytest.mark.slow)])
def test_nobody_reads_a_patient_but_those_who_are_listed(kind, make_hospital, study_dict, tmp_path, monkeypatch):
    table = kind(study_dict, monkeypatch)
    names = ("north", "south", "west")[: study_dict["federation"]["quorum"]]
    folders = [make_hospital(name, seed=i) for i, name in enumerate(names)]
    reads = Reads()
    with monkeypatch.context() as patch:
        reads.install(patch)
        whole_study(study_dict, folders, tmp_path / "run")
    listed = {(reader, what) for reader, (fields, _) in table.items() for what in fields.split()}
    assert not reads.outside, f"outside of every vault, patients are read by {sorted(reads.outside)}"
    assert not reads.inside - listed, f"patients are read by {sorted(reads.inside - listed)}, by what mechanism?"
    assert not listed - reads.inside, f"these read nothing any more: {sorted(listed - reads.inside)}"


class Uses(ast.NodeVisitor):
    """Where the modules of a folder name `Patient`, make one, or ask for a patient's statistic, by function."""

    def __init__(self, folder):
        self.names, self.makes, self.asks, self.modules = set(), set(), set(), set()
        for self.place in sorted((SOURCES / folder).rglob("*.py")):
            self.within = []
            self.visit(ast.parse(self.place.read_text()))

    def here(self):
        return name_of(self.place, ".".join(self.within))

    def visit_FunctionDef(self, node):
        self.within.append(node.name)
        self.generic_visit(node)
        self.within.pop()

    def visit_ClassDef(self, node):
        self.visit_FunctionDef(node)

    def visit_ImportFrom(self, node):
        self.modules.add(node.module)

    def visit_Import(self, node):
        self.modules |= {alias.name for alias in node.names}

    def visit_Name(self, node):
        if node.id == "Patient":
            self.names.add(self.here())

    def visit_Call(self, node):
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called == "Patient":
            self.makes.add(self.here())
        if called == "statistic":
            self.asks.add(self.here())
        self.generic_visit(node)


def test_the_coordinators_code_knows_no_patient():
    uses = Uses("server")
    assert not uses.names | uses.makes | uses.asks
    assert not {m for m in uses.modules if m.startswith(("manikin.client", "manikin.common.images"))}


def test_a_generator_meets_a_patient_in_its_statistic_alone():
    uses = Uses("common/generators")
    assert {name.rsplit(".", 1)[-1] for name in uses.names} == {"statistic"}
    assert not uses.makes | uses.asks


def test_patients_are_made_by_the_cohort_and_once_of_zeros():
    uses = Uses(".")
    assert uses.makes == {
        "client.cohort.cohort._patients",
        "privacy.budget._statistic_size",  # of zeros, to learn a vector's size
    }
    assert uses.asks == {
        "client.steps._release",
        "client.steps._release_share",
        "privacy.budget._statistic_size",
    }
