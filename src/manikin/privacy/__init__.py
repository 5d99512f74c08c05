"""Guarantees and their audits. No network code: this package is usable alone."""
