"""Text encoders: local only, one encoding per text, independent of batch mates."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert

CAPTIONS = ["A person walks forward.", "someone kicks with the left leg", "a person waves"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    create_tiny_bert(CAPTIONS, folder, TinyBertConfig(hidden=16, heads=2, max_tokens=12))
    return folder


@pytest.fixture(scope="module")
def encoder(directory):
    return TextEncoder(directory)


def test_shapes_and_lengths(encoder):
    hidden_BLC, length_B = encoder.tokens(["a person walks", "someone kicks with the left leg."])
    assert length_B.tolist() == [5, 9]
    assert hidden_BLC.shape == (2, 9, 16)
    assert not hidden_BLC[0, 5:].any()
    assert (encoder.max_tokens, encoder.token_dim, encoder.pooled_dim) == (12, 16, 16)
    assert not hidden_BLC.requires_grad


def test_pooled_is_the_mean_over_the_attention_mask(encoder):
    hidden_BLC, length_B = encoder.tokens(CAPTIONS)
    want = torch.stack([row[:length].mean(0) for row, length in zip(hidden_BLC, length_B.tolist(), strict=True)])
    torch.testing.assert_close(encoder.pooled(CAPTIONS), want)


def test_an_embedding_does_not_depend_on_the_texts_around_it(directory):
    together = TextEncoder(directory).pooled(CAPTIONS)
    for row, caption in zip(together, CAPTIONS, strict=True):
        assert torch.equal(TextEncoder(directory).pooled([caption])[0], row)
    assert not torch.equal(together[0], together[1])


def test_a_text_is_encoded_once(directory):
    encoder, calls = TextEncoder(directory), []
    encoder._model.register_forward_hook(lambda *_: calls.append(1))
    encoder.pooled(["a person", "a person", "someone"])
    encoder.tokens(["someone", "a person"])
    assert len(calls) == 2


def test_case_is_ignored_and_unknown_words_fall_apart(encoder):
    assert torch.equal(encoder.pooled(["A PERSON Walks"]), encoder.pooled(["a person walks"]))
    _, length_B = encoder.tokens(["walks", "zig"])
    assert length_B.tolist() == [3, 5]
    assert not torch.equal(encoder.pooled(["zig"]), encoder.pooled(["zag"]))


def test_the_same_captions_make_the_same_files(directory, tmp_path):
    state = torch.random.get_rng_state()
    create_tiny_bert(reversed(CAPTIONS), tmp_path, TinyBertConfig(hidden=16, heads=2, max_tokens=12))
    TextEncoder(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_loading_leaves_the_random_stream_alone_even_where_weights_are_missing(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    state = torch.random.get_rng_state()
    pooled = TextEncoder(tmp_path).pooled(CAPTIONS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(pooled, TextEncoder(directory).pooled(CAPTIONS))


def test_mistakes_are_explained(encoder, tmp_path):
    with pytest.raises(ValueError, match=r"got a text of 22 tokens.*want at most 12.*shorten"):
        encoder.pooled(["walks " * 20])
    with pytest.raises(ValueError, match=r"got 'walks'; want a list.*wrap"):
        encoder.pooled("walks")
    with pytest.raises(FileNotFoundError, match=r"no config.json; want a local.*save"):
        TextEncoder(tmp_path / "distilbert-base-uncased")


def test_nothing_is_unpickled(directory, tmp_path):
    """A directory whose weights are a pickle is refused."""
    for file in directory.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        TextEncoder(tmp_path)


def test_clip_gives_its_projected_text_embedding(directory, tmp_path):
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=10,
        eos_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
    )
    clip = CLIPTextModelWithProjection(config).eval()
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path)
    assert (encoder.pooled_dim, encoder.token_dim, encoder.max_tokens) == (6, 16, 10)
    ids = tokenizer("a person waves", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        want = clip(input_ids=ids).text_embeds
    torch.testing.assert_close(encoder.pooled(["a person waves"]), want)
    # Padded with id 0 to the model's maximum, as CLIP's own code does; no token sees the padding behind it.
    hidden_BLC, length_B = encoder.tokens(["a person waves", "waves"])
    padded_BLC = encoder.padded_tokens(["a person waves", "waves"])
    assert padded_BLC.shape == (2, 10, 16)
    for hidden_LC, padded_LC, length in zip(hidden_BLC, padded_BLC, length_B.tolist(), strict=True):
        torch.testing.assert_close(padded_LC[:length], hidden_LC[:length])
    with torch.no_grad():
        want = clip(input_ids=torch.cat([ids, torch.zeros(1, 10 - ids.shape[1], dtype=torch.int64)], dim=1))
        other = clip(input_ids=torch.cat([ids, torch.ones(1, 10 - ids.shape[1], dtype=torch.int64)], dim=1))
    torch.testing.assert_close(padded_BLC[0], want.last_hidden_state[0])
    assert (padded_BLC[0] - other.last_hidden_state[0]).abs().max() > 1e-3  # negative control: another padding id
    with pytest.raises(ValueError, match="want at most 10"):
        encoder.padded_tokens(["a person waves " * 10])
