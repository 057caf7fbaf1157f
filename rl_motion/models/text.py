"""Text encoders from local Hugging Face directories, and the small one of the embedded world.

A directory holds config, safetensors weights and tokenizer as `save_pretrained` writes them: DistilBERT,
BERT, XLM-R, CLIP ... are a path away. Nothing is downloaded, no code of the directory is run, nothing is
unpickled. What a large encoder says of a text is kept on disk (`rl_motion.models.text_cache`).

Legend: B texts, L tokens, C channels.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rl_motion.models import text_cache
from rl_motion.models.layers import refuse_not_finite

Form = Literal["tokens", "padded_tokens", "pooled"]
"""What a model reads of a text: the methods of `TextEncoder`."""
_WHOLE, _PADDED = "whole", "padded"
"""What is kept of a text: tokens and pooled embedding of one call; or the tokens of a padded one."""


_LAYER = re.compile(r"\.layers?\.\d+\.")


class TextEncoder:
    """A frozen language model in float32 on the CPU; a text is encoded once and kept.

    Texts are encoded one at a time, without padding, so an embedding does not depend on the texts around it. Where what
    it says is kept on disk, the weights are loaded when the first text is missing there.

    Attributes:
        directory: where the model is read from.
        cut: tokens to which a longer text is cut, special ones included; None: it is refused.
        max_tokens: longest text in tokens, special tokens included.
        token_dim: channels of `tokens`.
        pooled_dim: channels of `pooled`.
        computed: calls of the model so far.
    """

    def __init__(self, directory: str | Path, *, cut: int | None = None) -> None:
        """Read configuration and tokenizer, and, of an encoder of which nothing is kept on disk, the weights.

        Args:
            directory: of the model.
            cut: the length that the official code of a motion model cuts texts to: the tokens before it stay, the last
                one becomes the closing one (OpenAI CLIP's `truncate=True`). MDM: 22; StableMoFusion, MDM-SMPL: 77.

        Raises:
            FileNotFoundError: `directory` is not a local model directory.
            ValueError: weights are missing, which the library would replace by random ones, or are not finite; or
                nobody can cut so.
            UserError: an environment variable of the cache is wrong.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPTextConfig

        self.directory = Path(directory)
        if not (self.directory / "config.json").is_file():
            raise FileNotFoundError(
                f"got text encoder {str(directory)!r}, which has no config.json; want a local Hugging Face "
                "directory (config.json, model.safetensors, tokenizer.json); save one with save_pretrained "
                "and give its path"
            )
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config: Any = AutoConfig.from_pretrained(self.directory, **local)
        self._is_clip = config.model_type in ("clip", "clip_text_model")
        if self._is_clip:  # of a whole CLIP, the half that reads text
            config = CLIPTextConfig.from_pretrained(self.directory, local_files_only=True)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.directory, **local)
        if len(self._tokenizer) <= len(self._tokenizer.all_special_ids):  # what some classes are without their files
            raise ValueError(
                f"got a tokenizer without words in {self.directory}; want tokenizer.json, or vocab.txt; copy it again"
            )
        self.max_tokens = int(min(self._tokenizer.model_max_length, config.max_position_embeddings))
        self.token_dim = int(config.hidden_size)
        self.pooled_dim = int(config.projection_dim) if self._is_clip else self.token_dim
        if cut is not None and not 2 < cut <= self.max_tokens:
            raise ValueError(
                f"got texts to be cut to {cut} tokens; want 3 to {self.max_tokens}, as many as "
                f"{self.directory.name} reads; correct text_cut, or use the model's own text encoder"
            )
        self.cut = cut
        self.computed = 0
        self._recent = text_cache.Recent()
        self._kept = text_cache.open_cache(self.directory, {"cut": cut})
        if self._kept is None:
            _ = self._model

    @cached_property
    def _model(self) -> Any:
        """The model with its weights."""
        from transformers import AutoModel, CLIPTextModelWithProjection

        model_class: Any = CLIPTextModelWithProjection if self._is_clip else AutoModel
        # A model class of the library itself has no remote code to trust and does not know the option.
        options = {} if self._is_clip else {"trust_remote_code": False}
        # Loading draws random numbers for weights that a checkpoint lacks: leave the caller's stream alone.
        with silence(), torch.random.fork_rng(devices=[]):
            model, info = model_class.from_pretrained(
                self.directory,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                **options,
            )
        # A BERT's pooler is not used here, and checkpoints of language models lack it.
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(
                f"got weights without {missing[:3]} ({len(missing)} in all); want all of them; copy them again"
            )
        unread = sorted(name for name in info["unexpected_keys"] if _LAYER.search(name) and "vision_model" not in name)
        if unread:
            raise ValueError(
                f"got weights of layers that config.json does not have, {unread[0]} among {len(unread)}; want a "
                "config.json of the same model; copy both again"
            )
        refuse_not_finite(dict(model.named_parameters()))
        if self._kept and self._kept.encoder_sha256 != text_cache.encoder_sha256(self.directory):
            raise ValueError(f"got {self.directory}, which changed while it was read; want it left alone; start again")
        return model.eval().requires_grad_(False)

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than it is cut to."""
        return self.cut is not None and self._all_ids(text).shape[1] > self.cut

    def reads(self, text: str) -> bool:
        """Whether it reads a text: one that is no longer than it can read, or is cut."""
        return self.cut is not None or self._all_ids(text).shape[1] <= self.max_tokens

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, L, token_dim], zero beyond the length, and lengths [B] (int64).

        Special tokens count as tokens.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        rows = [self._encoded(text, _WHOLE)["hidden_LC"] for text in _some(texts)]
        length_B = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), length_B

    def padded_tokens(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states [B, max_tokens, token_dim], of the padding too, whose token ids are 0.

        What CLIP's own code feeds on: its tokenizer pads with 0, and its attention is causal, so that padding changes
        no token before it.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        hidden = {text: self._encoded(text, _PADDED)["hidden_LC"] for text in dict.fromkeys(_some(texts))}
        return torch.stack([hidden[text] for text in texts])

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """One embedding per text, [B, pooled_dim].

        It is the mean of the last hidden states over the attention mask (special tokens included); for CLIP
        its own projected text embedding, which is what MDM was trained with.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        return torch.stack([self._encoded(text, _WHOLE)["pooled_C"] for text in _some(texts)])

    def _encoded(self, text: str, form: str) -> dict[str, Tensor]:
        """What is kept of a text: from memory, from disk, or computed now."""
        found = self._recent.get(text, form)
        if found is not None:
            return found
        found = self._kept.get(text, form) if self._kept else None
        if found is None:
            found = self._encode(self._ids(text), form)
            if self._kept:
                self._kept.put(text, form, found)
        self._recent.put(text, form, found)
        return found

    def _encode(self, ids: Tensor, form: str) -> dict[str, Tensor]:
        if form == _PADDED:
            ids = torch.nn.functional.pad(ids, (0, self.max_tokens - ids.shape[1]))
        self.computed += 1
        with torch.no_grad():
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
        hidden_LC = output.last_hidden_state[0]
        if form == _PADDED:
            return {"hidden_LC": hidden_LC}
        return {"hidden_LC": hidden_LC, "pooled_C": output.text_embeds[0] if self._is_clip else hidden_LC.mean(dim=0)}

    def _ids(self, text: str) -> Tensor:
        ids = self._all_ids(text)
        if self.cut is not None and ids.shape[1] > self.cut:
            return torch.cat([ids[:, : self.cut - 1], ids[:, -1:]], dim=1)
        if ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"got a text of {ids.shape[1]} tokens ({text[:60]!r}...); want at most "
                f"{self.max_tokens}; shorten it or split it into several prompts"
            )
        return ids

    def _all_ids(self, text: str) -> Tensor:
        ids: Tensor = self._tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
        return ids


