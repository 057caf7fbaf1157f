"""A local language model as an author: batches, templates, what it cannot load, what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rl_motion.config import UserError
from rl_motion.prompts import chat, local_author
from rl_motion.prompts.author import Decompose, Judge, Question, Refused
from rl_motion.prompts.chat import TRIES
from rl_motion.prompts.local_author import LocalAuthor, fingerprint_of
from tests.llm_servers import tiny_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(local_author._SAMPLING, "max_new_tokens", 16)


QUESTIONS: list[Question] = [Decompose(caption=f"a person walks {'on and ' * n}on") for n in range(3)] + [
    Judge(text="a person walks")
]


def test_a_random_model_has_every_question_set_aside_with_its_reason(llama: Path, one_thread: None) -> None:
    author = LocalAuthor(llama, batch=3)
    given = dict(author.answer(QUESTIONS))
    assert sorted(given) == [0, 1, 2, 3]
    assert all(isinstance(answer, Refused) and f"last of {TRIES} tries" in answer.reason for answer in given.values())
    assert author.usage.requests == TRIES * len(QUESTIONS)
    assert 0 < author.usage.tokens_out <= 16 * author.usage.requests and author.usage.tokens_in > 1000


def test_what_a_model_says_does_not_depend_on_the_batch(llama: Path, one_thread: None) -> None:
    assert dict(LocalAuthor(llama, batch=1).answer(QUESTIONS)) == dict(LocalAuthor(llama, batch=4).answer(QUESTIONS))


def test_a_model_that_answers_is_heard(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = LocalAuthor(llama)
    asked: list[int] = []

    def said(ids: list[list[int]]) -> list[str]:
        asked.append(len(ids))
        words = ["nonsense", json.dumps({"plausible": True, "reason": ""})]
        return [words[len(asked) - 1]] * len(ids)

    author.load()
    monkeypatch.setattr(author, "_said", said)
    assert [answer.model_dump() for _, answer in author.answer(QUESTIONS[3:])] == [{"plausible": True, "reason": ""}]
    assert asked == [1, 1]


def test_a_question_that_does_not_fit_is_refused(llama: Path, tmp_path: Path) -> None:
    small = Path(shutil.copytree(llama, tmp_path / "small"))
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    ((_, refused),) = LocalAuthor(small).answer(QUESTIONS[:1])
    assert isinstance(refused, Refused) and "the model has room for 1024" in refused.reason


@pytest.mark.parametrize(
    "template", [None, "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"]
)
def test_tokenizers_without_a_template_or_without_a_system_role(llama: Path, template: str | None) -> None:
    author = LocalAuthor(llama)
    author.load()
    author._tokenizer.chat_template = template
    text = author._tokenizer.decode(author._tokens([{"role": r, "content": f"<{r}>"} for r in ("system", "user")]))
    assert text == ("x" if template else "system:\n<system>\n\nuser:\n<user>\n\nassistant:\n")


def test_the_fingerprint_is_that_of_the_files_and_the_templates(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(llama, tmp_path / "copy"))
    before = fingerprint_of(llama)
    assert fingerprint_of(copy) == before
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert fingerprint_of(copy) != before
    monkeypatch.setattr(chat, "_SYSTEM", "Say nothing.")
    assert fingerprint_of(llama) != before


def test_what_cannot_be_loaded_is_the_users_to_mend(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json; want .*; "):
        LocalAuthor(tmp_path / "absent")
    broken = Path(shutil.copytree(llama, tmp_path / "pickled"))
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    code = Path(shutil.copytree(llama, tmp_path / "code"))
    config = json.loads((code / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (code / "config.json").write_text(json.dumps(config))
    (code / "mine.py").write_text("raise SystemExit('it ran')")
    for folder in (broken, code):
        with pytest.raises(UserError, match="cannot be loaded"):
            next(LocalAuthor(folder).answer(QUESTIONS))
