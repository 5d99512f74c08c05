"""A real SuperLink and real SuperNodes over TLS on loopback, with node authentication and signed bundles."""

import statistics

import pytest

pytestmark = pytest.mark.slow


def test_three_gateways_echo_over_tls_within_the_time_and_memory_allowed(network):
    settings = network.settings(rounds=5)
    for name in network.gateways:
        network.start(name)
    seen = []
    network.line.run(settings, watch=seen.append)
    rounds = network.rounds()
    assert [set(r["answers"]) for r in rounds] == [{"north", "south", "coast"}] * 5
    sizes = [size for r in rounds for size in r["answers"].values()]
    assert all(isinstance(size, int) and size < 150e6 for size in sizes), sizes
    seconds = [r["seconds"] for r in rounds]
    print("seconds a round", seconds, "bytes", sizes)
    assert statistics.median(seconds) <= 13
    assert [s.state for s in seen][-1] == "finished"
