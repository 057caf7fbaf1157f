"""The review page in a real browser: keys decide, captions stay text, and the pool says what was pressed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_motion.prompts.review import Asked
from rl_motion.prompts.review_server import ReviewServer
from rl_motion.prompts.table import BUILD, read_table
from tests.pools import TEXTS, decided, pool_in, pool_row, serving

ATTACK = "<img src=x onerror=\"document.title='broken'\"> a man walks </script><script>document.title='broken'</script>"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=800,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, 800 pixels wide."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser; Debian has one in the packages `chromium` and `chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [pool_row(TEXTS[0]), pool_row(TEXTS[1], operation="simultaneous"), pool_row(TEXTS[2]), pool_row(ATTACK)]
    pool_in(tmp_path, *rows)
    table = pa.table({"id": ["m-walk"], "text": [ATTACK]})
    pq.write_table(table, tmp_path / BUILD / "metas.parquet")
    return tmp_path


class Page:
    """The page as somebody at the keyboard has it."""

    def __init__(self, browser: Any, server: ReviewServer) -> None:
        self.browser = browser
        browser.get_log("browser")
        browser.get("about:blank")
        browser.get(server.address)
        self.wait(lambda: browser.execute_script("return document.body.dataset.ready") == "yes")

    def wait(self, until: Callable[[], object]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 15, poll_frequency=0.02).until(lambda _: until())

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def text(self, name: str) -> str:
        return self.browser.find_element("id", name).text

    def shows(self, text: str) -> None:
        self.wait(lambda: self.text("text") == text)

    def says(self, words: str) -> None:
        self.wait(lambda: words in self.text("said"))


@pytest.fixture
def page(browser: Any, pool: Path) -> Iterator[Page]:
    with serving(pool, "Ann") as server:
        page = Page(browser, server)
        yield page
        complaints = [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]]
        # The answers 409 and 422 are told to people, and the browser notes them; nothing else is wrong.
        assert [line for line in complaints if "status of 4" not in line] == []


def test_keys_decide_and_the_pool_has_it(page: Page, pool: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.shows(TEXTS[0])
    page.press("a")
    page.says(f"accepted: {TEXTS[0]}")
    page.shows(TEXTS[1])
    page.press("r")
    page.says(f"rejected: {TEXTS[1]}")
    page.shows(TEXTS[2])
    page.press("e")
    page.wait(lambda: page.browser.switch_to.active_element.get_attribute("id") == "editor")
    page.press("a man rejects keys: arjku", Keys.ENTER)
    page.says("edited: a man rejects keys: arjku")
    page.shows(ATTACK)
    assert page.text("reviewed") == "3 / 4"
    assert [page.text(f"n-{state}") for state in ("accepted", "edited", "rejected")] == ["1", "1", "1"]
    rows = read_table(pool).rows
    assert [row.review for row in rows] == ["accepted", "rejected", "edited", "unreviewed"]
    assert decided(rows[2]) == [("edited", "Ann", TEXTS[2])]

    page.press("u")
    page.says(f"unreviewed again: {TEXTS[2]}")
    page.shows(TEXTS[2])
    page.press("u")
    page.says(f"unreviewed again: {TEXTS[1]}")
    rows = read_table(pool).rows
    assert [row.review for row in rows] == ["accepted", "unreviewed", "unreviewed", "unreviewed"]
    assert [row.text for row in rows] == [*TEXTS, ATTACK]
    assert [entry[0] for entry in decided(rows[1])] == ["rejected", "undone"]


def test_an_edit_can_be_left_and_is_refused_in_the_page(page: Page, pool: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.press("e", "nothing that is kept", Keys.ESCAPE)
    page.shows(TEXTS[0])
    page.press("e")
    page.press(TEXTS[1], Keys.ENTER)
    page.wait(lambda: "the text of row 2 too" in page.text("error"))
    assert page.browser.switch_to.active_element.get_attribute("value") == TEXTS[1]  # nothing typed is lost
    page.press(Keys.ESCAPE)
    page.shows(TEXTS[0])
    assert [row.history for row in read_table(pool).rows] == [()] * 4


def test_captions_are_shown_as_text(page: Page) -> None:
    page.press("j", "j", "j")
    page.shows(ATTACK)
    assert "onerror" in page.text("metas")
    page.press("a")
    page.says("onerror")
    page.press("e")
    assert page.browser.find_element("id", "editor").get_attribute("value") == ATTACK
    assert page.browser.title == "Prompt review"
    assert page.browser.find_elements("css selector", "img, article script") == []


def test_keys_and_filters_move(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    for key, text in [("j", 1), (Keys.ARROW_RIGHT, 2), ("k", 1), (Keys.ARROW_LEFT, 0), (Keys.ARROW_LEFT, 0)]:
        page.press(key)
        page.shows(TEXTS[text])
    page.says("This is the first one.")
    Select(page.browser.find_element("id", "operation")).select_by_value("simultaneous")
    page.shows(TEXTS[1])
    assert page.text("place") == "1 of 1"
    page.press("r")
    page.says("that was the last one")
    Select(page.browser.find_element("id", "operation")).select_by_value("")
    Select(page.browser.find_element("id", "state")).select_by_visible_text("unreviewed")
    page.wait(lambda: page.text("place") == "1 of 3")
    page.press("/", "sits")
    page.shows(TEXTS[2])
    page.press(" down")
    page.wait(lambda: page.text("nothing") == "" and page.text("place") == "1 of 1")
    page.press(" nowhere")
    page.wait(lambda: page.text("nothing").startswith("No prompt fits"))


def test_words_that_are_searched_decide_nothing(page: Page, pool: Path) -> None:
    page.press("/", TEXTS[0])
    page.wait(lambda: page.text("place") == "1 of 1")
    assert page.browser.find_element("id", "search").get_attribute("value") == TEXTS[0]
    assert [row.history for row in read_table(pool).rows] == [()] * 4


def test_what_another_decided_meanwhile_is_shown_first(page: Page, pool: Path) -> None:
    with serving(pool, "Ben") as other:
        other.desk.decide(Asked(id=pool_row(TEXTS[0]).id, seen=0, decision="reject"))
    page.press("a")
    page.says("Ben rejected it meanwhile")
    assert page.text("badge").endswith("rejected")
    page.press("a")
    page.says("accepted")
    assert [entry[:2] for entry in decided(read_table(pool).rows[0])] == [("rejected", "Ben"), ("accepted", "Ann")]


def test_a_key_that_is_held_down_decides_once(page: Page, pool: Path) -> None:
    down = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'a', repeat: arguments[0]}))"
    page.browser.execute_script(down, False)
    page.shows(TEXTS[1])
    for _ in range(5):
        page.browser.execute_script(down, True)
    page.press("r")
    page.says("rejected")
    assert [row.review for row in read_table(pool).rows] == ["accepted", "rejected", "unreviewed", "unreviewed"]


def test_it_fits_800_pixels(page: Page) -> None:
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    for _ in range(4):
        assert not page.browser.execute_script(wide)
        page.press("j")
