"""Products with packed matrices as tests run them: traced, lowered and opened in stock ONNX Runtime.

Alone, and in a small adapted network.
"""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from builders import layout, parameter
from fieldtune.adapters.adapter import PREFIX
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.graph import packed_weights
from fieldtune_offline.graphs import _close, _lowerings, adapted_graph, gradient_graph
from fieldtune_offline.lowering import GraphBuilder, Input, lower_program
from fieldtune_offline.precisions.operators import packed_input_gradient, packed_product
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.quiet import quiet_tracing
from fieldtune_offline.tasks.interface import GRADIENT, Task, Traceable
from fieldtune_offline.tracing import trace_adapted, trace_gradient
from fieldtune_offline.weights import program_weights, stored_name

EXACT = (
    "int4/32/asymmetric",
    "int4/64/asymmetric",
    "int4/128/asymmetric",
    "int4/64/symmetric",
    "nf4/64/double",
    "nf4/64/single",
)
"""Recipes whose products are with the unpacked matrix."""
RECIPES = ("int8", *EXACT)


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


class Products(nn.Module):
    """The product with a packed matrix, and the gradient of its input; the parts are buffers of their own names."""

    def __init__(self, recipe, matrix):
        super().__init__()
        self.recipe, (self.rows, self.columns) = recipe, matrix.shape
        self.names = precision_of(recipe).part_names
        for name, part in zip(self.names, precision_of(recipe).pack(matrix), strict=True):
            self.register_buffer(name, part)

    @property
    def parts(self):
        return [getattr(self, name) for name in self.names]

    def forward(self, x, gradient):
        return (
            packed_product(x, self.parts, self.recipe, self.rows),
            packed_input_gradient(gradient, self.parts, self.recipe, self.columns),
        )


class Served(Products):
    """The product alone, as graphs that serve have it."""

    def forward(self, x):
        return (packed_product(x, self.parts, self.recipe, self.rows),)


def served_graph(module):
    """Lower ``Served`` for inputs of the axes n and one more."""
    return traced_graph(module, torch.ones(3, module.columns), axes=(("n",),), serving=True)


def traced_graph(module, *arguments, axes, **settings):
    """Lower a module that returns a tuple: inputs x0, x1, … whose ``axes`` vary by name, outputs y0, y1, …"""
    varying = tuple(dict.fromkeys(range(len(names)), torch.export.Dim.DYNAMIC) for names in axes)
    inputs = [
        Input(f"x{index}", (*names, *[None] * (argument.ndim - len(names))))
        for index, (names, argument) in enumerate(zip(axes, arguments, strict=True))
    ]
    with quiet_tracing():
        program = torch.export.export(module, arguments, dynamic_shapes=varying, strict=False).run_decompositions()
    weights, build = program_weights(program, ""), GraphBuilder()
    more = _lowerings(**settings)
    lowered = lower_program(program, inputs, build, given={}, names=weights.names, more=more)
    outputs = {f"y{index}": result for index, result in enumerate(lowered.outputs)}
    return _close("test", build, lowered.inputs, [], outputs, lowered, weights.tensors, {})


def products_graph(module, axes=("n",), *, unpacked=False):
    """Lower ``Products`` for inputs of these axes and one more."""
    shape = [3 + place for place in range(len(axes))]
    given = (torch.ones(*shape, module.columns), torch.ones(*shape, module.rows))
    return traced_graph(module, *given, axes=(axes, axes), unpacked=unpacked)


def opened(graph, **settings):
    """Open a graph as a bundle's are written: parts of packed matrices are inputs with defaults."""
    for value in graph.unbound:
        value.const_value = ir.tensor(graph.weights[stored_name(value.name)].detach().numpy(), name=value.name)
    graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
    proto = ir.to_proto(graph.model)
    # The types and shapes that lowering wrote beside each value must be those that ONNX infers.
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, *arguments):
    """Feed x0, x1, …; return all outputs as tensors."""
    feeds = {f"x{index}": argument.numpy() for index, argument in enumerate(arguments)}
    return [torch.from_numpy(np.array(value)) for value in session.run(None, feeds)]


def furthest(found, expected):
    """Return the largest difference, relative to the largest element that is expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# A small adapted network, and its task.


class Net(nn.Module):
    """Three linear layers, the first of which is adapted."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(48, 32)
        self.middle = nn.Linear(32, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class Loss(nn.Module):
    """The sum of squares of what counts, and how many count."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, counts):
        return (self.model(x).square().sum(-1) * counts).sum(), counts.sum()


class Answer(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return (self.model(x),)


class Squares(Task):
    """The sum of squares of what counts; serving gives the answer itself."""

    name, peft_type = "squares", None

    def graphs(self, batch, sequence):
        both = (("x", ("batch", None)), ("counts", ("batch",)))
        given = self.batch(batch, sequence, 0)
        served = {"x": given["x"]}
        return {
            GRADIENT: Traceable(Loss(self._model), "model", given, both, ("loss_sum", "weight")),
            "infer": Traceable(Answer(self._model), "model", served, both[:1], ("y",)),
        }

    def batch(self, batch, sequence, seed):
        counts = torch.ones(batch)
        counts[0] = 0
        return {"x": normal(batch, 48, seed=seed), "counts": counts}

    def inference_batches(self, batch, sequence, seed):
        return [{"x": normal(batch, 48, seed=seed + 100)}]

    def inference_reference(self, feeds):
        return {"y": self._model(feeds["x"])}

    def reference_loss(self, batch):
        return Loss(self._model)(**batch)

    @classmethod
    def noise_labels(cls, rng, manifest, input_ids, *, masked):
        return {}


def adapted_net(kind=Net):
    """A network with LoRA of rank 2 on its layer ``first``, its B not zero; the same each time."""
    torch.manual_seed(0)
    model = get_peft_model(kind(), LoraConfig(r=2, lora_alpha=4, target_modules=["first"])).eval()
    layer = model.get_submodule(f"{PREFIX}first")
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    shapes = {"A": {"rank": 2, "in_features": layer.in_features}, "B": {"out_features": layer.out_features, "rank": 2}}
    parameters = layout(
        *(
            parameter(f"{PREFIX}first.lora_{part}.weight", axes, module="first", transposed=True, scaled=part == "B")
            for part, axes in shapes.items()
        )
    )
    names = {p.key: p.key.replace(".weight", ".default.weight") for p in parameters.parameters}
    return Adapted(model, model.peft_config["default"], "lora", names, parameters)


def net_graphs(adapted, *, unpacked=False):
    """Return the graphs gradient and infer of an adapted ``Net``, packed or not."""
    traced = Squares(adapted.model).graphs(3, 0)
    return [
        gradient_graph(trace_gradient(traced[GRADIENT], adapted, frozenset()), adapted, unpacked=unpacked),
        adapted_graph("infer", trace_adapted(traced["infer"], adapted, frozenset()), unpacked=unpacked),
    ]
