"""LoRA: starts as the base, switches off exactly, trains alone, travels strictly, is peft's own format."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from rl_motion.config import AdapterConfig
from rl_motion.models.adapter import (
    adapter_checksum,
    adapter_disabled,
    adapter_state,
    attach_lora,
    load_adapter,
    load_adapter_state,
    save_adapter,
)
from rl_motion.models.mdm import MDM, MDMConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def _network(width=32):
    torch.manual_seed(0)
    config = MDMConfig(features=10, latent_dim=width, ff_size=64, num_layers=2, text_dim=8, mask_frames=True)
    return MDM(config).eval()


def _inputs():
    generator = torch.Generator().manual_seed(1)
    x_BFD = torch.randn(3, 12, 10, generator=generator)
    return x_BFD, torch.tensor([0, 7, 49]), torch.randn(3, 8, generator=generator), torch.tensor([12, 5, 9])


def _randomise(network, seed=3):
    generator = torch.Generator().manual_seed(seed)
    state = adapter_state(network)
    load_adapter_state(network, {n: torch.randn(t.shape, generator=generator) * 0.1 for n, t in state.items()})


def _adapted(config=None, **kwargs):
    network = _network()
    model = attach_lora(network, config or AdapterConfig(), **kwargs)
    return network, model


@pytest.mark.usefixtures("torchs_products")
def test_a_fresh_adapter_changes_no_bit():
    base = _network()(*_inputs())
    network, model = _adapted()
    assert torch.equal(network(*_inputs()), base)
    assert torch.equal(model(*_inputs()), base)
    _randomise(network)
    assert not torch.equal(network(*_inputs()), base)


def test_adapted_predictions_have_the_same_bits_with_and_without_gradients():
    network, _ = _adapted()
    _randomise(network)
    with_grad = network(*_inputs())
    with torch.no_grad():
        assert torch.equal(network(*_inputs()), with_grad)


@pytest.mark.usefixtures("torchs_products")
def test_a_disabled_adapter_is_the_base_and_everything_comes_back():
    base = _network()(*_inputs())
    network, model = _adapted()
    _randomise(network)
    adapted = network(*_inputs())
    frozen = next(p for n, p in network.named_parameters() if "lora_A" in n)
    frozen.requires_grad_(False)
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    with adapter_disabled(model):
        assert torch.equal(network(*_inputs()), base)
        with adapter_disabled(network):
            assert torch.equal(network(*_inputs()), base)
        assert torch.equal(network(*_inputs()), base)
    with pytest.raises(RuntimeError, match="inside"), adapter_disabled(network):
        raise RuntimeError("inside")
    assert torch.equal(network(*_inputs()), adapted)
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before


def test_a_graph_made_with_the_adapter_survives_disabling_it():
    network, _ = _adapted()
    _randomise(network)
    output = network(*_inputs())
    with adapter_disabled(network), torch.no_grad():
        reference = network(*_inputs())
    (output - reference).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_only_the_adapter_trains():
    network, _ = _adapted()
    _randomise(network)
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    assert len(names) == len(adapter_state(network))
    assert all(".lora_" in name for name in names)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(*_inputs()).square().sum().backward()
    optimiser.step()
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == names


def test_targets_say_what_is_adapted():
    kinds = {"attention": {"in_proj", "out_proj"}, "mlp": {"linear1", "linear2"}, "condition": {"embed_text"}}
    for target, layers in kinds.items():
        network, _ = _adapted(AdapterConfig(targets=(target,)))
        assert {name.split(".")[-3] for name in adapter_state(network)} == layers


def test_the_seed_decides_and_the_global_stream_is_left_alone():
    torch.manual_seed(5)
    want = torch.rand(1)
    network = _network()
    torch.manual_seed(5)
    attach_lora(network, AdapterConfig(), seed=1)
    assert torch.equal(torch.rand(1), want)
    checksum = adapter_checksum(adapter_state(network))
    assert checksum == adapter_checksum(adapter_state(_adapted(seed=1)[0]))
    assert checksum != adapter_checksum(adapter_state(_adapted(seed=2)[0]))


def test_the_state_has_sorted_names_is_a_copy_and_is_the_same_from_both_faces():
    network, model = _adapted()
    state = adapter_state(network)
    assert list(state) == sorted(state)
    assert "seqTransEncoder.layers.0.self_attn.in_proj.lora_A.weight" in state
    assert list(adapter_state(model)) == list(state)
    before = adapter_checksum(state)
    _randomise(network)
    assert adapter_checksum(state) == before != adapter_checksum(adapter_state(network))


def test_the_checksum_sees_names_shapes_and_bits():
    tensor = torch.arange(4.0)
    digests = {
        adapter_checksum(state)
        for state in (
            {"a": tensor},
            {"b": tensor},
            {"a": tensor.reshape(2, 2)},
            {"a": tensor.double()},
            {"a": torch.nextafter(tensor, torch.full((4,), 9.0))},
        )
    }
    assert len(digests) == 5
    pair = {"a": tensor, "b": tensor + 1}
    assert adapter_checksum(pair) == adapter_checksum(dict(reversed(pair.items())))


def test_loading_a_state_is_strict_and_all_or_nothing():
    network, _ = _adapted()
    state = adapter_state(network)
    first, *_, last = state
    changed = {name: tensor + 1 for name, tensor in state.items()}
    bad = {
        "missing": {name: t for name, t in changed.items() if name != last},
        "unknown": changed | {"other": torch.zeros(1)},
        "shape": changed | {last: torch.zeros(1, 1)},
    }
    for case in bad.values():
        with pytest.raises(ValueError, match=r"got .*want .*(use|load)"):
            load_adapter_state(network, case)
        assert torch.equal(adapter_state(network)[first], state[first])
    load_adapter_state(network, changed)
    assert adapter_checksum(adapter_state(network)) == adapter_checksum(changed)


def test_a_saved_adapter_comes_back_bit_for_bit_and_through_peft_to_rounding(tmp_path):
    from peft import PeftModel

    network, model = _adapted(AdapterConfig(rank=3, alpha=7.5, targets=("mlp", "condition")))
    _randomise(network)
    want = network(*_inputs())
    save_adapter(model, tmp_path / "adapter", base_model_name="mdm-embedded")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["peft_type"]) == (
        "mdm-embedded",
        3,
        "LORA",
    )
    other = _network()
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(other(*_inputs()), want)
    assert adapter_checksum(adapter_state(other)) == adapter_checksum(adapter_state(network))
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in network.named_parameters() if p.requires_grad
    }
    through_peft = PeftModel.from_pretrained(_network(), tmp_path / "adapter")(*_inputs())
    torch.testing.assert_close(through_peft, want, rtol=1e-5, atol=1e-5)  # which has a form of its own
    save_adapter(model, tmp_path / "again", base_model_name="mdm-embedded")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_an_adapter_of_another_width_rank_or_kind_is_refused_and_leaves_the_network_alone(tmp_path):
    _, model = _adapted()
    save_adapter(model, tmp_path, base_model_name="mdm-embedded")
    wider = _network(width=64)
    names = list(wider.state_dict())
    with pytest.raises(ValueError, match=r"got .*shape.*want .*another width or with another rank.*load it"):
        load_adapter(wider, tmp_path)
    assert list(wider.state_dict()) == names
    with pytest.raises(ValueError, match=r"name no linear layer.*want some of.*use"):
        load_adapter(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    config_file = tmp_path / "adapter_config.json"
    config = json.loads(config_file.read_text())
    for change, message in ({"r": 2}, "another rank"), ({"peft_type": "LOHA"}, "want LORA"):
        config_file.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_adapter(_network(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got .*want .*give"):
        load_adapter(_network(), tmp_path / "nowhere")


def test_mistakes_of_attaching_are_explained():
    network, _ = _adapted()
    with pytest.raises(ValueError, match="carries an adapter already"):
        attach_lora(network, AdapterConfig())
    with pytest.raises(ValueError, match=r"got adapter targets .*adapter_targets declares.*change"):
        attach_lora(nn.Linear(2, 2), AdapterConfig())
    with pytest.raises(ValueError, match=r"without adapter.*call attach_lora"):
        adapter_state(_network())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_adapted_networks_copy(duplicate):
    network, _ = _adapted()
    _randomise(network)
    other = duplicate(network)
    assert torch.equal(other(*_inputs()), network(*_inputs()))
    _randomise(other, seed=4)
    assert not torch.equal(other(*_inputs()), network(*_inputs()))
    assert list(other.state_dict()) == list(network.state_dict())
    assert "seqTransEncoder.layers.0.self_attn.in_proj.base_layer.weight" in other.state_dict()
    other.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(other(*_inputs()), network(*_inputs()))
