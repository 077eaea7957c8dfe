"""Headless Chromium for tests of pages: real clicks and keys, through a pipe, without further dependencies.

    with page(path, width=390, height=800, dark=True) as p:
        p.click("th button")
        assert p.run("document.title") == "..." and not p.errors

One browser serves all tests of a process; every page has a profile of its own.
"""

import atexit
import base64
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 120  # timeout of one reply on a busy machine
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--mute-audio")
KEYS = {
    "Enter": 13, "Escape": 27, " ": 32, "Tab": 9, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
TEXTS = {"Enter": "\r", "Tab": ""}


class Browser:
    """Chromium and the DevTools protocol on its pipe: commands go in, replies and events come out."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium")
        asked, self.commands = os.pipe()
        self.answers, told = os.pipe()
        # The protocol wants descriptors 3 and 4, which only a shell moves safely.
        line = f'exec "$@" 3<&{asked} 4>&{told}'
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.profile}"]
        quiet: Any = subprocess.DEVNULL
        self.process = subprocess.Popen(
            ["bash", "-c", line, "-", program, *flags], pass_fds=(asked, told), stdout=quiet, stderr=quiet
        )
        os.close(asked)
        os.close(told)
        self.numbers = itertools.count(1)
        self.unread = b""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its reply; keep the events that arrive meanwhile."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data) :]
        while True:
            answer = self.read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def wait(self, method: str, session: str) -> None:
        """Wait for an event of a session, of now or of before."""
        while not any(each.get("method") == method and each.get("sessionId") == session for each in self.events):
            self.events.append(self.read())

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            if not select.select([self.answers], [], [], SECONDS)[0]:
                raise TimeoutError(f"Chromium said nothing for {SECONDS} seconds.")
            part = os.read(self.answers, 1 << 20)
            if not part:
                raise RuntimeError(f"Chromium ended, with status {self.process.wait()}.")
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        return dict(json.loads(message))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send any command of the DevTools protocol to this page."""
        return self.browser.ask(method, self.session, **parameters)

    def run(self, script: str) -> Any:
        """Evaluate an expression, a promise's value included, and return it as Python's."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def click(self, target: str | tuple[float, float]) -> None:
        """Press and release the mouse in the middle of the element of a selector, or at (x, y) of the window."""
        x, y = self.hover(target)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, target: str | tuple[float, float]) -> tuple[float, float]:
        """Move the mouse to a target as `click` does, and return where that is."""
        x, y = self._middle(target) if isinstance(target, str) else target
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def key(self, name: str) -> None:
        """Press and release a key: "ArrowLeft", "Enter", " ", "Tab", "a", ..."""
        text = TEXTS.get(name, name if len(name) == 1 else "")
        code = KEYS.get(name) or ord(name.upper())
        common = {"key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": code}
        down = "keyDown" if text else "rawKeyDown"
        self.ask("Input.dispatchKeyEvent", type=down, text=text, **common)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: str | Path, *, whole: bool = False) -> None:
        """Save what the window shows, or the whole page, as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "scale": 1}} if whole else {}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    @property
    def errors(self) -> list[str]:
        """List the errors so far: exceptions, console.error, violations of the content security policy, ..."""
        self.run("new Promise(done => setTimeout(done, 50))")  # what is under way arrives
        found = []
        for event in self._events():
            details = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                thrown = details["exceptionDetails"]
                found.append(thrown.get("exception", {}).get("description") or thrown["text"])
            elif event["method"] == "Log.entryAdded" and details["entry"]["level"] == "error":
                found.append(details["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
                found.append(" ".join(str(each.get("value", each.get("description"))) for each in details["args"]))
        return found

    @property
    def requests(self) -> list[str]:
        """List the requested URLs so far, except data of the page itself (data:, blob:)."""
        asked = [each["params"]["request"]["url"] for each in self._events("Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def _events(self, method: str = "") -> list[dict[str, Any]]:
        mine = [each for each in self.browser.events if each.get("sessionId") == self.session]
        return [each for each in mine if each["method"] == method or not method]

    def _middle(self, selector: str) -> tuple[float, float]:
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            if (!element) return null;
            element.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        place = self.run(script)
        if place is None:
            raise LookupError(f"No element matches {selector!r}.")
        return place[0], place[1]


@functools.cache
def _browser() -> Browser:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium, which is absent")
    browser = Browser(program)
    atexit.register(browser.close)
    return browser


@contextmanager
def page(path: str | Path, *, width: int = 1280, height: int = 800, dark: bool = False) -> Iterator[Page]:
    """Open a file in Chromium and yield the loaded page; skip the test without Chromium.

    Args:
        path: of the HTML file.
        width: of the window, in CSS pixels; below 600 it is a phone's, which touches.
        height: of the window.
        dark: whether the reader prefers dark colors.
    """
    browser = _browser()
    context = browser.ask("Target.createBrowserContext")["browserContextId"]
    target = browser.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    opened = Page(browser, session)
    try:
        for domain in ("Page", "Runtime", "Log", "Network"):
            opened.ask(f"{domain}.enable")
        phone = width < 600
        opened.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        opened.ask("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        opened.ask("Emulation.setEmulatedMedia", features=[scheme])
        opened.ask("Page.navigate", url=Path(path).resolve().as_uri())
        browser.wait("Page.loadEventFired", session)
        yield opened
    finally:
        browser.ask("Target.disposeBrowserContext", browserContextId=context)
        # Other pages may be open, whose events are still to be read.
        browser.events = [each for each in browser.events if each.get("sessionId") not in (None, session)]
