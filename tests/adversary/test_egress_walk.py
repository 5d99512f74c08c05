"""Every byte that leaves a vault in a whole study, found in its egress log, and every charged one in its ledger."""

import hashlib
import json

import pytest

from manikin.client.cohort import Hospital
from manikin.client.egress import FREE_KINDS, EgressLog, unaccounted, unlogged
from manikin.client.vault import Vault
from manikin.common import frames
from manikin.common.keys import SigningKey
from manikin.common.plan import Party
from manikin.common.study import parse_study
from manikin.common.wire import Refused, Task
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.networked import ask_audits
from manikin.server.planning import propose
from manikin.server.rounds import Rounds

KEY = SigningKey.generate()


class Wiretap:
    """Real vaults behind frames; keeps every byte string that any of them gave out."""

    def __init__(self, folders):
        self.vaults = {folder.name: Vault(folder, embedded=True) for folder in folders}
        self.names = tuple(self.vaults)
        self.heard = {name: [] for name in self.vaults}

    def send(self, name, frame):
        answer = self.vaults[name].exchange(frame)
        self.heard[name].append(answer)
        return frames.decode_reply(answer)

    def ask(self, tasks, *, deadline_s):
        replies = {name: self.send(name, frames.encode_task(task.signed(KEY))) for name, task in tasks.items()}
        return {n: Missing(r.code) if isinstance(r, Refused) else r for n, r in replies.items()}.items()


@pytest.mark.usefixtures("private_cache")
def test_every_byte_of_a_whole_study_has_its_entry(make_hospital, study_dict, tmp_path):
    folders = [make_hospital(name, seed=i) for i, name in enumerate(("north", "south"))]
    parties = [Party(f.name, Hospital.open(f).signing_key.public_key.hex()) for f in folders]
    plan = propose(parse_study(study_dict)).agreed(Party("consortium", KEY.public_key.hex()), parties)
    tap = Wiretap(folders)
    rounds = Rounds(plan, tap, Checkpoints(tmp_path / "run", plan.digest))
    rounds.canary()
    rounds.run()
    ask_audits(rounds, plan)
    for name, vault in tap.vaults.items():
        tap.send(name, b"rubbish")
        tap.send(name, frames.encode_task(Task(plan.digest, 99, "train", {"heads": {}}).signed(KEY)))
        tap.heard[name].append(json.dumps(vault.counters(), sort_keys=True).encode())

    for folder, party in zip(folders, parties, strict=True):
        log, vault = EgressLog(folder / "egress.sqlite"), tap.vaults[folder.name]
        entries = log.messages()
        heard = tap.heard[folder.name]
        assert [(e.size_bytes, e.digest) for e in entries] == [
            (len(h), hashlib.sha256(h).hexdigest()) for h in heard
        ], "what left and what was entered differ"
        charged = [entry for entry in entries if entry.kind not in FREE_KINDS]
        assert {entry.kind for entry in charged} == {"release", "train"}
        assert len(charged) == 3
        assert not unaccounted(entries, vault.ledger.spent())
        assert not unlogged(entries, vault.ledger.spent())
        assert not log.verify(party.public_key)
        assert vault.ledger.verify(party.public_key, [rounds.checkpoint.latest_heads[folder.name]]).holds
        for entry, content in zip(entries, heard, strict=True):
            if entry.kind in FREE_KINDS - {"counters", "canary"}:
                reply = frames.decode_reply(content)
                assert isinstance(reply, Refused) or (not reply.arrays and not reply.head)


@pytest.mark.usefixtures("private_cache")
def test_nothing_that_leaves_names_a_count_a_label_or_a_reason(make_hospital, study_dict):
    study_dict["federation"]["quorum"] = 1
    study_dict["data"]["patients_min"] = 61
    folder = make_hospital("north", patients=60)
    party = Party("north", Hospital.open(folder).signing_key.public_key.hex())
    plan = propose(parse_study(study_dict)).agreed(Party("consortium", KEY.public_key.hex()), [party])
    opening = Task(plan.digest, 0, "open", {"plan": plan.to_dict(), "heads": {}}).signed(KEY)
    vault = Vault(folder, embedded=True)
    few = vault.exchange(frames.encode_task(opening))
    vault.ledger = None  # a crash of any other kind
    crash = vault.exchange(frames.encode_task(Task(plan.digest, 1, "release", {"heads": {}}).signed(KEY)))
    assert few == crash == frames.encode_reply(Refused("unavailable"))
    assert b"60" not in few
