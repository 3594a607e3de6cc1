"""The layers that a method takes, as PEFT makes them of modules of torch."""

import pytest
from peft import IA3Config, LoraConfig, MissConfig, get_peft_model
from torch import nn

from fieldtune.errors import UnsupportedModel
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
