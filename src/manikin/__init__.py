"""Manikin: federated, privacy-preserving synthesis of medical images."""

__version__ = "0.1.0"
