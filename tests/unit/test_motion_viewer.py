"""The viewer's page: foreign text stays text, motion survives the packing, nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rl_motion.motion import viewer
from rl_motion.motion.viewer import Panel, Row, motion_page

HOSTILE = """</h2></section><script>alert(1)</script><img src=x onerror=alert(2)> "quoted' & {braces} \u2028"""
JOINTS = np.random.default_rng(0).normal(size=(7, 22, 3))


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of the whole page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def shape(page):
    return [(tag, sorted(attributes)) for tag, attributes in Elements(page).tags]


def page(words, verdict=True):
    return motion_page(words, [Row(words, [Panel(words, JOINTS, verdict), Panel("base", JOINTS)])], notes=words)


def test_hostile_text_changes_no_element():
    assert shape(page(HOSTILE)) == shape(page("a person walks"))
    assert "".join(Elements(page(HOSTILE)).text).count(HOSTILE) == 5  # two titles, notes, prompt, label


def test_an_unescaped_caption_would_be_noticed(monkeypatch):
    monkeypatch.setattr(viewer, "escape", str)
    assert shape(page(HOSTILE)) != shape(page("a person walks"))


def test_only_its_own_script_may_run_and_nothing_is_loaded():
    text = page("a person walks")
    elements = Elements(text).tags
    assert not {"src", "href", "srcset", "data"} & {name for _, attributes in elements for name in attributes}
    assert "url(" not in text
    assert "@import" not in text
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attributes["content"] for _, attributes in elements if "http-equiv" in attributes)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def packed(text):
    block = re.search(r'id="motions">(.*?)</script>', text, re.DOTALL)[1]
    assert "<" not in block
    return json.loads(block)


def test_joints_survive_to_the_millimetre_and_far_ones_stop():
    far = JOINTS.copy()
    far[0, 0] = [100.0, -100.0, 0.0]
    panel = packed(motion_page("t", [Row("p", [Panel("base", far)])]))["rows"][0][0]
    back = np.frombuffer(base64.b64decode(panel["joints"]), dtype="<i2").reshape(panel["frames"], 22, 3) / 1000
    assert np.abs(back[1:] - far[1:]).max() <= 5e-4 + 1e-9
    assert back[0, 0].tolist() == [32.767, -32.767, 0.0]


def test_verdicts_are_words():
    assert "does what it says" in page("p", verdict=True)
    assert "does not" in page("p", verdict=False)
    neither = page("p", verdict=None)
    assert "does not" not in neither
    assert "does what it says" not in neither


@pytest.mark.parametrize("joints", [np.zeros((0, 22, 3)), np.zeros((5, 21, 3)), np.full((5, 22, 3), np.nan)])
def test_bad_joints_are_refused(joints):
    with pytest.raises(ValueError, match="tuned"):
        motion_page("t", [Row("p", [Panel("tuned", joints)])])
