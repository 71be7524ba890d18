"""The version of this engine."""

from __future__ import annotations

VERSION = "0.1.0"
