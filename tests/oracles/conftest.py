"""These tests need torch, which `make test-oracles` installs; without it they are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = ["test_*.py"] if find_spec("torch") is None else []
