"""A language model of a local directory, in this process. Ray workers are this class too: runtime/prompt_authors.py."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from rl_motion.config import UserError
from rl_motion.prompts import chat
from rl_motion.prompts.author import Answer, Question, Refused
from rl_motion.prompts.chat import Chat, Usage
from rl_motion.prompts.checks import printable

_SAMPLING = {"do_sample": False, "max_new_tokens": chat.MAX_TOKENS}
_READ = {".json", ".jinja", ".model", ".safetensors", ".txt"}
"""Endings of the files that a model and its tokenizer consist of."""
_CHUNK = 1 << 20


class LocalAuthor:
    """A causal model asked greedily, several questions at a time, with its chat template where it has one."""

    name = "transformers"

    def __init__(self, path: str | Path, *, batch: int = 8) -> None:
        """Hashes the files; the model is loaded with the first question.

        Args:
            path: a Hugging Face directory with safetensors. Its code, if any, is never run.
            batch: questions at a time.

        Raises:
            UserError: there is no such directory.
        """
        self.path = Path(path)
        self.model = self.path.resolve().name
        self.fingerprint = fingerprint_of(self.path)
        self.usage = Usage()
        self._batch = batch
        self._tokenizer: Any = None
        self._network: Any = None

    def answer(self, questions: Sequence[Question]) -> Generator[tuple[int, Answer | Refused]]:
        """(index, answer), as they come.

        Raises:
            UserError: the directory holds no model that can be loaded.
        """
        self.load()
        waiting = deque((index, Chat(question)) for index, question in enumerate(questions))
        while waiting:
            some = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
            self._ask([talk for _, talk in some if talk.outcome is None])
            for index, talk in some:
                if talk.outcome is not None:
                    yield index, talk.outcome
                else:
                    waiting.appendleft((index, talk))

    def load(self) -> None:
        """Load model and tokenizer, unless they are here; raises UserError."""
        if self._network is not None:
            return
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from rl_motion.models.device import device

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self.path, padding_side="left", **local)
            network: Any = AutoModelForCausalLM.from_pretrained(self.path, use_safetensors=True, dtype="auto", **local)
        except Exception as error:  # transformers raises whatever a file's content leads to
            raise UserError(
                f"got {str(self.path)!r}, which cannot be loaded ({printable(str(error), 300)}); want a causal "
                "language model of Hugging Face's form, with tokenizer and safetensors, without its own code; save "
                "one with save_pretrained and give its path"
            ) from None
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._network = network.to(device()).eval()

    def _ask(self, talks: Sequence[Chat]) -> None:
        """Have the model answer each; one that does not fit into its context is refused."""
        fitting = []
        room = getattr(self._network.config, "max_position_embeddings", None)
        for talk in talks:
            ids = self._tokens(talk.messages)
            if room is not None and len(ids) + chat.MAX_TOKENS > room:
                talk.outcome = Refused(
                    reason=f"the question takes {len(ids)} tokens and its answer up to {chat.MAX_TOKENS}; the model "
                    f"has room for {room}"
                )
            else:
                fitting.append((talk, ids))
        if fitting:
            for (talk, _), said in zip(fitting, self._said([ids for _, ids in fitting]), strict=True):
                talk.hear(said)

    def _said(self, ids: Sequence[list[int]]) -> list[str]:
        import torch
        from transformers import GenerationConfig

        padded = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(self._network.device)
        # The model's own settings, temperature and the like, are left behind, except for what ends an answer.
        ends = self._network.generation_config.eos_token_id
        make: Any = GenerationConfig
        settings = make(
            **_SAMPLING,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self._tokenizer.eos_token_id if ends is None else ends,
        )
        with torch.inference_mode():
            tokens_BL = self._network.generate(**padded, generation_config=settings)
        new_BL = tokens_BL[:, padded["input_ids"].shape[1] :]
        self.usage.requests += len(ids)
        self.usage.tokens_in += sum(map(len, ids))
        self.usage.tokens_out += int((new_BL != self._tokenizer.pad_token_id).sum())
        return list(self._tokenizer.batch_decode(new_BL, skip_special_tokens=True))

    def _tokens(self, messages: Sequence[dict[str, str]]) -> list[int]:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            text = "".join(f"{message['role']}:\n{message['content']}\n\n" for message in messages) + "assistant:\n"
            return list(self._tokenizer(text)["input_ids"])
        template: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            text = self._tokenizer.apply_chat_template(messages, **template)
        except TemplateError:  # some know no system message
            system, user, *more = messages
            first = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
            text = self._tokenizer.apply_chat_template([first, *more], **template)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def fingerprint_of(path: Path) -> str:
    """An author's fingerprint from its files: the same wherever the directory lies.

    Raises:
        UserError: there is no such directory.
    """
    if not (path / "config.json").is_file():
        raise UserError(
            f"got the language model {str(path)!r}, which has no config.json; want a local Hugging Face directory "
            "(config.json, tokenizer, *.safetensors); save one with save_pretrained and give its path"
        )
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.suffix in _READ and file.is_file()):
        digest.update(f"{file.name}\x1f{file.stat().st_size}\x1f".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return chat.fingerprint(digest.hexdigest(), _SAMPLING)
