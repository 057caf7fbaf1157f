"""Text encoders as published, small and with random weights: a CLIP with its tokenizer, a DistilBERT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOT, EOT, CONTEXT = 512, 513, 77
"""CLIP's token ids here: 256 bytes, 256 bytes that end a word, then the text's start and its end."""
LONG = "a person walks forward in a wide circle, then sits down on the floor, stands up again and waves with both hands"
"""More than 77 tokens, as each letter is one."""


def save_clip(folder: Path, *, whole: bool = True, eos_token_id: int = 2, seed: int = 0) -> None:
    """A CLIP like OpenAI's directories on the hub: text and vision, and `eos_token_id` 2, which is not the one used."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig

    text: dict[str, Any] = {
        "vocab_size": 514,
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": eos_token_id,
        "pad_token_id": 1,
    }
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if whole:
            vision_config = CLIPVisionConfig(**vision, image_size=8, patch_size=4)
            model: Any = CLIPModel(
                CLIPConfig(
                    text_config=CLIPTextConfig(**text).to_dict(),
                    vision_config=vision_config.to_dict(),
                    projection_dim=6,
                )
            )
        else:
            model = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        for parameter in model.parameters():  # else norms do nothing and biases are 0
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    save_clip_tokenizer(folder)


def save_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte-level tokenizer without merges: each byte of a word is a token. Its padding token is no id 0."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    make: Any = CLIPTokenizer
    make(vocab=vocabulary, merges=[], model_max_length=CONTEXT).save_pretrained(folder)


def clip_ids(text: str, context: int = CONTEXT) -> Tensor:
    """What OpenAI's `clip.tokenize(text, context_length=context, truncate=True)` gives: start, text, end, zeros [1, L].

    Too long a text is cut, and its last token becomes the end.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    order = {byte: index for index, byte in enumerate(bytes_to_unicode())}
    words = re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())
    ids = [SOT]
    for word in words:
        letters = [order[byte] for byte in word.encode()]
        ids += [*letters[:-1], letters[-1] + 256]
    ids.append(EOT)
    if len(ids) > context:
        ids = [*ids[: context - 1], EOT]
    return torch.tensor([ids + [0] * (context - len(ids))])


def clip_says(folder: Path, ids: Tensor) -> tuple[Tensor, Tensor]:
    """OpenAI's `encode_text` of these ids: hidden states after the last norm [L, C], and the projection of the end's.

    By the library's layers, with the pooling of OpenAI's code: at the largest id, which is the end's.
    """
    from transformers import CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden_LC = model.text_model(input_ids=ids).last_hidden_state[0]
        return hidden_LC, hidden_LC[ids[0].argmax()] @ model.text_projection.weight.T


def save_distilbert(folder: Path, tokenizer: Path, *, hidden: int = 16, vocabulary: int | None = None) -> None:
    """A DistilBERT with its head for masked words, as on the hub, and the tokenizer of another directory."""
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForMaskedLM

    words: Any = AutoTokenizer.from_pretrained(tokenizer)
    config = DistilBertConfig(
        vocab_size=vocabulary or len(words),
        dim=hidden,
        hidden_dim=2 * hidden,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DistilBertForMaskedLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
