"""The page of a blind comparison in a real browser: keys and mouse answer, progress is kept, a file comes out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_motion.evaluation.ab import Candidate, Key, make_trials, page_id, read_answers
from rl_motion.evaluation.ab_page import ab_page
from rl_motion.evaluation.ab_tally import tally
from tests.integration.test_review_browser import FLAGS

ATTACK = "<img src=x onerror=\"document.title='broken'\"> a man walks </script><script>document.title='broken'</script>"
PAIRS = 3


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Any]:
    """A headless Chromium, 800 pixels wide, that saves files without asking."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser; Debian has one in the packages `chromium` and `chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    yield chromium
    chromium.quit()


class Page:
    """The page as somebody at the keyboard has it, opened as a file: there is no server."""

    def __init__(self, browser: Any, path: Path, downloads: Path) -> None:
        self.browser, self.path, self.downloads = browser, path, downloads
        browser.get_log("browser")
        self.open()

    def open(self) -> None:
        self.browser.get("about:blank")
        self.browser.get(self.path.as_uri())
        self.wait(lambda: self.browser.execute_script("return document.body.dataset.ready") == "yes")

    def wait(self, until: Callable[[], object]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20, poll_frequency=0.02).until(lambda _: until())

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def text(self, name: str) -> str:
        return self.browser.find_element("id", name).text

    def shows(self, words: str) -> None:
        self.wait(lambda: self.text("place") == words)

    def pressed(self) -> list[str]:
        found = self.browser.find_elements("css selector", ".ask button[aria-pressed=true]")
        return [button.get_attribute("data-choice") for button in found]

    def saved(self) -> Path:
        """The file that the last click saved."""
        found: list[Path] = []

        def whole() -> bool:
            found[:] = [path for path in self.downloads.iterdir() if path.suffix == ".json"]
            return bool(found)

        self.wait(whole)
        time.sleep(0.1)
        return found[0]


@pytest.fixture
def comparison(tmp_path: Path) -> tuple[Path, Key]:
    rng = np.random.default_rng(0)
    candidates = [
        Candidate(f"id{n}", ATTACK if n == 0 else f"a man walks {n}", *rng.normal(size=(2, 6, 22, 3)), fps=12.5)
        for n in range(PAIRS)
    ]
    trials, pairs = make_trials(candidates, PAIRS, seed=1)
    (tmp_path / "ab.html").write_text(ab_page(trials), encoding="utf-8")
    return tmp_path / "ab.html", Key(page=page_id(trials), first="base", second="tuned", seed=1, pairs=pairs)


@pytest.fixture
def page(browser: Any, comparison: tuple[Path, Key], downloads: Path) -> Iterator[Page]:
    for path in downloads.iterdir():
        path.unlink()
    page = Page(browser, comparison[0], downloads)
    yield page
    assert browser.get_log("browser") == []
    assert browser.title == "Which motion is better?"
    browser.execute_script("localStorage.clear()")


def test_keys_answer_every_pair_and_the_file_says_so(page: Page, comparison: tuple[Path, Key]) -> None:
    from selenium.webdriver.common.keys import Keys

    key = comparison[1]
    page.press("Zoë B", Keys.ENTER)
    page.shows("Pair 1 of 4")
    assert page.text("rater") == "Zoë B"
    page.press(Keys.ENTER)  # both questions want an answer
    page.wait(lambda: "Both questions" in page.text("said"))
    page.press("a", Keys.ENTER)
    page.shows("Pair 1 of 4")
    page.press("n", Keys.ENTER)
    page.shows("Pair 2 of 4")
    page.press("b", "b", Keys.ARROW_RIGHT)
    page.shows("Pair 3 of 4")
    page.press(Keys.ARROW_LEFT)
    page.shows("Pair 2 of 4")
    assert page.pressed() == ["B", "B"]
    page.press(Keys.ARROW_DOWN, "a", Keys.ARROW_UP, "n")
    assert page.pressed() == ["same", "A"]
    page.press(Keys.ENTER, "a", "a", Keys.ENTER, "a", "a", Keys.ENTER)
    page.wait(lambda: "Thank you" in page.text("end-words"))
    page.click("#save-end")
    path = page.saved()
    assert path.name == f"ab-{key.page[:8]}-Zoe-B.json"
    (answers,) = read_answers([path], key)
    assert answers.rater == "Zoë B"
    assert answers.answers == {
        "p01": {"realism": "A", "adherence": "same"},
        "p02": {"realism": "same", "adherence": "A"},
        "p03": {"realism": "A", "adherence": "A"},
        "p04": {"realism": "A", "adherence": "A"},
    }
    result = tally([answers], key)
    assert result["realism"].steady["Zoë B"].of == 1


