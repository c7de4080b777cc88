"""Chromium, driven through its own driver's HTTP (W3C WebDriver): no library is needed for that."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from numpy.typing import NDArray

INSTALLED = shutil.which("chromium") is not None and shutil.which("chromedriver") is not None
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One window. `shot` is what it shows, uint8 (height, width, 3)."""

    def __init__(self, port: int, profile: Path) -> None:
        self._at = f"http://127.0.0.1:{port}"
        options = {
            "args": [*FLAGS, f"--user-data-dir={profile}"],
            "binary": str(shutil.which("chromium")),
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._at += f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._at + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def tell(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        body = {"cmd": command, "params": parameters}
        return self._call("POST", "/goog/cdp/execute", body)

    def show(self, page: Path, width: int, scheme: str) -> None:
        """Open a file in a window so wide, a phone's below 600, where people prefer that scheme."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        chosen = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", features=chosen)
        self._call("POST", "/url", {"url": page.as_uri()})

    def ask(self, script: str) -> Any:
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """What the console said since the last time."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def shot(self) -> NDArray[np.uint8]:
        """The page, all of its length."""
        got = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(got["data"])))
        return (pixels[..., :3] * 255).round().astype(np.uint8)

    def close(self) -> None:
        self._call("DELETE", "")


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, as long as the block lasts."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert driver.stdout is not None
        port = next(
            int(found[1])
            for line in driver.stdout
            if (found := re.search(r"started successfully on port (\d+)", line))
        )
        browser = Browser(port, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.communicate()
