"""The benchmark of secure sums: both sides sum the same numbers, and what it says of seconds and ratios is so."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def secure_sum():
    import secure_sum

    return secure_sum


def vectors_of(count, size=300):
    return np.random.default_rng(count).normal(size=(count, size)).astype(np.float32)


def taken(module, round_s, *, mask_s=None, hospital_s=0.1, error=None):
    return module.Round(mask_s, hospital_s, round_s, error, 1e-6)


def test_a_measured_round_follows_another(secure_sum):
    assert secure_sum.after_another(iter([1, 2, 3]).__next__) == 2


@pytest.mark.parametrize("bits", [32, 64])
def test_our_round_is_exact_and_its_mean_is_the_mean(secure_sum, bits):
    found = secure_sum.run_manikin(vectors_of(4), bound=secure_sum.BOUNDS[bits])
    assert found.error_on_integers == 0
    assert found.error_of_mean <= 2.0 ** -(secure_sum.GRID_BITS + 1) + 1e-7
    assert 0 < found.mask_s < found.hospital_s < found.round_s


def test_words_are_as_short_as_the_rows_say(secure_sum):
    for bits, bound in secure_sum.BOUNDS.items():
        for hospitals in secure_sum.HOSPITALS:
            assert secure_sum.word_type(bound, hospitals=hospitals).itemsize * 8 == bits


def test_numbers_are_cut_and_put_on_the_grid_exactly(secure_sum):
    step = 2.0**-secure_sum.GRID_BITS
    vector = np.array([0, 1.4 * step, -1.6 * step, 9.0, -100.0, 8.0], dtype=np.float32)
    limit = 8 << secure_sum.GRID_BITS
    assert secure_sum.round_to_grid(vector).tolist() == [0, 1, -2, limit, -limit, limit]
    assert vector[3] == 9.0


@pytest.mark.parametrize(("nodes", "shares"), [(3, 3), (5, 5), (7, 3)])
def test_the_peer_is_flowers_own_and_gives_the_same_mean(secure_sum, nodes, shares):
    vectors = vectors_of(nodes)
    found = secure_sum.run_peer(vectors, shares=shares)
    assert found.error_of_mean < 2 * 2.0**-secure_sum.GRID_BITS
    assert 0 < found.hospital_s < found.round_s


def test_a_peer_that_loses_a_node_is_no_result(secure_sum, monkeypatch):
    import secagg

    ask = secagg.InProcess.send_and_receive
    monkeypatch.setattr(secagg.InProcess, "send_and_receive", lambda self, m, *, timeout=None: ask(self, list(m)[:-1]))
    with pytest.raises(SystemExit, match=r"SecAgg\+"):
        secure_sum.run_peer(vectors_of(4), shares=4)


def test_a_ratio_is_of_rounds_in_the_same_turn(secure_sum):
    seconds = [(1.0, 2.0, 8.0), (2.0, 3.0, 30.0), (4.0, 5.0, 20.0)]
    turns = [
        {
            secure_sum.OURS: taken(secure_sum, ours, mask_s=ours / 10, error=0),
            secure_sum.LONG: taken(secure_sum, long, mask_s=long / 10, error=turn),
            secure_sum.WHOLE: taken(secure_sum, peer),
        }
        for turn, (ours, long, peer) in enumerate(seconds)
    ]
    whole = secure_sum.summary(secure_sum.WHOLE, turns)
    assert (whole["round_s"], whole["ratio_to_manikin"], whole["ratio_to_manikin_64"]) == (20.0, 8.0, 4.0)
    assert "mask_s" not in whole
    long = secure_sum.summary(secure_sum.LONG, turns)
    assert (long["mask_s"], long["error_on_integers"], long["rounds"]) == (0.3, 2, 3)
    assert "ratio_to_manikin" not in long


def test_the_page_says_what_was_reached_and_what_was_not(secure_sum):
    def line(method, hospitals=10, **facts):
        head = {"hospitals": hospitals, "entries": 1_000_000, "method": method, "rounds": 5, "error_of_mean": 1e-6}
        return head | {"hospital_s": 0.02, "round_s": 0.2} | facts

    lines = [
        line(secure_sum.OURS, mask_s=0.0108, error_on_integers=0),
        line(secure_sum.LONG, mask_s=0.31, error_on_integers=0),
        line(secure_sum.WHOLE, ratio_to_manikin=7.1, ratio_to_manikin_64=4.5),
        line(secure_sum.FEW, ratio_to_manikin=3.1, ratio_to_manikin_64=2.0),
        line(secure_sum.WHOLE, hospitals=3, ratio_to_manikin=5.0, ratio_to_manikin_64=6.0),
    ]
    text = secure_sum.page(lines)
    assert "| 10 | 1,000,000 | Manikin, words of 32 bits | 0.0108 | 0.0200 | 0.200 | – | 0 | 1.0e-06 | 5 |" in text
    assert "| 10 | 1,000,000 | SecAgg+, 3 shares | – | 0.0200 | 0.200 | 3.1 ×, 2.0 × | – | 1.0e-06 | 5 |" in text
    assert "Errors on integers: 0, met." in text
    assert "0.310 s of 0.3 allowed, missed." in text
    assert "words of 32 bits: rounds of SecAgg+ at equal secrecy took 5.0 times as long or more, met." in text
    assert "words of 64 bits: rounds of SecAgg+ at equal secrecy took 4.5 times as long or more, missed." in text
    assert "Errors on integers: 1, missed." in secure_sum.page([*lines, line(secure_sum.OURS, error_on_integers=1)])


def test_only_a_whole_run_is_a_result(secure_sum, tmp_path, monkeypatch, capsys):
    asked = []

    def answer(hospitals, size, repeats):
        asked.append((hospitals, size, repeats))
        found = {"method": secure_sum.WHOLE, "hospital_s": 0.1, "round_s": 1.0, "error_of_mean": 0.0, "rounds": repeats}
        return [found | {"ratio_to_manikin": 9.0, "ratio_to_manikin_64": 8.0}]

    monkeypatch.setattr(secure_sum, "measure", answer)
    monkeypatch.setattr(secure_sum.results, "commit", lambda: "0123456789")
    out = tmp_path / "PAGE.md"
    monkeypatch.setattr(sys, "argv", ["secure_sum.py", "--out", str(out), "--quick", "--json"])
    secure_sum.main()
    assert not out.exists()
    assert asked == [(3, 100_000, 2), (10, 100_000, 2)]
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in printed] == [f"secure sum: {n} × 100,000, {secure_sum.WHOLE}" for n in (3, 10)]
    monkeypatch.setattr(sys, "argv", ["secure_sum.py", "--out", str(out)])
    secure_sum.main()
    assert sorted(asked[2:]) == [(n, d, r) for n, r in ((3, 5), (10, 5), (50, 1)) for d in (100_000, 1_000_000)]
    assert out.read_text().count("<!-- secure-sum:") == 2
    assert "Commit 0123456789" in out.read_text()
    assert len(secure_sum.results.read(tmp_path / "results.jsonl")) == 6
