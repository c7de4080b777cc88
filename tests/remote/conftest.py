"""What the tests of remote sources share."""

# SPDX-License-Identifier: MIT

from pathlib import Path

import pytest

from ggufmix.sources.remote import patience, web


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits and limits of a test's length; no proxy between it and its own machine."""
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(web, "STALL_SECONDS", 0.4)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HTTP_PROXY", "http_proxy", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def local(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, converted from this machine's copy of it."""
    import ggufmix

    out = tmp_path_factory.mktemp("local") / "local.gguf"
    ggufmix.convert(example, out)
    return out
