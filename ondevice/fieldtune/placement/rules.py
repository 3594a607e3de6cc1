"""check_rules: what an accelerator's compiler would refuse of a graph, from its node table alone.

One rule has one name, one function that finds where it is broken, and one source. ``graph_rules``,
``quantization_rules`` and ``limit_rules`` hold the functions. Weights that changed after compilation are found by the
store of compiled models, which knows both digests.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from fieldtune.bundle import NodeTable
from fieldtune.errors import PlacementRefused, listed
from fieldtune.hardware import Accelerator, HardwareProfile
from fieldtune.placement import graph_rules, limit_rules, quantization_rules
from fieldtune.placement.flow import trace
from fieldtune.placement.plan import assign_sides
from fieldtune.placement.violations import Finding, Rule, Subject, Violation

_MEASURED = "measured by others on a Ryzen AI NPU: README of onnxsim 0.8.1"
_TARGET = "the target's description in Vitis AI's target factory (the profile names the file)"
_GUIDE = "AMD, UG1414 3.5, Currently Supported Operators"
_REFINE = "`refine.py` of AMD Quark 0.13"
_XINT8 = "AMD Quark's preset XINT8"
_OURS = "the split: what is compiled must not depend on what is trained"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One rule.

    Attributes:
        what: must hold, in words.
        source: who says so.
        mend: what to do where it does not.
        find: yields where it does not.
    """

    what: str
    source: str
    mend: str
    find: Callable[[Subject], Iterator[Finding]]


CHECKS: Mapping[Rule, Check] = {
    "dynamic-shape": Check(
        what="Every tensor has a static shape.",
        source="AMD, Ryzen AI and Vitis AI documentation: a dynamic shape sends the whole model to the CPU",
        mend="build for this target with a static batch",
        find=graph_rules.dynamic_shape,
    ),
    "batch": Check(
        what="The first dimension of every input is the profile's `accelerator.batch`.",
        source="the target's description; NPUs drop all but the first sample (sources of the profile)",
        mend="build the bundle for this profile",
        find=graph_rules.batch,
    ),
    "opset-range": Check(
        what="The opset lies in the profile's `accelerator.opset_min` … `opset_max`.",
        source="AMD's documentation of each stack (sources of the profile)",
        mend="build for this target again",
        find=graph_rules.opset_range,
    ),
    "training-graph": Check(
        what="No graph that takes theta or puts out a gradient is compiled.",
        source=_OURS,
        mend="compile the prefix; what is trained runs on the CPU",
        find=graph_rules.training_graph,
    ),
    "memory": Check(
        what="Weights and the activations that are alive together fit into `accelerator.memory_bytes`, or else into "
        "the main memory that the profile states.",
        source="the profile",
        mend="cut the prefix shorter (--split N) or take a smaller model",
        find=graph_rules.memory,
    ),
    "implicit-conv-attributes": Check(
        what="Every Conv has `strides`, `pads`, `dilations`, `kernel_shape` and `group` written out.",
        source=f"it aborts the compiler's process ({_MEASURED})",
        mend="build for this target, which writes them out",
        find=graph_rules.implicit_conv_attributes,
    ),
    "data-dependent-if": Check(
        what="No If has a condition that is computed from the inputs.",
        source=f"it aborts the compiler's process ({_MEASURED})",
        mend="split the model before it",
        find=graph_rules.data_dependent_if,
    ),
    "lstm": Check(
        what="There is no LSTM.",
        source=f"the compiler's process crashes ({_MEASURED})",
        mend="split the model before it",
        find=graph_rules.lstm,
    ),
    "bfloat16": Check(
        what="No tensor is bfloat16.",
        source=f"the graph is rejected as invalid ({_MEASURED})",
        mend="export the model in float32",
        find=graph_rules.bfloat16,
    ),
    "scale-power-of-two": Check(
        what="Every scale is a power of two.",
        source=_XINT8,
        mend="quantize for this target",
        find=quantization_rules.scale_power_of_two,
    ),
    "zero-point": Check(
        what="Activations have the profile's `accelerator.zero_point`; weights and biases have 0.",
        source=f"{_XINT8}; sources of the profile",
        mend="quantize symmetrically, for this target",
        find=quantization_rules.zero_point,
    ),
    "quantized-type": Check(
        what="Activations have the profile's `accelerator.activation_type`, weights are int8, biases int8 or int32, "
        "each tensor with one constant scale.",
        source=f"{_XINT8}; sources of the profile",
        mend="quantize for this target, not per channel",
        find=quantization_rules.quantized_type,
    ),
    "unquantized": Check(
        what="Convolutions, products and pools on the accelerator read and write quantized tensors.",
        source="AMD, Xilinx/Vitis-AI#320: operators that are not quantized are not for the DPU",
        mend="quantize the inputs, weights and outputs of the operator",
        find=quantization_rules.unquantized,
    ),
    "shift-cut": Check(
        what="pos(weight) + pos(input) - pos(output) of a Conv or Gemm lies in the limits, behind its activation.",
        source=_REFINE,
        mend="quantize for this target, which moves the weight's position",
        find=quantization_rules.shift_cut,
    ),
    "add-shift-read": Check(
        what="The positions of an Add's operands lie no further apart than the limit.",
        source=_REFINE,
        mend="quantize for this target, which moves the larger position",
        find=quantization_rules.add_shift_read,
    ),
    "equal-positions": Check(
        what="Inputs and output of a Concat, pool, Pad or Slice have one position.",
        source=_REFINE,
        mend="quantize for this target, which makes them equal",
        find=quantization_rules.equal_positions,
    ),
    "kernel": Check(
        what="Height and width of a convolution's kernel lie in the limits, and so does their product.",
        source=f"{_TARGET}; {_GUIDE}",
        mend="keep it out of the prefix (--split) or take a smaller kernel",
        find=limit_rules.kernel,
    ),
    "stride": Check(
        what="Both strides of a convolution lie in the limits.",
        source=_TARGET,
        mend="keep it out of the prefix (--split) or take a smaller stride",
        find=limit_rules.stride,
    ),
    "padding": Check(
        what="No padding of a convolution is larger than (kernel - 1) · dilation in its direction.",
        source=_GUIDE,
        mend="pad with an operator of its own in front",
        find=limit_rules.padding,
    ),
    "input-channels": Check(
        what="A convolution or product sums over at most `channel_groups_max` · `input_channel_parallel` channels, "
        "divided by its dilation.",
        source=_GUIDE,
        mend="keep it out of the prefix (--split) or split its channels",
        find=limit_rules.input_channels,
    ),
    "output-channels": Check(
        what="A convolution or product makes at most `channel_groups_max` · `input_channel_parallel` channels.",
        source=_GUIDE,
        mend="keep it out of the prefix (--split) or split its channels",
        find=limit_rules.output_channels,
    ),
    "weight-bank": Check(
        what="kh · kw · ⌈input channels / `bank_width`⌉ · ⌈`output_channel_parallel` / `bank_num`⌉ ≤ `bank_depth`.",
        source=f"{_TARGET}; {_GUIDE}",
        mend="keep it out of the prefix (--split), or take a smaller kernel or fewer channels",
        find=limit_rules.weight_bank,
    ),
    "activation": Check(
        what="An activation on the accelerator is one of the target's, a leaky ReLU has its slope.",
        source=_TARGET,
        mend="take another activation or keep it out of the prefix (--split)",
        find=limit_rules.activation,
    ),
}
"""Every rule by its name, in the order in which they are checked."""


