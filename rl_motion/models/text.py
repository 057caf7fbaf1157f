"""Text encoders from local Hugging Face directories, and the small one of the embedded world.

A directory holds config, safetensors weights and tokenizer as `save_pretrained` writes them: DistilBERT,
BERT, XLM-R, CLIP ... are a path away. Nothing is downloaded, no code of the directory is run, nothing is
unpickled.

Legend: B texts, L tokens, C channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl_motion.models.layers import refuse_not_finite


@dataclass(frozen=True, slots=True)
class _Encoded:
    hidden_LC: Tensor
    pooled_C: Tensor


class TextEncoder:
    """A frozen language model; every distinct text is encoded once and kept.

    Texts are encoded one at a time, without padding, so an embedding does not depend on the texts around it.

    Attributes:
        directory: where the model was read from.
        max_tokens: longest text in tokens, special tokens included.
        token_dim: channels of `tokens`.
        pooled_dim: channels of `pooled`.
    """

    def __init__(self, directory: str | Path) -> None:
        """Load model and tokenizer.

        Raises:
            FileNotFoundError: `directory` is not a local model directory.
            ValueError: weights are missing, which the library would replace by random ones, or are not finite.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModelWithProjection

        self.directory = Path(directory)
        if not (self.directory / "config.json").is_file():
            raise FileNotFoundError(
                f"got text encoder {str(directory)!r}, which has no config.json; want a local Hugging Face "
                "directory (config.json, model.safetensors, tokenizer.json); save one with save_pretrained "
                "and give its path"
            )
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(self.directory, **local)
        self._is_clip = config.model_type in ("clip", "clip_text_model")
        model_class: Any = CLIPTextModelWithProjection if self._is_clip else AutoModel
        # A model class of the library itself has no remote code to trust and does not know the option.
        options = {"local_files_only": True} if self._is_clip else local
        # Loading draws random numbers for weights that a checkpoint lacks: leave the caller's stream alone.
        with _no_progress_bars(), torch.random.fork_rng(devices=[]):
            self._model, info = model_class.from_pretrained(
                self.directory,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
        # A BERT's pooler is not used here, and checkpoints of language models lack it.
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise ValueError(
                f"got weights without {missing[:3]} ({len(missing)} in all); want all of them; copy them again"
            )
        refuse_not_finite(dict(self._model.named_parameters()))
        self._model.eval().requires_grad_(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self.directory, **local)
        model_config = self._model.config
        self.max_tokens = int(min(self._tokenizer.model_max_length, model_config.max_position_embeddings))
        self.token_dim = int(model_config.hidden_size)
        self.pooled_dim = int(model_config.projection_dim) if self._is_clip else self.token_dim
        self._cache: dict[str, _Encoded] = {}

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, L, token_dim], zero beyond the length, and lengths [B] (int64).

        Special tokens count as tokens.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        rows = [self._encode(text).hidden_LC for text in _some(texts)]
        length_B = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), length_B

    def padded_tokens(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states [B, max_tokens, token_dim], of the padding too, whose token ids are 0.

        What CLIP's own code feeds on: its tokenizer pads with 0, and its attention is causal, so that padding changes
        no token before it. Not kept: at CLIP's size a text is 158 kB.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        hidden = {text: self._padded(text) for text in dict.fromkeys(_some(texts))}
        return torch.stack([hidden[text] for text in texts])

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """One embedding per text, [B, pooled_dim].

        It is the mean of the last hidden states over the attention mask (special tokens included); for CLIP
        its own projected text embedding, which is what MDM was trained with.

        Raises:
            ValueError: a text has more tokens than the model reads, or there are no texts.
        """
        return torch.stack([self._encode(text).pooled_C for text in _some(texts)])

    def _padded(self, text: str) -> Tensor:
        ids = self._ids(text)
        ids = torch.nn.functional.pad(ids, (0, self.max_tokens - ids.shape[1]))
        with torch.no_grad():
            hidden_LC: Tensor = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        return hidden_LC

    def _ids(self, text: str) -> Tensor:
        ids: Tensor = self._tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
        if ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"got a text of {ids.shape[1]} tokens ({text[:60]!r}...); want at most "
                f"{self.max_tokens}; shorten it or split it into several prompts"
            )
        return ids

    def _encode(self, text: str) -> _Encoded:
        if text not in self._cache:
            ids = self._ids(text)
            with torch.no_grad():
                output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
            hidden_LC = output.last_hidden_state[0]
            pooled_C = output.text_embeds[0] if self._is_clip else hidden_LC.mean(dim=0)
            self._cache[text] = _Encoded(hidden_LC, pooled_C)
        return self._cache[text]


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
    with _no_progress_bars():
        bert.save_pretrained(directory)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Reading a few hundred kB is no news to the user, least of all once per worker."""
    from transformers.utils import logging as module

    logging: Any = module  # its functions are untyped

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _some(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not texts:
        raise ValueError(f"got {texts!r}; want a list of at least one text; wrap a single text in a list")
    return texts
