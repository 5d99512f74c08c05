"""The registry: carries documents between coordinator and hospitals over mutual TLS, when there is a line."""

from manikin.server.registry.service import serve
from manikin.server.registry.shelf import Shelf

__all__ = ["Shelf", "serve"]
