"""The vault behind a Unix domain socket: three calls, and nothing else that a gateway could ask.

`port` is the gateway's side and imports only grpc and the standard library; `server` is the vault's side and never
opens a network port. What a frame holds is none of their business: the vault reads it, the service only bounds it.
"""

from manikin.client.service.port import SocketPort

__all__ = ["SocketPort"]