@dataclass(frozen=True, slots=True)
class TinyBertConfig:
    """Shape of the embedded world's text encoder."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    max_tokens: int = 64
    seed: int = 0


def create_tiny_bert(captions: Iterable[str], directory: str | Path, config: TinyBertConfig | None = None) -> None:
    """Write an untrained small BERT with a vocabulary of the captions' words as a Hugging Face directory.

    The tokenizer is a lower-casing WordPiece: known words are one token each, unknown words fall apart into
    characters. The same captions and configuration give the same files.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    config = config or TinyBertConfig()
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = (normalizer.normalize_str(caption) for caption in captions)
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,'-") | {letter for word in words for letter in word})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    wrap: Any = PreTrainedTokenizerFast
    wrap(
        tokenizer_object=tokenizer,
        model_max_length=config.max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        bert = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=2 * config.hidden,
                max_position_embeddings=config.max_tokens,
                pad_token_id=vocabulary["[PAD]"],
            )
        )
    with silence():
        bert.save_pretrained(directory)


@contextmanager
def silence() -> Iterator[None]:
    """Reading weights is no news to the user, least of all once per worker, nor is that a CLIP can see, too.

    What is missing is said by `TextEncoder` itself.
    """
    from transformers.utils import logging as module

    logging: Any = module  # its functions are untyped

    was_enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_enabled:
            logging.enable_progress_bar()


def _some(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not texts:
        raise ValueError(f"got {texts!r}; want a list of at least one text; wrap a single text in a list")
    return texts
