"""The hospital's metrics: a closed list, and a vault that is away shows as down."""

import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from manikin.client.metered import Metered, Tally
from manikin.client.metrics import Hospital, registry_of, serve, write_textfile
from manikin.common.errors import TransportFailure

COUNTERS = {
    "bytes_in": 10.0,
    "bytes_out": 20.0,
    "answered_train": 3.0,
    "refused_policy-refusal": 1.0,
    "plans_charged": 1.0,
    "steps_charged": 4.0,
    "epsilon_planned": 3.0,
}


class Echo:
    def exchange(self, frame):
        if frame == b"away":
            raise TransportFailure("No vault answers.")
        return frame * 2


@pytest.fixture
def tally(tmp_path):
    return Tally(tmp_path / "relayed.json")


def shown(text):
    families = text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def scraped(**parts):
    return shown(generate_latest(registry_of(Hospital(**parts))))


def test_what_a_metered_port_counted_is_shown(tally):
    port = Metered(Echo(), tally)
    assert port.exchange(b"abc") == b"abcabc"
    with pytest.raises(TransportFailure):
        port.exchange(b"away")
    values = scraped(tally=tally)
    assert values["manikin_gateway_messages_total",] == 2
    assert values["manikin_gateway_bytes_total", "in"] == 7
    assert values["manikin_gateway_bytes_total", "out"] == 6
    assert values["manikin_gateway_failures_total", "transport-failure"] == 1
    assert values["manikin_gateway_seconds_total",] >= 0
    assert values["manikin_gateway_last_message_timestamp_seconds",] > 1e9


def test_the_vaults_counters_are_a_closed_list(tally):
    values = scraped(counters=lambda: COUNTERS | {"loss": 0.1, "batch_size": 17.0, "answered_doe": 1.0})
    assert values["manikin_vault_up",] == 1
    assert values["manikin_vault_answered_total", "train"] == 3
    assert values["manikin_vault_refused_total", "policy-refusal"] == 1
    assert values["manikin_vault_bytes_total", "out"] == 20
    assert values["manikin_vault_epsilon_planned",] == 3
    assert not any(word in str(key) for key in values for word in ("loss", "batch", "doe", "python", "process_"))


def test_a_vault_that_is_away_is_down(tally):
    def away():
        raise TransportFailure("No vault answers.")

    assert scraped(counters=away) == {("manikin_vault_up",): 0.0}


def test_the_textfile_says_the_same(tmp_path):
    write_textfile(tmp_path / "manikin.prom", COUNTERS)
    assert shown((tmp_path / "manikin.prom").read_text()) == scraped(counters=lambda: COUNTERS)


def test_it_is_served_on_loopback(tally):
    stop, port = serve(registry_of(Hospital(tally=tally, counters=lambda: COUNTERS)), 0)
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
    finally:
        stop()
    assert shown(page)["manikin_vault_answered_total", "train"] == 3
