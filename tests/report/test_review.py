"""The page in a real browser, from a file: clips are played and marked, and the next run does what the marks say."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import DESK, PHONE, chromium, resize, shoot
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Job, Summary, read_records, run
from latentsync_ray.records import Records
from latentsync_ray.report import summarise, write_page
from latentsync_ray.types import ClipRecord

pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
from selenium.webdriver.support.ui import WebDriverWait

# Selenium leaves its connection to the driver to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEPT, REDONE, DROPPED, OTHER = 'a, "b" <i>', "ü & co", "-1+1", "other"
BEGINS = """
window.begun = {};
document.addEventListener("playing", ({ target }) => { begun[target.parentElement.className] ??= target.currentTime; }, true);
"""


class Page:
    """The page as a person has it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, path: Path, size: tuple[int, int] = DESK) -> None:
        resize(self.browser, size)
        self.browser.get(path.as_uri())

    def js(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def cards(self, clip_id: str | None = None) -> list[Any]:
        """Those of a clip, or all, that are to be seen."""
        cards = [card for card in self.browser.find_elements("css selector", "[data-clip]") if card.is_displayed()]
        return [card for card in cards if clip_id in (None, card.get_attribute("data-clip"))]

    def click(self, element: Any, selector: str | None = None) -> None:
        target = element.find_element("css selector", selector) if selector else element
        self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", target)
        target.click()

    def tab(self, measure: str) -> None:
        self.click(self.browser.find_element("id", f"tab-{measure}"))

    def key(self, card: Any, key: str) -> None:
        self.js("arguments[0].focus()", card)
        card.send_keys(key)

    def pressed(self, card: Any) -> list[str]:
        return [each.text for each in card.find_elements("css selector", "[aria-pressed=true]")]

    def text(self, name: str) -> str:
        return self.browser.find_element("id", name).text

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        return WebDriverWait(self.browser, seconds, poll_frequency=0.02).until(lambda _: condition())

    def export(self, folder: Path) -> list[list[str]]:
        """What the button saves."""
        told = {"behavior": "allow", "downloadPath": str(folder)}
        self.browser.execute_cdp_cmd("Browser.setDownloadBehavior", told)
        (folder / "marks.csv").unlink(missing_ok=True)
        self.click(self.browser.find_element("id", "export"))
        self.wait((folder / "marks.csv").exists)
        return list(csv.reader((folder / "marks.csv").read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any) -> Page:
    return Page(browser)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest: a video that is shorter than its speech, one that is not, and one that no browser plays."""
    folder = tmp_path_factory.mktemp("inputs")
    frames = portrait(40)
    write_clip(folder / "short one.mp4", frames[:25])
    write_clip(folder / "long.mp4", frames)
    write_clip(folder / "strange.mp4", frames[:30], codec="mpeg4")
    write_speech(folder / "say.wav", speech_like(1.4))
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "video", "audio", "seed"])
        for clip_id, video in ((KEPT, "short one"), (REDONE, "long"), (DROPPED, "strange"), (OTHER, "long")):
            writer.writerow([clip_id, f"{video}.mp4", "say.wav", 31])
    return folder / "pairs.csv"


def dub(inputs: Path, output: Path, **fields: Any) -> Summary:
    recipe = {"model": "planted:PLANTED", "detector": "embedded", "preset": "ultrafast", "segment_frames": 48}
    told = {"manifest": inputs, "output": output, "recipe": recipe, "cluster": {"runner": "local"}, **fields}
    summary = run(Job.model_validate(told))
    write_page(summarise(str(output)), output / "report.html")
    return summary


def rows(output: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in read_records(output).to_pylist()}


@pytest.mark.slow
def test_play_mark_export_and_run_again(page: Page, inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "an output, 100%"
    dub(inputs, output)
    before, files = rows(output), {path.name: path.stat() for path in (output / "clips").iterdir()}
    page.open(output / "report.html")
    _plays_at_the_moment(page)
    _says_what_it_cannot_play(page)

    page.tab("sharpness")
    page.key(page.cards(KEPT)[0], "k")
    page.click(page.cards(REDONE)[0], "[data-mark=redo]")
    page.key(page.cards(DROPPED)[0], "d")
    page.tab("flicker")
    assert [page.pressed(page.cards(clip)[0]) for clip in (KEPT, REDONE, DROPPED, OTHER)] == [["keep"], ["redo"], ["drop"], []]
    assert page.text("count") == "1 keep, 1 redo, 1 drop"
    shoot(page.browser, tmp_path / "desk.png")
    marks = [["clip_id", "mark", "seed"], [KEPT, "keep", ""], [REDONE, "redo", "32"], [DROPPED, "drop", ""]]
    assert page.export(tmp_path) == marks

    summary = dub(inputs, output, marks=tmp_path / "marks.csv")
    assert (summary.ok, summary.failed, summary.dropped, summary.done_before) == (1, 0, 1, 2)
    after, now = rows(output), {path.name: path.stat() for path in (output / "clips").iterdir()}
    assert sorted(after) == sorted([KEPT, REDONE, OTHER])
    assert sorted(now) == sorted(f"{clip_id}.mp4" for clip_id in after)
    assert [after[clip_id] for clip_id in (KEPT, OTHER)] == [before[clip_id] for clip_id in (KEPT, OTHER)]
    changed = [name for name, stat in now.items() if stat.st_mtime_ns != files[name].st_mtime_ns]
    assert changed == [f"{REDONE}.mp4"]
    assert [each[REDONE]["seed"] for each in (before, after)] == [31, 32]
    again = dub(inputs, output, marks=tmp_path / "marks.csv")
    assert (again.ok, again.failed, again.left, again.done_before, again.frames) == (0, 0, 0, 3, 0)
    assert rows(output) == after

    page.open(output / "report.html", PHONE)
    assert page.text("count") == "1 keep, 1 redo, 1 drop", "marks stay, also of what is gone"
    card = page.cards(REDONE)[0]
    assert card.find_element("css selector", ".done").is_displayed()
    shoot(page.browser, tmp_path / "phone.png")
    page.click(card, "[data-mark=redo]")
    assert page.export(tmp_path)[2] == [REDONE, "redo", "33"]
    page.key(card, "r")
    assert page.export(tmp_path) == marks, "what was done is not undone by chance"
    complaints = [each["message"] for each in page.browser.get_log("browser")]
    assert [each for each in complaints if "media" not in each.lower()] == []


def _plays_at_the_moment(page: Page) -> None:
    page.js(BEGINS)
    page.tab("flicker")
    card = max(page.cards(KEPT) + page.cards(OTHER), key=lambda each: float(each.get_attribute("data-cue")))
    cue = float(card.get_attribute("data-cue"))
    assert cue > 0.05
    slow = page.browser.find_element("id", "slow")
    page.click(slow)
    page.click(card, ".play")
    page.wait(lambda: len(page.js("return begun")) == 2)
    for place in page.js("return begun").values():
        assert cue - 0.05 <= place <= cue + 0.2
    seen = page.wait(lambda: _places(page)[1] > cue + 0.25 and _places(page))
    assert seen[0] == pytest.approx(seen[1], abs=0.15)
    assert page.js("return document.querySelector('.result video').playbackRate") == 0.25
    page.click(slow)
    assert page.js("return document.querySelector('.result video').playbackRate") == 1
    page.wait(lambda: page.js("return document.querySelector('.result video').ended"))
    assert card.find_element("css selector", ".play").text == "play"

    card = page.cards(KEPT)[0]
    page.click(card, ".play")
    assert len(page.wait(lambda: page.browser.find_elements("css selector", ".result video"))) == 1, "one clip at a time"
    page.wait(lambda: page.js("return document.querySelector('.result video').ended"))
    assert "goes backward and forward then, as in the result" in card.find_element("css selector", ".told").text
    source, result, length = (*_places(page), page.js("return document.querySelector('.source video').duration"))
    assert result > length
    assert source == pytest.approx(2 * length - result, abs=0.1)
    page.js("const at = arguments[0]; at.value = 0.3; at.dispatchEvent(new Event('input'))", _scrub(card))
    page.wait(lambda: max(abs(place - 0.3) for place in _places(page)) < 0.05)


def _scrub(card: Any) -> Any:
    return card.find_element("css selector", ".scrub")


def _places(page: Page) -> list[float]:
    return page.js("return ['source', 'result'].map((side) => document.querySelector(`.${side} video`).currentTime)")


def _says_what_it_cannot_play(page: Page) -> None:
    card = page.cards(DROPPED)[0]
    page.click(card, ".play")
    page.wait(lambda: "cannot play the source: its picture stays" in card.find_element("css selector", ".told").text)
    page.wait(lambda: page.js("return document.querySelector('.result video').currentTime") > 0.1)
    assert not card.find_elements("css selector", ".source video")
    assert card.find_element("css selector", ".source img").is_displayed()


def test_failed_clips_and_wrong_seeds(page: Page, tmp_path: Path) -> None:
    evil = "</script>__proto__"
    with Records(str(tmp_path / "out")) as table:
        for clip_id in (evil, "__proto__"):
            known = {"video": "/none.mp4", "audio": "a", "status": "failed", "error_code": "no_face", "error": "x" * 400}
            table.add(ClipRecord.from_row({"clip_id": clip_id, **known}))
    write_page(summarise(str(tmp_path / "out")), tmp_path / "report.html")
    page.open(tmp_path / "report.html", PHONE)
    first, second = page.cards()
    page.key(first, "r")
    page.click(second, "[data-mark=drop]")
    seed = first.find_element("css selector", ".seed input")
    assert seed.get_attribute("value") == "1248"
    for wrong in ("", "1.5", "9223372036854775808", "-1"):
        seed.send_keys("\ue009a\ue000\ue017", wrong)  # all of it is selected and removed
        assert "a seed is a whole number" in page.text("problem")
        assert not page.browser.find_element("id", "export").is_enabled()
    seed.send_keys("\ue009a\ue000\ue017", "9223372036854775807")
    assert page.export(tmp_path)[1:] == [[evil, "redo", "9223372036854775807"], ["__proto__", "drop", ""]]
    shoot(page.browser, tmp_path / "phone.png")
    page.click(page.browser.find_element("css selector", "#all summary"))
    page.click(page.browser.find_element("css selector", "#list button"))
    assert page.text("count") == "1 drop"
    page.browser.refresh()
    assert page.text("count") == "1 drop"
    page.click(page.cards()[1], "[data-mark=drop]")
    assert page.text("count") == "no marks yet"
