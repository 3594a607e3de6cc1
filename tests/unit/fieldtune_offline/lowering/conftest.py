"""From a small function to its ONNX graph, run beside torch at several sizes."""

import re

import numpy as np
import pytest
import torch

# Traced at the first sizes, compared at all of them: torch takes a size that varies for one above 1, devices do not.
SIZES = ({"n": 4, "m": 3}, {"n": 7, "m": 5}, {"n": 1, "m": 1})


def parse(spec):
    """Read ``f[n,3]``: a kind (f, p, i, j, b: floats, positive ones, integers, indices, truths) and dimensions."""
    kind, dims = re.fullmatch(r"([fpijb])\[(.*)\]", spec).groups()
    return kind, [int(dim) if dim.isdigit() else dim for dim in dims.split(",") if dim]


def tensor(spec, sizes, generator):
    kind, dims = parse(spec)
    shape = [sizes[dim] if isinstance(dim, str) else dim for dim in dims]
    if kind == "b":
        return torch.rand(shape, generator=generator) < 0.5
    if kind == "j":
        return torch.randint(0, 2, shape, generator=generator)
    if kind == "i":
        return torch.randint(-7, 8, shape, generator=generator)
    values = torch.randn(shape, generator=generator)
    return values.abs() + 0.1 if kind == "p" else values


def export(module, specs, sizes=SIZES[0]):
    """Trace a module with every named dimension free to vary; return the program and what describes its inputs."""
    from fieldtune_offline.lowering import Input
    from fieldtune_offline.quiet import quiet_tracing

    generator = torch.Generator().manual_seed(0)
    arguments = tuple(tensor(spec, sizes, generator) for spec in specs)
    axes = [tuple(dim if isinstance(dim, str) else None for dim in parse(spec)[1]) for spec in specs]
    varying = tuple({axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(names) if name} for names in axes)
    with quiet_tracing():
        program = torch.export.export(module, arguments, dynamic_shapes=(varying,), strict=False)
    return program, [Input(f"x{index}", names) for index, names in enumerate(axes)]


def lower(program, inputs, more=None):
    """Return the ONNX model (protobuf) of a program."""
    import onnx_ir as ir

    from fieldtune_offline.graphs import _close
    from fieldtune_offline.lowering import GraphBuilder, lower_program
    from fieldtune_offline.weights import program_weights

    weights = program_weights(program, "")
    build = GraphBuilder()
    lowered = lower_program(program, inputs, build, given={}, names=weights.names, more=more or {})
    outputs = {f"y{index}": result for index, result in enumerate(lowered.outputs)}
    graph = _close("test", build, lowered.inputs, [], outputs, lowered, weights.tensors, {})
    for value in graph.unbound:
        value.const_value = ir.tensor(weights.tensors[value.name].detach().numpy(), name=value.name)
    return ir.to_proto(graph.model)


def function_module(function):
    """Return a module that takes tensors by position and returns a tuple, around a function or another module."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.of = function  # a module among functions, so that its weights are found

        def forward(self, *tensors):
            result = self.of(*tensors)
            return result if isinstance(result, tuple | list) else (result,)

    return Module()


def compare(model, module, arguments, tolerance, labels):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: argument.numpy() for value, argument in zip(session.get_inputs(), arguments, strict=True)}
    expected = module(*arguments)
    found = session.run(None, feeds)
    assert len(found) == len(expected)
    for ours, theirs, label in zip(found, expected, labels or range(len(found)), strict=True):
        array = theirs.detach().numpy()
        assert (label, ours.dtype, ours.shape) == (label, array.dtype, array.shape)
        allowed = tolerance if theirs.dtype.is_floating_point else 0
        np.testing.assert_allclose(ours, array, rtol=allowed, atol=allowed, err_msg=str(label))


def check_program(program, inputs, module, specs, sizes, tolerance, labels=None):
    import onnx

    model = lower(program, inputs)
    # The types and shapes that lowering wrote beside each value must be those that ONNX infers.
    onnx.checker.check_model(model, full_check=True)
    for seed, place in enumerate(sizes):
        generator = torch.Generator().manual_seed(seed)
        compare(model, module, tuple(tensor(spec, place, generator) for spec in specs), tolerance, labels)


@pytest.fixture
def check_cases():
    """The function that compares cases (operator, input specs, call) with torch, all of them in one graph.

    Traced as torch has it, the graph holds the operators themselves; with ``core``, what bundles are built from.
    """
    from fieldtune_offline.quiet import quiet_tracing

    def run(cases, *, core=False, tolerance=1e-6):
        specs = [spec for _, wanted, _ in cases for spec in wanted]
        labels = []

        def all_of_them(*tensors):
            rest = list(tensors)
            outputs = []
            labels.clear()
            for number, (op, wanted, call) in enumerate(cases):
                result = call(op, *(rest.pop(0) for _ in wanted))
                results = result if isinstance(result, tuple | list) else [result]
                labels.extend(f"case {number}: {op} {wanted}" for _ in results)
                outputs.extend(results)
            return tuple(outputs)

        module = function_module(all_of_them)
        program, inputs = export(module, specs)
        if core:
            with quiet_tracing():
                program = program.run_decompositions()
        check_program(program, inputs, module, specs, SIZES, tolerance, labels)

    return run


@pytest.fixture
def check():
    """The function that compares a module or function with torch, in core operators, at every size."""
    from fieldtune_offline.quiet import quiet_tracing

    def run(module, specs, *, sizes=SIZES, tolerance=1e-6):
        module = function_module(module)
        program, inputs = export(module, specs, sizes[0])
        with quiet_tracing():
            program = program.run_decompositions()
        check_program(program, inputs, module, specs, sizes, tolerance)

    return run


@pytest.fixture
def lowered():
    """The function that lowers a module or function, in core operators, and returns its ONNX model."""
    from fieldtune_offline.quiet import quiet_tracing

    def run(module, specs, more=None):
        module = function_module(module)
        program, inputs = export(module, specs)
        with quiet_tracing():
            return lower(program.run_decompositions(), inputs, more)

    return run
