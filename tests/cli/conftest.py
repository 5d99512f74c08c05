"""What the tests of release and synthesize share: the command line as typed, and a small release."""

import hashlib

import pytest

from manikin.cli import main as command_line
from manikin.common.documents import SigningKey, canonical_json, write_trust
from manikin.common.generators import GeneratorSpec, create
from manikin.common.release import ReleaseFacts, write_bundle

PICTURES = {"modality": "CR", "spatial_dims": 2, "shape": [8, 6], "spacing_mm": [2.0, 1.5], "window": [0, 255]}
VOLUMES = {
    "modality": "CT",
    "spatial_dims": 3,
    "shape": [4, 6, 5],
    "spacing_mm": [1, 1.5, 2.5],
    "window": [-1000, 1000],
}
LABELS = ["normal", "pneumonia"]


@pytest.fixture
def manikin(capsys):
    """Runs a command; gives exit code, output and errors."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            command_line.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def publish(folder, picture):
    """A release in `folder/bundle`, its trust file in `folder/trust.json`."""
    data = picture | {"labels": LABELS}
    plan = {"study": {"name": "tiny", "data": data}}
    facts = ReleaseFacts(
        plan=plan,
        plan_digest=hashlib.sha256(canonical_json(plan)).hexdigest(),
        hospitals=3,
        epsilon=2.5,
        delta=1e-5,
        unit="image",
        multiplicity=1,
        mode="local",
        accountants={"pld": 2.4, "prv": 2.5},
        mechanisms=[],
        data=data,
        audit_statement="None.",
        code_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
    )
    signer = SigningKey.generate()
    spec = GeneratorSpec("moments", 1, tuple(data["shape"]), tuple(LABELS), {"coefficients": 4, "bands": 2})
    write_bundle(folder / "bundle", generator=create(spec), facts=facts, signer=signer)
    write_trust(folder / "trust.json", [signer.trusted("North", "coordinator")])
    return folder / "bundle"


@pytest.fixture
def bundle(tmp_path):
    return publish(tmp_path, PICTURES)


@pytest.fixture
def volume_bundle(tmp_path):
    return publish(tmp_path, VOLUMES)


@pytest.fixture
def trust(tmp_path):
    return tmp_path / "trust.json"