def check_rules(table: NodeTable, profile: HardwareProfile, *, training: bool = False) -> tuple[Violation, ...]:
    """Return every place where the profile's accelerator would refuse a graph; none for a profile without one.

    Args:
        table: of the graph that is to be compiled.
        profile: of the device; rules on the sizes of operators apply where it has limits.
        training: whether it is known to be a training graph, whatever it is called.
    """
    if profile.accelerator is None:
        return ()
    subject = _subject(table, profile, profile.accelerator, training=training)
    return tuple(
        Violation(rule=rule, **finding._asdict(), message=_message(rule, finding, check))
        for rule, check in CHECKS.items()
        for finding in check.find(subject)
    )


def accelerator_bytes(table: NodeTable, profile: HardwareProfile) -> int:
    """Return what the rule on memory counts of a graph: weights, and the most activations that are alive at once.

    Args:
        table: of the graph that is to be compiled.
        profile: of the device.

    Returns:
        Bytes; 0 for a profile without an accelerator, and where shapes are not static.
    """
    if profile.accelerator is None:
        return 0
    need = graph_rules.memory_need(_subject(table, profile, profile.accelerator, training=False))
    return 0 if need is None else need.weight_bytes + need.activation_bytes


def _subject(table: NodeTable, profile: HardwareProfile, accelerator: Accelerator, *, training: bool) -> Subject:
    flow = trace(table)
    return Subject(
        flow=flow,
        profile=profile,
        accelerator=accelerator,
        placed=frozenset().union(*assign_sides(flow, accelerator).partitions),
        training=training,
    )


def refuse(violations: Sequence[Violation], graph: str, target: str) -> None:
    """Raise if there is any violation.

    Args:
        violations: of one graph.
        graph: its name.
        target: the compiler's name of the accelerator.

    Raises:
        PlacementRefused: with every violation, by the names of the rules.
    """
    if violations:
        rules = ", ".join(dict.fromkeys(violation.rule for violation in violations))
        faults = listed([violation.message for violation in violations])
        raise PlacementRefused(f"{graph}: {target} would refuse it by {rules}:{faults}")


def _message(rule: Rule, finding: Finding, check: Check) -> str:
    return f"{rule}: {finding.node}: found {finding.found}, allowed {finding.limit}; {check.mend}"
