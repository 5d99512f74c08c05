"""Named patients: the rule by hand and by loops, and the share of wrong names kept where the truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.errors import BadData, Misconfigured
from manikin.privacy.audit.statistics.decoys import fewest_named, name_leaked

scores = st.lists(st.integers(0, 12), min_size=1, max_size=40)


@given(scores, scores, st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_the_rule_written_out(members, decoys, rate):
    best: list[int] = []
    for t in set(members):
        targets = [i for i, score in enumerate(members) if score <= t]
        by_chance = sum(score <= t for score in decoys)
        if (1 + by_chance) * len(members) <= rate * len(decoys) * len(targets) * (1 + 1e-12):
            best = max(best, targets, key=len)
    found = name_leaked(np.array(members, float), np.array(decoys, float), rate=rate)
    assert sorted(found.named.tolist()) == sorted(best)
    assert found.estimate <= rate * (1 + 1e-9)
    assert found.decoys == sum(score <= found.threshold for score in decoys)


def test_names_come_closest_first():
    members = np.concatenate([[0.3, 0.1, 0.2], np.full(17, 0.25), [9.0]])
    found = name_leaked(members, np.linspace(1, 2, 21), rate=0.1)
    assert found.named[:2].tolist() == [1, 2]
    assert found.named[-1] == 0
    assert (len(found.named), found.threshold, found.decoys) == (20, 0.3, 0)


@pytest.mark.parametrize(
    ("members", "decoys", "leaked"), [(500, 500, 0), (500, 500, 60), (400, 100, 60), (100, 300, 20)]
)
def test_the_share_of_wrong_names_stays_at_the_rate(members, decoys, leaked):
    rng, repetitions, rate = np.random.default_rng(0), 300, 0.2
    wrong = []
    for _ in range(repetitions):
        ours = np.concatenate([rng.normal(-2.5, 1, leaked), rng.normal(size=members - leaked)])
        named = name_leaked(ours, rng.normal(size=decoys), rate=rate).named
        wrong.append(np.mean(named >= leaked) if len(named) else 0.0)
    assert np.mean(wrong) <= rate + 4 * np.std(wrong) / math.sqrt(repetitions)


def test_leaks_are_named():
    rng = np.random.default_rng(1)
    ours = np.concatenate([rng.normal(-6, 1, 40), rng.normal(size=460)])
    named = name_leaked(ours, rng.normal(size=500), rate=0.1).named
    assert set(range(36)) <= set(named.tolist()) | {int(i) for i in np.argsort(ours[:40])[-4:]}
    assert len(named) >= 36


@pytest.mark.parametrize(
    ("members", "decoys", "rate", "fewest"),
    [(500, 500, 0.1, 10), (500, 500, 0.05, 20), (400, 100, 0.1, 40), (5, 5, 0.1, None)],
)
def test_fewest_that_can_be_named(members, decoys, rate, fewest):
    assert fewest_named(members, decoys, rate=rate) == fewest
    for count in (fewest or 5, (fewest or 5) - 1):
        ours = np.concatenate([np.zeros(count), np.full(members - count, 9.0)])
        named = name_leaked(ours, np.full(decoys, 1.0), rate=rate).named
        assert len(named) == (count if count == fewest else 0)


def test_nobody_is_named_without_decoys_or_members():
    assert not len(name_leaked(np.zeros(50), np.empty(0), rate=0.1).named)
    assert not len(name_leaked(np.empty(0), np.zeros(50), rate=0.1).named)
    assert fewest_named(50, 0, rate=0.1) is None


def test_what_cannot_be_is_refused():
    with pytest.raises(BadData, match="cannot be ranked"):
        name_leaked(np.array([np.nan]), np.zeros(3), rate=0.1)
    with pytest.raises(Misconfigured, match="false-discovery rate"):
        name_leaked(np.zeros(3), np.zeros(3), rate=math.nan)
