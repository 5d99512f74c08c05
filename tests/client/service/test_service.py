"""The socket between two real processes: bounds, turns, modes, and what a caller can and cannot do."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from manikin.client.service import SocketPort
from manikin.client.service.protocol import CHUNK_BYTES, EXCHANGE, SERVICE, chunks
from manikin.client.service.server import claim, prepare_directory
from manikin.common.errors import Misconfigured, ProtocolViolation, TransportFailure

MIB = 1 << 20
BOUND = 32 * MIB


def raw(process, messages, method=f"/{SERVICE}/{EXCHANGE}"):
    """The messages as they are, over a plain channel; the status code that ends the call, and the answer."""
    with grpc.insecure_channel(f"unix:{process.socket}") as channel:
        try:
            return "OK", list(channel.stream_stream(method)(iter(messages), timeout=60))
        except grpc.RpcError as error:
            return error.code().name, error.details()


def size(n):
    return n.to_bytes(8, "big")


def peak_mib(process):
    return int(Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.parametrize("n", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES + 7])
def test_a_frame_goes_in_and_comes_out(launch, n):
    port, frame = SocketPort(launch().socket), os.urandom(n)
    assert port.exchange(frame) == frame
    assert port.ready()["version"]
    assert port.counters() == {"most_inside": 1}


def test_the_gateways_side_imports_neither_torch_nor_numpy_and_stays_small(launch):
    code = f"""
import sys
from pathlib import Path
from manikin.client.service import SocketPort
frame = bytes(20 << 20)
assert SocketPort({str(launch().socket)!r}).exchange(frame) == frame
heavy = {{"torch", "numpy", "monai", "safetensors", "pydantic", "flwr", "sqlite3", "cryptography"}} & set(sys.modules)
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(sorted(heavy), int(peak) // 1024)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy, peak = said.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert int(peak) < 150


def test_socket_folder_and_lock_are_open_to_user_and_group_only(launch):
    socket = launch().socket
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (socket, socket.parent, Path(f"{socket}.lock"))]
    assert modes == [0o660, 0o750, 0o600]


def test_the_service_has_no_network_socket(launch):
    process = launch()
    SocketPort(process.socket).exchange(b"x")
    links = []
    for fd in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
    mine = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    inet = {
        line.split()[9]
        for table in ("tcp", "tcp6", "udp", "udp6")
        if (file := Path(f"/proc/{process.pid}/net/{table}")).exists()
        for line in file.read_text().splitlines()[1:]
    }
    assert mine
    assert not mine & inet


@pytest.mark.parametrize(
    "method", ["/manikin.Vault/Shell", "/manikin.Vault/", "/Exchange", "/grpc.reflection.v1.ServerReflection/Info"]
)
def test_an_unknown_method_is_refused(launch, method):
    assert raw(launch(), [b"x"], method)[0] == "UNIMPLEMENTED"


def test_streams_that_break_a_rule_are_refused_and_leave_the_service_as_it_was(launch):
    process = launch(frame_bytes_max=BOUND)
    for messages in (
        [],
        [b"not a size"],
        [size(0)],
        [size(BOUND + 1), b"x"],
        [size(5), b"cut"],
        [size(2), b"long"],
        [size(3), b"", b"abc"],
    ):
        assert raw(process, messages)[0] == "INVALID_ARGUMENT", messages
    assert raw(process, [size(2 * MIB), bytes(2 * MIB)])[0] == "RESOURCE_EXHAUSTED"
    with pytest.raises(ProtocolViolation, match="refused"):
        SocketPort(process.socket).exchange(bytes(BOUND + 1))
    assert raw(process, chunks(b"honest"))[0] == "OK"
    assert SocketPort(process.socket).exchange(b"honest") == b"honest"


@pytest.mark.parametrize(("declared", "taken_mib"), [(10_000 * MIB, 16), (BOUND, 48)])
def test_ten_gigabytes_of_zeros_are_refused_with_bounded_memory(launch, declared, taken_mib):
    process = launch(frame_bytes_max=BOUND)
    before, sent = peak_mib(process), []

    def zeros():
        yield size(declared)
        while len(sent) < 200:  # 10 GB if the service took them; enough to see that it does not
            sent.append(1)
            yield bytes(MIB)

    assert raw(process, zeros())[0] == "INVALID_ARGUMENT"
    assert len(sent) <= taken_mib
    assert peak_mib(process) - before < 2.5 * BOUND / MIB


def test_a_caller_that_stops_half_way_gives_its_turn_back(launch):
    process, hold = launch(arrival_s=0.5), threading.Event()

    def stalling():
        yield size(10)
        yield b"half"
        hold.wait(20)

    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(raw, process, stalling())
        time.sleep(0.2)
        assert SocketPort(process.socket, timeout_s=10).exchange(b"next") == b"next"
        assert stalled.result(10)[0] in {"CANCELLED", "UNKNOWN"}
        hold.set()


def test_clients_at_once_are_answered_one_after_the_other_and_counters_meanwhile(launch):
    port = SocketPort(launch().socket)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(port.exchange, b"sleep 0.4") for _ in range(4)]
        began = time.monotonic()
        port.counters()
        assert time.monotonic() - began < 0.4
        assert [call.result() for call in asked] == [b"sleep 0.4"] * 4
    assert port.counters() == {"most_inside": 1}