def test_the_mouse_answers_too_and_leaves_the_keys_alone(page: Page, comparison: tuple[Path, Key]) -> None:
    from selenium.webdriver.common.keys import Keys

    page.press("Ann")
    page.click("#begin")
    page.shows("Pair 1 of 4")
    page.click("#ask-realism [data-choice=B]")
    page.click("#ask-adherence [data-choice=same]")
    assert page.pressed() == ["B", "same"]
    page.press(Keys.ENTER)  # goes on; it does not press the button again
    page.shows("Pair 2 of 4")
    page.click("#ask-realism [data-choice=A]")
    page.click("#save")
    page.wait(lambda: "3 pairs that are not answered yet" in page.text("said"))
    (answers,) = read_answers([page.saved()], comparison[1])
    assert answers.answers == {"p01": {"realism": "B", "adherence": "same"}, "p02": {"realism": "A"}}


def test_progress_is_kept_and_another_person_starts_anew(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.press("Ann", Keys.ENTER, "a", "b", Keys.ENTER, "n")
    page.open()
    page.shows("Pair 2 of 4")
    assert page.text("rater") == "Ann"
    assert page.pressed() == ["same"]
    page.press(Keys.ARROW_DOWN, "n", Keys.ENTER, "aa", Keys.ENTER, "aa", Keys.ENTER)
    page.wait(lambda: "Thank you" in page.text("end-words"))
    page.click("#anew")
    page.wait(lambda: "Save the answers first" in page.text("said"))
    page.click("#save-end")
    page.saved()
    page.click("#anew")
    page.press("Ben", Keys.ENTER)
    page.shows("Pair 1 of 4")
    assert page.pressed() == []


def test_what_the_browser_kept_is_not_trusted(page: Page, comparison: tuple[Path, Key]) -> None:
    kept = {"rater": "<b>Eve</b>", "answers": {"p01": {"realism": "C", "adherence": "A"}, "p99": {"realism": "A"}}}
    store = f"rl_motion ab {comparison[1].page}"
    for content in (json.dumps(kept), "{", "3", '{"rater": 1}'):
        page.browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", store, content)
        page.open()
        if content == json.dumps(kept):
            page.shows("Pair 1 of 4")
            assert page.text("rater") == "<b>Eve</b>"
            assert page.pressed() == ["A"]
        else:
            page.wait(lambda: page.browser.find_element("id", "name").is_displayed())


def test_a_browser_that_keeps_nothing_is_told(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.browser.execute_script("Storage.prototype.setItem = () => { throw new Error('no'); }")
    page.press("Ann", Keys.ENTER)
    page.wait(lambda: "keeps nothing" in page.text("said"))
    page.press("a", "a", Keys.ENTER)
    page.shows("Pair 2 of 4")
    page.click("#save")
    page.saved()


def test_captions_stay_text_and_motion_moves(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.press("Ann", Keys.ENTER)
    headings = []
    for _ in range(PAIRS + 1):
        headings.append(page.browser.find_element("css selector", "section.now h2").text)
        page.press("a", "a", Keys.ENTER)
    assert ATTACK in headings
    page.press("Ann")
    page.click("#back")
    shown = "return document.querySelector('section.now canvas').toDataURL()"
    page.press(" ")
    page.wait(
        lambda: page.browser.find_element("css selector", "section.now button").text == "Pause" or page.press(" ")
    )
    before = page.browser.execute_script(shown)
    page.wait(lambda: page.browser.execute_script(shown) != before)


def test_it_fits_800_pixels(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.browser.execute_script(wide)
    page.press("Ann", Keys.ENTER)
    for _ in range(PAIRS + 1):
        assert not page.browser.execute_script(wide)
        page.press("a", "a", Keys.ENTER)
    assert not page.browser.execute_script(wide)
