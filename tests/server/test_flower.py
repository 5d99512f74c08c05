"""Every Flower internal that the coordinator uses, against a SuperLink that really serves."""

import base64
import contextlib
import hashlib
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from manikin.common.certificates import Authority, new_node_key, new_reviewer_key
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.common.processes import LOOPBACK, free_port, supervising, wait_until
from manikin.server.bundle import build_bundle
from manikin.server.flower import SuperLink
from manikin.server.guard import BODY_BYTES_MAX, FLEET_PATHS, RUNTIME_PATHS
from manikin.server.running import Line, read_status


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coordinator")
    authority = Authority.create("test")
    server = authority.issue_server([LOOPBACK])
    write_atomically(folder / "tls" / "ca.pem", authority.certificate)
    write_atomically(folder / "tls" / "server.pem", server.public)
    write_atomically(folder / "tls" / "server.key", server.private, mode=0o600)
    write_atomically(folder / "keys" / "reviewer", new_reviewer_key().private, mode=0o600)
    return Line(folder, LOOPBACK, free_port())


@pytest.fixture(scope="module")
def nodes():
    return {name: new_node_key().public.decode() for name in ("north", "south")}


@pytest.fixture(scope="module")
def serving(line, nodes, tmp_path_factory):
    """Settings of a SuperLink that waits for two hospitals which never come."""
    return line.settings(tmp_path_factory.mktemp("run"), nodes, quorum=2, gather_s=600)


@pytest.fixture(scope="module", autouse=True)
def process(line, serving):
    """Its process."""
    with supervising([line.superlink(serving)]) as processes:
        processes[0].start()
        wait_until(serving.status.exists, processes, timeout_s=60, what="Starting")
        yield processes[0]


def post(line, port, path, body=b"", headers=None):
    """The status of an answer."""
    context = ssl.create_default_context(cafile=str(line.folder / "tls" / "ca.pem"))
    heads = {"content-type": "application/protobuf", **(headers or {})}
    request = urllib.request.Request(f"https://{LOOPBACK}:{port}{path}", data=body, headers=heads)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def flower_paths(app):
    from fastapi.routing import iter_route_contexts

    return {context.route.path for context in iter_route_contexts(app.routes) if hasattr(context.route, "path")}


def test_every_call_that_the_guards_let_through_exists_in_flower(line, nodes, tmp_path):
    superlink = SuperLink(line.settings(tmp_path, nodes, quorum=1, gather_s=1))
    paths = flower_paths(superlink._app)
    assert FLEET_PATHS | RUNTIME_PATHS | {"/health"} <= paths
    assert {p for p in paths if p.startswith("/v1/control/")}, "Flower's control calls are where we think they are"


def test_nodes_keep_their_numbers_over_restarts_and_rosters(line, nodes, tmp_path):
    settings = line.settings(tmp_path, nodes, quorum=1, gather_s=1).model_copy(
        update={"database": tmp_path / "state.db"}
    )
    first = SuperLink(settings).register()
    assert SuperLink(settings.model_copy(update={"nodes": {"north": nodes["north"]}})).register() == {
        "north": first["north"]
    }
    assert SuperLink(settings).register() == first


def test_a_node_key_that_is_none_is_refused(line, tmp_path):
    with pytest.raises(Misconfigured, match="node key of north"):
        SuperLink(line.settings(tmp_path, {"north": "ssh-ed25519 AAAA"}, quorum=1, gather_s=1))


def test_a_run_is_started_with_the_signed_bundle_and_found_again_after_a_restart(line, nodes, tmp_path):
    settings = line.settings(tmp_path, nodes, quorum=1, gather_s=1).model_copy(
        update={"database": tmp_path / "state.db"}
    )
    superlink = SuperLink(settings)
    run = superlink.start_run()
    assert superlink.outcome(run) is None
    fab = superlink._state.get_fab(hashlib.sha256(build_bundle()).hexdigest())
    assert fab.content == build_bundle()
    assert fab.verifications == json.loads(settings.verifications.read_bytes())
    assert SuperLink(settings).unfinished_run() == run
    elsewhere = settings.model_copy(update={"run_folder": tmp_path / "other"})
    assert SuperLink(elsewhere).unfinished_run() == 0
    superlink._state.stop_run(run)
    assert superlink.outcome(run)[0] == "stopped"
    assert superlink.unfinished_run() == 0


def test_from_outside_only_the_fleet_calls_exist(line, serving):
    from flwr.superlink.routers.control.router import router

    control = sorted(route.path for route in router.routes)
    assert "/v1/control/start-run" in control
    assert "/v1/control/register-node" in control
    for path in [*control, *RUNTIME_PATHS, "/v1/fleet/register-node", "/docs", "/openapi.json", "/v1/responses"]:
        assert post(line, serving.port, path) == 404, path
    assert post(line, serving.port, "/v1/fleet/../control/start-run") == 404
    assert post(line, serving.port, "/v1/fleet/pull-messages") == 401
    for path in [*control, *FLEET_PATHS]:
        assert post(line, serving.runtime_port, path) == 404, path


def test_a_task_is_given_only_to_an_executor_that_knows_the_secret(line, serving):
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    def ask(secret):
        interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
        if secret:
            protected = frozenset({"/flwr.proto.Runtime/AcquireTask"})
            interceptors.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=protected))
        client = RuntimeHttpClient.from_server_address(
            server_address=f"{LOOPBACK}:{serving.runtime_port}",
            insecure=False,
            root_certificates=(line.folder / "tls" / "ca.pem").read_bytes(),
            interceptors=interceptors,
        )
        try:
            return client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        finally:
            client.close()

    assert not ask(serving.superexec_secret.read_bytes()).token
    for secret in (None, b"guessed"):
        with pytest.raises(Exception, match="401"):
            ask(secret)


def test_calls_without_a_task_token_are_refused(line, serving):
    for path in RUNTIME_PATHS - {"/v1/runtime/acquire-task"}:
        assert post(line, serving.runtime_port, path) in (400, 401, 403), path


def test_bodies_are_bounded_whatever_length_they_declare(line, serving, process):
    path = "/v1/runtime/push-object"
    assert post(line, serving.runtime_port, path, b"", {"content-length": str(1 << 40)}) == 413

    def most_memory():
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    before = most_memory()
    with contextlib.suppress(OSError):  # a cut line is as good
        assert post(line, serving.runtime_port, path, (bytes(1 << 20) for _ in range(512))) >= 400
    assert most_memory() < before + 3 * BODY_BYTES_MAX


def test_only_nodes_of_the_study_may_call_and_only_with_their_key(line, serving, nodes):
    def call(text):
        key = public_key_to_bytes(load_ssh_public_key(text.encode()))
        headers = {FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(key).decode()}
        return post(line, serving.port, "/v1/fleet/pull-messages", b"", headers)

    assert call(nodes["north"]) == 401  # Flower's answer: nobody signed with that key
    assert call(new_node_key().public.decode()) == 401  # the guard's


def test_the_status_file_says_who_is_missing(serving, nodes):
    status = read_status(serving.status)
    assert status.state == "gathering"
    assert set(status.nodes) == set(nodes)
    assert status.online == []
    names = json.loads((serving.run_folder / "nodes.json").read_text())
    assert names == {str(number): name for name, number in status.nodes.items()}


def test_without_a_quorum_the_run_does_not_start(line, nodes, tmp_path):
    settings = line.settings(tmp_path, nodes, quorum=1, gather_s=0.1)
    superlink = SuperLink(settings)
    with pytest.raises(Exception, match=r"0 of 2 hospitals are connected.*north, south"):
        superlink._gather(superlink.register())
