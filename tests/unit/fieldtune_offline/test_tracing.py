"""What torch cannot trace ends in one line that says what to do."""

import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from builders import layout
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.tasks.interface import Traceable
from fieldtune_offline.tracing import trace_adapted, trace_gradient

INPUTS = (("x", ("batch", None)),)
STATIC = frozenset()


class Net(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.change = change

    def forward(self, x):
        return self.first(self.change(x))


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).sum(), torch.ones(())


@pytest.fixture
def traced():
    """The function from what happens to an input of four rows to what is traced, and the model."""

    def make(change=lambda x: x, inputs=INPUTS):
        model = get_peft_model(Net(change), LoraConfig(r=2, target_modules=["first"])).eval()
        source = Traceable(Loss(model), "model", {"x": torch.ones(4, 3)}, inputs, ("loss_sum", "weight"))
        return source, Adapted(model, None, "lora", {}, layout())

    return make


def test_a_gradient_for_each_parameter_that_requires_one(traced):
    joint = trace_gradient(*traced(), STATIC)
    kinds = [spec.kind.name for spec in joint.program.graph_signature.output_specs]
    assert kinds.count("GRADIENT_TO_PARAMETER") == 2
    assert [(given.name, given.axes) for given in joint.inputs] == [("x", ("batch", None))]


@pytest.mark.parametrize(("static", "axes"), [(STATIC, ("batch", None)), (frozenset({"batch"}), (None, None))])
def test_sizes_vary_unless_the_build_has_static_ones(traced, static, axes):
    forward = trace_adapted(*traced(), static)
    assert (forward.inputs[0].axes, forward.adapter) == (axes, [])
    x = next(node for node in forward.program.graph.nodes if node.op == "placeholder" and node.name.endswith("x"))
    assert isinstance(x.meta["val"].shape[0], torch.SymInt) == (static == STATIC)


def test_the_garbage_collector_waits_for_a_trace_and_no_longer(traced):
    during = []

    def change(x):
        during.append(gc.isenabled())
        return x

    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            trace_gradient(*traced(change), STATIC)
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
    assert set(during) == {False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 1 if x.sum() > 0 else x, "^torch cannot trace the model"),
        (lambda x: x.missing(), "^torch cannot trace the model: .* has no attribute 'missing'"),
        (lambda x: x.reshape(4, 3), "sizes that vary: .*; try static shapes"),
    ],
    ids=["a branch on values", "an error of its own", "a fixed size"],
)
def test_a_model_that_cannot_be_traced(traced, change, message):
    with pytest.raises(UnsupportedModel, match=message) as caught:
        trace_gradient(*traced(change), STATIC)
    assert "\n" not in str(caught.value)


def test_tensors_that_nobody_described_are_the_callers_mistake(traced):
    with pytest.raises(ValueError, match="1 tensors to trace with; 2 inputs were described"):
        trace_gradient(*traced(inputs=(*INPUTS, ("y", ()))), STATIC)
