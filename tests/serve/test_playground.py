"""The playground in a real browser: both ways to give files, a run, before and after in step, errors, cancelling."""

from __future__ import annotations

import base64
import json
import shlex
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsers import DESK, PHONE, chromium, resize, shoot
from serve_harness import SECRET, Running, make_settings, running

pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
from selenium.webdriver.support.ui import WebDriverWait

# Selenium leaves its connection to the driver to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Page:
    """The playground as a person has it, by the ids of its parts."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, url: str, key: str = SECRET, size: tuple[int, int] = DESK) -> None:
        resize(self.browser, size)
        self.browser.get(url)
        self.wait(lambda: self.text("model"))
        self.browser.get_log("browser")
        if self.part("key").is_displayed():
            self.fill("key", key)

    def part(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def text(self, name: str) -> str:
        return self.part(name).text

    def click(self, name: str) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", self.part(name))
        self.part(name).click()

    def fill(self, name: str, value: str) -> None:
        self.part(name).clear()
        self.part(name).send_keys(value)

    def js(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def wait(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        return WebDriverWait(self.browser, seconds, poll_frequency=0.05).until(lambda _: condition())

    def wait_for_state(self, state: str) -> None:
        self.wait(lambda: self.text("state") == state)

    def wait_for_result(self) -> None:
        self.wait(lambda: self.text("state") in ("Done", "It did not work", "Cancelled"))
        assert self.text("state") == "Done", self.problems()
        self.wait(lambda: self.js("return Math.min(after.readyState, before.readyState)") >= 2)

    def problems(self) -> dict[str, str]:
        """The messages on the page, by their fields."""
        shown = self.browser.find_elements("css selector", "p.error")
        return {each.get_attribute("id").removesuffix("-error"): each.text for each in shown if each.text}

    def complaints(self, *, network: bool = True) -> list[str]:
        """What the browser's console says; an answer that is an error is such a complaint too."""
        return [each["message"] for each in self.browser.get_log("browser") if network or each["source"] != "network"]

    def shoot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shoot(self.browser, path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any) -> Page:
    return Page(browser)


def longer(speech: Path, target: Path) -> Path:
    """The speech twice, so that the video has to repeat."""
    with wave.open(str(speech)) as once, wave.open(str(target), "wb") as twice:
        twice.setparams(once.getparams())
        content = once.readframes(once.getnframes())
        twice.writeframes(content + content)
    return target


DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (each) => each.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], arguments[2], { type: arguments[3] }));
arguments[0].dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
"""


def test_two_files(live: Running, page: Page, pair: tuple[Path, Path], tmp_path: Path) -> None:
    page.open(live.url)
    page.shoot(tmp_path / "desk-before.png")
    speech = longer(pair[1], tmp_path / "it's said twice.wav")
    page.part("video-file").send_keys(str(pair[0]))
    target = page.browser.find_element("css selector", "[data-kind=audio] .drop span")
    page.js(DROP, target, base64.b64encode(speech.read_bytes()).decode(), speech.name, "audio/wav")
    assert [each.text for each in page.browser.find_elements("css selector", ".file .name")] == [pair[0].name, speech.name]
    assert f"example.com/{pair[0].name}" in page.text("code")
    page.fill("seed", "9007199254740993")
    page.js("return arguments[0].focus()", page.part("guidance_scale"))
    page.part("guidance_scale").send_keys("\ue014")  # an arrow key to the right
    page.click("run")
    page.wait_for_result()

    assert page.text("seed-used") == "9007199254740993", "a seed that JavaScript's numbers cannot hold arrives whole"
    assert page.text("cost") == "$0.2"
    page.js("document.getElementById('logs').open = true")
    assert "lip-synced 50 of 50 frames" in page.text("log")
    page.js(
        "window.seen = []; (function look() { seen.push([before.currentTime, after.currentTime, after.ended]);"
        " requestAnimationFrame(look); })()"
    )
    page.click("play")
    page.wait(lambda: page.part("play").get_attribute("aria-label") == "Pause")
    page.wait(lambda: page.js("return after.ended"))
    seen = page.js("return seen")
    own = page.js("return before.duration")
    assert own == pytest.approx(1, abs=0.1)
    assert max(place[1] for place in seen) == pytest.approx(2, abs=0.1)
    gaps = [abs(place[0] - place[1] % own) for place in seen if not place[2]]
    assert max(min(gap, own - gap) for gap in gaps) <= 0.2
    assert max(place[0] for place in seen if place[1] < own) > 0.7 * own, "the original moves"
    assert any(place[0] < 0.5 for place in seen if place[1] > own), "and starts again"

    page.js("const scrub = document.getElementById('scrub'); scrub.value = 0.4; scrub.dispatchEvent(new Event('input'))")
    page.wait(lambda: page.js("return Math.abs(after.currentTime - 0.4) < 0.05 && Math.abs(before.currentTime - 0.4) < 0.05"))
    assert page.js("return [before.muted, after.muted]") == [True, False]
    page.click("mute")
    assert page.js("return after.muted")
    page.shoot(tmp_path / "desk-after.png")

    content = httpx.get(page.part("download").get_attribute("href")).content
    assert content[4:8] == b"ftyp"
    assert page.complaints() == []


def test_the_call_in_code(live: Running, page: Page) -> None:
    page.open(live.url)
    page.fill("video_url", "https://example.com/it's.mp4")
    page.fill("seed", "7")
    page.js("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    page.click("copy")
    page.wait(lambda: page.text("copy") == "Copied")
    assert page.js("return copied") == page.text("code")
    words = shlex.split(page.text("code"))
    assert words[words.index("--url") + 1] == f"{live.url}/fal-ai/latentsync"
    asked = {"video_url": "https://example.com/it's.mp4", "audio_url": "https://example.com/speech.wav", "seed": 7}
    assert json.loads(words[words.index("--data") + 1]) == asked
    page.click("tab-python")
    compile(page.text("code"), "playground", "exec")
    for line in (
        f'QUEUE_URL_FORMAT = "{live.url}/queue/"',
        f'CDN_URL = "{live.url}/cdn"',
        '"video_url": "https://example.com/it\'s',
    ):
        assert line in page.text("code")
    page.part("tab-python").send_keys("\ue014")
    assert page.part("tab-javascript").get_attribute("aria-selected") == "true"
    assert f'url: "{live.url}/api/fal/proxy"' in page.text("code")
    page.js("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("copy")
    page.wait(lambda: page.text("copy") == "Copied")
    assert page.complaints() == []


def test_the_shipped_pair_on_a_phone(live: Running, page: Page, tmp_path: Path) -> None:
    page.open(live.url, size=PHONE)
    page.shoot(tmp_path / "phone-before.png")
    page.click("example")
    page.click("run")
    page.wait_for_result()
    assert page.js("return before.duration") > 1
    page.shoot(tmp_path / "phone-after.png")
    seed = page.text("seed-used")
    page.click("reuse")
    assert page.part("seed").get_attribute("value") == seed
    assert f'"seed": {seed}' in page.text("code")
    assert page.complaints() == []


def test_messages_stand_at_their_fields(live: Running, page: Page, pair: tuple[Path, Path], tmp_path: Path) -> None:
    page.open(live.url, key="wrong")
    page.fill("seed", "1.5")
    page.click("run")
    assert set(page.problems()) == {"video_url", "audio_url", "seed"}
    assert "whole number" in page.problems()["seed"]

    page.click("example")
    page.fill("seed", "99999999999999999999")
    page.click("run")
    page.wait(page.problems)
    assert page.problems() == {"key": "This server does not know that key."}
    assert page.js("return document.activeElement.id") == "key"

    page.fill("key", SECRET)
    assert page.problems() == {}
    page.click("run")
    page.wait(page.problems)
    assert set(page.problems()) == {"seed"}

    page.fill("seed", "")
    page.fill("audio_url", "gopher://example.com/speech.wav")
    page.click("run")
    page.wait(page.problems)
    assert "gopher" in page.problems()["audio_url"]

    text = tmp_path / "text.mp4"
    text.write_text("this is no video\n" * 100)
    page.part("video-file").send_keys(str(text))
    page.part("audio-file").send_keys(str(pair[1]))
    page.wait(lambda: page.browser.find_element("css selector", "[data-kind=video] .note").is_displayed())
    page.click("run")
    page.wait(page.problems)
    assert set(page.problems()) == {"video_url"}
    assert page.part("video_url").get_attribute("aria-invalid") == "true"
    assert page.complaints(network=False) == []


def test_cancelling(live: Running, page: Page, tmp_path: Path) -> None:
    page.open(live.url)
    page.click("example")
    live.paused.set()
    try:
        page.click("run")
        page.wait(lambda: "queue" in page.text("state"))
        page.click("cancel")
        page.wait_for_state("Cancelled")
    finally:
        live.paused.clear()
    page.click("run")
    page.wait(lambda: "lip-synced" in page.text("log"))
    page.click("cancel")  # at once: the clip is short
    page.wait_for_state("Cancelled")
    page.shoot(tmp_path / "desk-cancelled.png")
    assert page.part("run").is_enabled()
    assert not page.part("result").is_displayed()
    assert page.problems() == {}


def test_a_server_that_lends_its_key(page: Page, pair: tuple[Path, Path], tmp_path: Path) -> None:
    with running(make_settings(tmp_path / "data", browser_key="tester"), work=False) as state:
        page.open(state.url)
        assert not page.part("key").is_displayed()
        page.part("video-file").send_keys(str(pair[0]))
        page.part("audio-file").send_keys(str(pair[1]))
        page.click("run")
        page.wait(lambda: "queue" in page.text("state"))
        assert f"{state.url}/files/" in page.text("code"), "what is uploaded has its URL"
        page.click("cancel")
        page.wait_for_state("Cancelled")
        page.browser.get("about:blank")
