"""The benchmark of aggregation: its hospitals are asked as over a network, and its page says what was measured."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def aggregate():
    import aggregate

    return aggregate


def line(runtime, hospitals, peak):
    return {
        "runtime": runtime,
        "hospitals": hospitals,
        "parameters": 10_024_944,
        "peak_models": peak,
        "seconds_a_hospital": 0.512,
    }


def test_a_whole_round_and_the_peers_come_to_the_right_mean(aggregate, monkeypatch):
    monkeypatch.setattr(aggregate, "give_back_large_blocks", lambda: True)  # for good, and not in this process
    for run in (aggregate.run_manikin, aggregate.run_peer):
        found = run(8, 3)
        assert found["parameters"] > 20_000
        assert found["seconds"] > 0
        assert found["peak_mb"] >= 0


def test_a_wrong_mean_is_no_result(aggregate, monkeypatch):
    monkeypatch.setattr(aggregate, "give_back_large_blocks", lambda: True)
    monkeypatch.setattr(aggregate, "moved", lambda arrays, index: arrays)  # the hospitals' process knows the true one
    with pytest.raises(SystemExit, match="wrong"):
        aggregate.run_peer(8, 2)


def test_the_page_says_who_stays_below_four_models(aggregate):
    text = aggregate.page([line(aggregate.MANIKIN, 100, 3.31), line(aggregate.PEER, 25, 31.2), line("Manikin", 3, 4.1)])
    assert "| Manikin | 100 | 10,024,944 | 3.31 | 4, met | 0.51 |" in text
    assert "| 25 | 10,024,944 | 31.20 | – | 0.51 |" in text
    assert "| 4.10 | 4, missed |" in text


def test_the_peer_is_spared_what_no_machine_should_hold_and_only_a_whole_run_is_a_result(
    aggregate, tmp_path, monkeypatch, capsys
):
    asked = []

    def answer(runtime, channels, hospitals):
        asked.append((runtime, channels, hospitals))
        return line(runtime, hospitals, 3.0)

    monkeypatch.setattr(aggregate, "run_case", answer)
    monkeypatch.setattr(aggregate.results, "commit", lambda: "0123456789")
    out = tmp_path / "PAGE.md"
    monkeypatch.setattr("sys.argv", ["aggregate.py", "--out", str(out), "--quick", "--json"])
    aggregate.main()
    assert not out.exists()
    assert [json.loads(text)["hospitals"] for text in capsys.readouterr().out.splitlines()] == [10, 10]
    asked.clear()
    monkeypatch.setattr("sys.argv", ["aggregate.py", "--out", str(out)])
    aggregate.main()
    manikin = [case[2] for case in asked if case[0] == aggregate.MANIKIN]
    assert manikin == [3, 25, 100]
    assert max(case[2] for case in asked if case[0] == aggregate.PEER) == 25
    assert "Commit 0123456789" in out.read_text()
    assert len(aggregate.results.read(tmp_path / "results.jsonl")) == 5