def test_a_request_waits_for_its_turn_only_so_long(launch):
    port = SocketPort(launch(turn_s=0.3).socket)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(port.exchange, b"sleep 2")
        time.sleep(0.5)
        with pytest.raises(TransportFailure, match="busy"):
            port.exchange(b"second")
        assert first.result() == b"sleep 2"


def test_a_caller_that_goes_away_does_not_undo_what_was_begun(launch, short_folder):
    process = launch()
    with pytest.raises(TransportFailure, match="DEADLINE"):
        SocketPort(process.socket, timeout_s=0.3).exchange(b"sleep 1")
    assert SocketPort(process.socket).exchange(b"next") == b"next"
    assert (process.socket.parent / "slept").exists()


def test_no_text_of_a_failure_crosses(launch):
    process = launch()
    code, details = raw(process, chunks(b"fail"))
    assert (code, details) == ("INTERNAL", "The vault failed.")
    with pytest.raises(TransportFailure) as failed:
        SocketPort(process.socket).exchange(b"fail")
    assert "Jane" not in str(failed.value)
    process.terminate()
    assert "Jane" not in process.stdout.read()


@pytest.mark.parametrize("kind", ["text", "nan", "key"])
def test_counters_are_numbers_or_nothing(launch, kind):
    port = SocketPort(launch().socket)
    port.exchange(f"count {kind}".encode())
    with pytest.raises(TransportFailure) as failed:
        port.counters()
    assert "Jane" not in str(failed.value)


def test_a_living_vault_is_not_pushed_aside(launch):
    first = launch()
    second = launch()
    assert second.said.startswith("Another vault is alive here.")
    assert second.wait(10) == Misconfigured.exit_code
    assert SocketPort(first.socket).exchange(b"still here") == b"still here"


def test_the_socket_of_a_dead_vault_is_replaced(launch):
    first = launch()
    first.kill()
    first.wait()
    assert first.socket.is_socket()
    with pytest.raises(TransportFailure, match="refused"):
        SocketPort(first.socket, connect_s=0.2).exchange(b"x")
    assert launch().said == "ready"
    assert SocketPort(first.socket).exchange(b"again") == b"again"


def test_a_call_waits_for_a_vault_that_is_being_restarted(launch):
    first = launch()
    first.kill()
    first.wait()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(SocketPort(first.socket, connect_s=20).exchange, b"patient")
        launch()
        assert asked.result(20) == b"patient"


def test_a_vault_killed_during_a_request_is_a_failed_transport_and_its_successor_answers_at_once(launch):
    process = launch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(SocketPort(process.socket).exchange, b"sleep 20")
        time.sleep(0.5)
        process.kill()
        with pytest.raises(TransportFailure):
            asked.result(10)
    process.wait()
    launch()
    began = time.monotonic()
    assert SocketPort(process.socket).exchange(b"again") == b"again"
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_cleanly(launch, number):
    process = launch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(SocketPort(process.socket).exchange, b"sleep 20")
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(5) == 0
        with pytest.raises(TransportFailure):
            asked.result(5)
    assert not process.socket.exists()
    assert not (process.socket.parent / "slept").exists()


def test_a_file_that_is_no_socket_is_left_alone(short_folder):
    path = short_folder / "vault.sock"
    path.write_text("precious")
    with pytest.raises(Misconfigured, match="no socket"), claim(path):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o751])
def test_a_socket_folder_that_is_open_to_others_is_refused(short_folder, mode):
    short_folder.chmod(mode)
    with pytest.raises(Misconfigured, match="chmod 750"):
        prepare_directory(short_folder / "vault.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to any group")
def test_the_socket_belongs_to_the_shared_group(launch, short_folder):
    prepare_directory(short_folder / "run" / "vault.sock", 4711)
    socket = launch().socket
    assert (socket.parent.stat().st_gid, socket.stat().st_gid) == (4711, 4711)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_the_shared_group_holds_in_a_user_namespace_that_does_not_know_it(short_folder):
    """How a plain user's vault goes without a network: as itself and nobody else in a namespace of its own."""
    code = """
import ctypes, os, sys
from pathlib import Path
from manikin.client.service.server import VaultService, prepare_directory
path, uid = Path(sys.argv[1]), 64321
os.setgroups([4711]); os.setgid(uid); os.setuid(uid)
prepare_directory(path, 4711)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which becoming another user took away
if ctypes.CDLL(None).unshare(0x50000000):  # CLONE_NEWUSER | CLONE_NEWNET
    raise SystemExit(77)
for file, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{uid} {uid} 1")):
    Path(f"/proc/self/{file}").write_text(line)
VaultService(None, path).start()
print(oct(path.stat().st_mode), flush=True)
os._exit(0)
"""
    os.chown(short_folder, 64321, 64321)
    path = short_folder / "run" / "vault.sock"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode == 77:
        pytest.skip("this system gives plain users no namespaces")
    assert done.stdout == "0o140660\n", done.stderr
    status = path.stat()
    assert (status.st_uid, status.st_gid) == (64321, 4711)
