"""The registry's gRPC service: mutual TLS, three calls, bounded messages.

A line opens only with a certificate of the coordinator's own authority; whose it is, is looked up at each call by the
key in it, so that a revoked hospital gets nothing from that moment on. A stranger gets no TLS, and no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped]

from manikin.common.certificates import certificate_key
from manikin.common.errors import ManikinError, Misconfigured
from manikin.common.registry import GET, LIST, OPTIONS, PUT, SERVICE, decode_entry, encode_entries
from manikin.server.agreements import Coordinator
from manikin.server.registry.shelf import Shelf

CALLS_MAX = 16
THREADS = 4

Answer = Callable[[Shelf, bytes], bytes]


def serve(coordinator: Coordinator, listen: str | None = None) -> tuple[grpc.Server, int]:
    """Start the registry; the server, and the port that it listens at. Stop it with `server.stop(grace)`.

    Args:
        coordinator: whose documents.
        listen: host:port; the registry's address on the card by default. Port 0 takes a free one.

    Raises:
        Misconfigured: the coordinator has no registry, its certificate is missing, or the port is taken.
    """
    address = listen or coordinator.registry
    if not address:
        raise Misconfigured("This coordinator has no registry.", "Its card names none.", "Give --listen, or use files.")
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _handlers(coordinator)),))
    try:
        port = server.add_secure_port(address, _credentials(coordinator))
    except RuntimeError:
        raise Misconfigured(f"Nothing can listen at {address}.", "The port may be taken.", "Choose another.") from None
    server.start()
    return server, port


def _credentials(coordinator: Coordinator) -> grpc.ServerCredentials:
    tls = coordinator.folder / "tls"
    try:
        key, certificate, authority = ((tls / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    except FileNotFoundError as error:
        raise Misconfigured(f"There is no {error.filename}.", "", "Restore it from your backup.") from None
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


def _handlers(coordinator: Coordinator) -> dict[str, grpc.RpcMethodHandler]:
    answers: dict[str, Answer] = {
        PUT: lambda shelf, request: shelf.put(request),
        LIST: lambda shelf, _: encode_entries(shelf.entries()),
        GET: lambda shelf, request: shelf.get(decode_entry(request)),
    }
    return {name: grpc.unary_unary_rpc_method_handler(_call(coordinator, answer)) for name, answer in answers.items()}


def _call(coordinator: Coordinator, answer: Answer) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """One call: who asks, then what is answered; a refusal crosses in its own words: nothing here is a patient's."""

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            node_key = certificate_key(context.auth_context()["x509_pem_cert"][0]).decode()
            return answer(Shelf.of(coordinator, node_key), request)
        except ManikinError as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except (OSError, KeyError):
            context.abort(grpc.StatusCode.UNAVAILABLE, "The registry cannot answer now.")
        raise AssertionError("abort raises")

    return handle
