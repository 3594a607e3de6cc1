"""The layers that a method takes, as PEFT makes them of torch's; and what serving graphs take of an adapter."""

import pytest
import torch
from peft import IA3Config, LoraConfig, MissConfig, get_peft_model
from torch import nn

from builders import layout, parameter
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.methods.interface import ones_unfed, ranked_input
from fieldtune_offline.methods.table import method_named


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.image = nn.Conv2d(4, 4, 3)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.sound = nn.Conv1d(4, 4, 3)

    def forward(self, x):
        return self.linear(x)


def refused(method, config):
    with pytest.raises(UnsupportedModel) as caught:
        method_named(method).check_layers(get_peft_model(Net(), config))
    first, *faults = str(caught.value).splitlines()
    return first, [fault.removeprefix("  - base_model.model.") for fault in faults]


# PEFT warns that it cannot merge them, which is not asked here.
@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_every_layer_that_lora_does_not_take_is_listed():
    first, faults = refused("lora", LoraConfig(r=2, target_modules=["linear", "image", "grouped", "sound"]))
    assert first == "LoRA is supported on linear layers, embeddings and convolutions in one group only"
    assert faults == ["grouped: a convolution in 2 groups", "sound: Conv1d"]
    method_named("lora").check_layers(get_peft_model(Net(), LoraConfig(target_modules=["linear", "image"])))


def test_dora_takes_what_lora_takes():
    first, faults = refused("dora", LoraConfig(r=2, target_modules=["linear", "sound"]))
    assert first == "DoRA is supported on linear layers, embeddings and convolutions in one group only"
    assert faults == ["sound: Conv1d"]


def test_factors_are_taken_on_linear_layers_and_convolutions():
    method = method_named("ia3")
    method.check_layers(get_peft_model(Net(), IA3Config(target_modules=["linear", "image"], feedforward_modules=[])))
    # Another kind of PEFT's own: a three-dimensional convolution.
    net = Net()
    net.image = nn.Conv3d(4, 4, 3)
    with pytest.raises(UnsupportedModel, match=r"IA³ is supported on linear layers and convolutions only\n.*Conv3d$"):
        method.check_layers(get_peft_model(net, IA3Config(target_modules=["image"], feedforward_modules=[])))


def test_sums_are_taken_on_linear_layers_alone():
    method = method_named("miss")
    model = get_peft_model(Net(), MissConfig(r=2, target_modules=["linear"]))
    method.check_layers(model)
    assert list(method.layers(model)) == ["base_model.model.linear"]


def test_an_input_with_a_rank_is_traced_with_another_and_adds_nothing():
    given = ranked_input("k", "n", (8, 5), 0, transposed=False)
    assert (given.example.shape, given.axes, given.default) == ((3, 5), ("rank", None), None)
    assert not given.example.any()
    turned = ranked_input("k", "n", (8, 5), 0, transposed=True)
    assert (turned.example.shape, turned.axes, turned.transposed) == ((5, 3), (None, "rank"), True)
    assert turned.example.is_contiguous()
    images = ranked_input("k", "n", (7, 8, 3, 3), 1, transposed=False)
    assert (images.example.shape, images.axes) == ((7, 3, 3, 3), (None, "rank", None, None))


def test_serving_inputs_are_by_the_facts_of_the_layout():
    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["linear"], modules_to_save=["sound"]))
    a, bias = (f"base_model.model.{name}" for name in ("linear.lora_A.weight", "sound.bias"))
    names = {a: a.replace(".weight", ".default.weight"), bias: "base_model.model.sound.modules_to_save.default.bias"}
    facts = layout(
        parameter(a, {"rank": 2, "in_features": 4}, transposed=True), parameter(bias, {"out": 4}, optional=True)
    )
    matrix, vector = method_named("lora").serving_inputs(Adapted(model, None, "lora", names, facts))
    assert (matrix.key, matrix.name, matrix.example.shape, matrix.axes) == (a, names[a], (4, 3), (None, "rank"))
    # What has no rank has a default: as it is at the start.
    held = dict(model.named_parameters())[names[bias]]
    assert vector.default is held
    assert torch.equal(vector.example, held)
    assert vector.axes == (None,)


def test_factors_are_one_where_nothing_is_fed():
    inputs = [ranked_input(key, key, (2,), 1, transposed=False) for key in ("a", "b")]
    first, second = ones_unfed(inputs, {"b"})
    assert first is inputs[0]
    assert torch.equal(second.default, torch.ones(2))
