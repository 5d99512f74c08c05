"""A written release holds what it must, says what it must, and is there whole or not at all."""

import errno
import json
import os
import re

import pytest
import yaml

from manikin.common.errors import Misconfigured, StorageFailure
from manikin.common.release import load_release, write_bundle


@pytest.fixture
def arguments(make_facts, make_generator, signer):
    facts = make_facts()
    return {"generator": make_generator(facts), "facts": facts, "signer": signer}


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_holds_the_files_of_the_design(pristine):
    assert names(pristine.bundle) == {
        "generator.safetensors",
        "spec.json",
        "plan.json",
        "README.md",
        "configs/metadata.json",
        "privacy.json",
        "PRIVACY.md",
        "release.dsse.json",
        "audit/report.html",
    }


def test_the_same_release_has_the_same_bytes(tmp_path, arguments):
    assert write_bundle(tmp_path / "a", **arguments) == write_bundle(tmp_path / "b", **arguments)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_plan_file_has_the_plan_digest(pristine):
    release = load_release(pristine.bundle)
    assert release.facts.plan["study"]["name"] == "tiny"
    assert release.digest == pristine.digest


def test_the_model_card_opens_with_front_matter_that_is_yaml(pristine):
    _, front, body = (pristine.bundle / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "manikin"
    assert "ε = 2.5" in body


def test_class_names_cannot_break_the_card(tmp_path, make_facts, make_generator, signer):
    facts = make_facts(data={"labels": ["a|b\n# c", "<script>"]})
    write_bundle(tmp_path / "bundle", generator=make_generator(facts), facts=facts, signer=signer)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "<script>" not in card
    assert "\n# c" not in card


def test_monai_metadata_has_the_required_keys(pristine):
    metadata = json.loads((pristine.bundle / "configs/metadata.json").read_text())
    required = "version monai_version pytorch_version numpy_version required_packages_version task description authors"
    assert set(required.split()) | {"copyright", "network_data_format"} <= set(metadata)
    assert metadata["network_data_format"]["outputs"]["image"]["spatial_shape"] == [8, 6]


def test_the_privacy_card_names_unit_relation_both_accountants_and_each_mechanism(pristine):
    record = json.loads((pristine.bundle / "privacy.json").read_text())
    assert record["neighbouring"] == "add or remove one image"
    assert set(record["accountants"]) == {"pld", "prv"}
    assert record["mechanisms"][0]["noise_multiplier"] == 5.0
    card = (pristine.bundle / "PRIVACY.md").read_text()
    assert "| gaussian | 5 | 1 | 1 |" in card
    assert "for one image, since the data carry no patient ids" in card


def test_the_privacy_card_says_what_epsilon_means(pristine):
    card = (pristine.bundle / "PRIVACY.md").read_text()
    assert "wrong about 1% of those who were not used is right about at most 12.2%" in card  # e^2.5 * 0.01 + 1e-5


def test_an_epsilon_without_meaning_is_not_dressed_up(tmp_path, publish):
    card = publish(tmp_path, epsilon=1000.0).bundle / "PRIVACY.md"
    assert "at most 100.0% of those who were" in card.read_text()


def test_cards_never_say_anonymous_or_safe(pristine):
    for name in ("README.md", "PRIVACY.md"):
        assert not re.search(r"\b(anonymous|safe)\b", (pristine.bundle / name).read_text(), re.IGNORECASE)


def test_an_existing_folder_is_not_overwritten(published, arguments):
    before = (published.bundle / "spec.json").stat().st_mtime_ns
    with pytest.raises(Misconfigured, match="never overwritten"):
        write_bundle(published.bundle, **arguments)
    assert (published.bundle / "spec.json").stat().st_mtime_ns == before


def test_a_plan_of_another_digest_is_refused(tmp_path, arguments, make_facts):
    arguments["facts"] = make_facts(plan_digest="0" * 64)
    with pytest.raises(Misconfigured, match="plan"):
        write_bundle(tmp_path / "bundle", **arguments)


def test_a_generator_of_another_study_is_refused(tmp_path, arguments, make_facts):
    arguments["facts"] = make_facts(data={"labels": ["one", "two"]})
    with pytest.raises(Misconfigured, match="does not fit"):
        write_bundle(tmp_path / "bundle", **arguments)


@pytest.mark.parametrize("name", ["../escape", "/absolute", "spec.json", "release.dsse.json", "a//b", ".hidden", ""])
def test_unsafe_or_taken_names_of_extra_files_are_refused(tmp_path, arguments, name):
    with pytest.raises(Misconfigured, match="cannot hold"):
        write_bundle(tmp_path / "bundle", **arguments, extra={name: b""})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing_call", [1, 5, 9])
def test_a_full_disk_leaves_nothing_behind(tmp_path, arguments, monkeypatch, failing_call):
    calls, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(errno.ENOSPC, "full")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailure):
        write_bundle(tmp_path / "bundle", **arguments)
    assert os.listdir(tmp_path) == []


def test_the_remains_of_a_killed_attempt_are_swept_away(tmp_path, arguments):
    (tmp_path / ".bundle.partial").mkdir()
    (tmp_path / ".bundle.partial" / "junk").write_text("junk")
    write_bundle(tmp_path / "bundle", **arguments)
    assert os.listdir(tmp_path) == ["bundle"]
    load_release(tmp_path / "bundle")
