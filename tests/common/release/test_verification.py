"""The tamper matrix: whatever is done to any file of a bundle, verification says no."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save

from manikin.common.documents import SigningKey, Statement, Subject, open_envelope, sign, write_trust
from manikin.common.errors import VerificationFailed
from manikin.common.release import load_release, verify_bundle
from manikin.common.release.facts import PREDICATE_TYPE

FILES = (
    "generator.safetensors",
    "spec.json",
    "plan.json",
    "README.md",
    "configs/metadata.json",
    "privacy.json",
    "PRIVACY.md",
    "release.dsse.json",
    "audit/report.html",
)


def refused(published, why=None):
    with pytest.raises(VerificationFailed, match=why):
        verify_bundle(published.bundle, published.trust)


def resign(published, signer, replace=None, **changes):
    """Sign the folder as it now is: a signer who errs, so that the later steps are reached."""
    envelope = published.bundle / "release.dsse.json"
    old = open_envelope(envelope.read_bytes(), None, predicate_type=PREDICATE_TYPE)
    for name, content in (replace or {}).items():
        (published.bundle / name).write_bytes(content)
    subjects = tuple(Subject.of(s.name, (published.bundle / s.name).read_bytes()) for s in old.subjects)
    statement = Statement(PREDICATE_TYPE, changes.pop("subjects", subjects), dict(old.predicate) | changes)
    envelope.write_bytes(sign(statement, signer))


def test_an_untouched_bundle_verifies_and_samples(pristine):
    release = verify_bundle(pristine.bundle, pristine.trust)
    assert (release.signer_name, release.digest) == ("North", pristine.digest)
    images = release.generator.sample(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 8, 6)


def test_a_moved_bundle_still_verifies(published):
    assert verify_bundle(published.bundle, published.trust).folder == published.bundle


def test_the_matrix_covers_every_file(pristine):
    found = {p.relative_to(pristine.bundle).as_posix() for p in pristine.bundle.rglob("*") if p.is_file()}
    assert found == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_refused(published, name, share):
    path = published.bundle / name
    content = bytearray(path.read_bytes().rstrip(b"\n") if name == "release.dsse.json" else path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    refused(published)


@pytest.mark.parametrize("name", FILES)
def test_a_dropped_file_is_refused(published, name):
    (published.bundle / name).unlink()
    refused(published)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(published, name):
    path = published.bundle / name
    path.write_bytes(path.read_bytes()[:-2])
    refused(published)


@pytest.mark.parametrize("name", FILES)
def test_an_emptied_file_is_refused(published, name):
    (published.bundle / name).write_bytes(b"")
    refused(published)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"release.dsse.json"}))  # white space there says nothing
def test_a_lengthened_file_is_refused(published, name):
    with (published.bundle / name).open("ab") as file:
        file.write(b"\n")
    refused(published, "size")


@pytest.mark.parametrize("name", FILES)
def test_swapped_files_are_refused(published, name):
    one, other = published.bundle / name, published.bundle / FILES[(FILES.index(name) + 1) % len(FILES)]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    refused(published)


@pytest.mark.parametrize("name", FILES)
def test_a_file_replaced_by_a_link_to_its_own_content_is_refused(published, name, tmp_path):
    path = published.bundle / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(published, "link|plain file")


@pytest.mark.parametrize("name", ["extra.txt", ".DS_Store", "configs/more.json", "trust.json"])
def test_an_added_file_is_refused(published, name):
    (published.bundle / name).write_text("{}")
    refused(published, "not listed")


def test_an_added_empty_folder_is_refused(published):
    (published.bundle / "empty").mkdir()
    refused(published, "empty folder")


def test_a_pipe_is_refused_without_being_read(published):
    os.mkfifo(published.bundle / "pipe")
    refused(published, "no plain file")


def test_a_folder_replaced_by_a_link_is_refused(published, tmp_path):
    (published.bundle / "audit").rename(tmp_path / "audit-elsewhere")
    (published.bundle / "audit").symlink_to(tmp_path / "audit-elsewhere")
    refused(published, "link")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "./spec.json"])
def test_a_signed_way_out_of_the_folder_is_refused(published, signer, name):
    content = (published.bundle / "spec.json").read_bytes()
    (published.bundle.parent / "secret").write_bytes(content)
    resign(published, signer, subjects=(Subject.of(name, content),))
    refused(published, "unsafe")


def test_names_that_differ_in_case_only_are_refused(published, signer):
    resign(published, signer, subjects=(Subject.of("a", b""), Subject.of("A", b"")))
    refused(published, "repeated")


def test_another_signer_is_refused(published):
    resign(published, SigningKey.generate())
    refused(published, "No key of the trust file")


def test_keys_inside_the_bundle_are_never_used(published, signer):
    intruder = SigningKey.generate()
    write_trust(published.bundle / "trust.json", [intruder.trusted("North", "coordinator")])
    resign(published, intruder)
    refused(published, "No key of the trust file")


def test_a_missing_trust_file_is_refused(published, tmp_path):
    with pytest.raises(VerificationFailed, match="no trust file"):
        verify_bundle(published.bundle, tmp_path / "nowhere.json")


def test_a_folder_that_is_no_bundle_says_so(tmp_path, published):
    with pytest.raises(VerificationFailed, match="not a release"):
        verify_bundle(tmp_path / "nowhere", published.trust)


def test_two_releases_cannot_be_mixed(published, tmp_path, publish):
    other = publish(tmp_path / "other", created="2026-01-03T00:00:00+00:00")
    shutil.copy(other.bundle / "release.dsse.json", published.bundle)
    refused(published, "listed")


def test_a_signed_state_that_is_not_finite_is_refused(published, signer):
    state = load_release(published.bundle).generator.state()
    state["mean"] = torch.full_like(state["mean"], float("nan"))
    resign(published, signer, {"generator.safetensors": save(state)})
    refused(published, "not finite")


@pytest.mark.parametrize("change", ["missing", "shape", "dtype", "junk"])
def test_a_signed_state_that_does_not_fit_its_spec_is_refused(published, signer, change):
    state = load_release(published.bundle).generator.state()
    if change == "missing":
        del state["mean"]
    elif change == "shape":
        state["mean"] = state["mean"][:1].clone()
    elif change == "dtype":
        state["mean"] = state["mean"].double()
    resign(published, signer, {"generator.safetensors": b"junk" if change == "junk" else save(state)})
    refused(published, "does not load|no tensors")


@pytest.mark.parametrize(
    "change",
    [{"family": "oracle"}, {"shape": []}, {"shape": [0, 4]}, {"shape": [1 << 20, 1 << 20]}, {"channels": None}],
    ids=str,
)
def test_a_signed_spec_that_is_none_is_refused(published, signer, change):
    spec = json.loads((published.bundle / "spec.json").read_text()) | change
    resign(published, signer, {"spec.json": json.dumps(spec).encode()})
    refused(published, "spec|does not load")


def test_a_plan_that_the_statement_does_not_name_is_refused(published, signer):
    resign(published, signer, {"plan.json": b"{}"})
    refused(published, "plan is not the one")


def test_a_plan_that_is_not_an_object_is_refused(published, signer):
    resign(published, signer, {"plan.json": b"[]"}, plan_digest=hashlib.sha256(b"[]").hexdigest())
    refused(published, "not a JSON object")


def test_without_a_trust_file_nobody_is_named_but_digests_are_checked(published):
    assert load_release(published.bundle).signer_name is None
    (published.bundle / "README.md").write_text("changed")
    with pytest.raises(VerificationFailed):
        load_release(published.bundle)


def test_with_a_trust_file_loading_is_verifying(published):
    assert load_release(published.bundle, published.trust).signer_name == "North"
    resign(published, SigningKey.generate())
    with pytest.raises(VerificationFailed):
        load_release(published.bundle, published.trust)
