"""Whether the parts of a hardware profile fit each other: what no single key can tell."""

from fieldtune.hardware.specs import CPU_PROVIDER, HardwareProfile
from fieldtune.hardware.stacks import STACKS, VITIS_AI_PROVIDER, option_faults

_ZERO_POINTS = {"int8": (-128, 127), "uint8": (0, 255)}


def profile_faults(profile: HardwareProfile) -> list[str]:
    """Check provider, options, software stack, accelerator and limits against each other; return what is wrong."""
    return [*_execution_faults(profile), *_simulation_faults(profile), *_accelerator_faults(profile)]


def _execution_faults(profile: HardwareProfile) -> list[str]:
    execution, accelerator = profile.execution, profile.accelerator
    if accelerator is None and execution.provider == CPU_PROVIDER and execution.min_offload:
        share = f"execution: 'min_offload' is {execution.min_offload:g}"
        return [
            f"{share}; {CPU_PROVIDER} without an accelerator offloads nothing: leave it out, or name another provider"
        ]
    if not execution.stack:
        if execution.provider != VITIS_AI_PROVIDER or profile.format_version == "1.0":
            return []
        return [f"execution: the key 'stack' is missing; {VITIS_AI_PROVIDER} needs one of {', '.join(STACKS)}"]
    if execution.provider != VITIS_AI_PROVIDER:
        return [
            f"execution: 'stack' is {execution.stack!r}, of {VITIS_AI_PROVIDER}; 'provider' is {execution.provider!r}"
        ]
    if accelerator is None:
        return [f"the table 'accelerator' is missing; the stack {execution.stack} compiles for one"]
    stack = STACKS[execution.stack]
    faults = [f"execution: options: {fault}" for fault in option_faults(execution.options, stack, accelerator)]
    if accelerator.family not in stack.families:
        faults.append(
            f"accelerator: 'family' is {accelerator.family!r}; {stack.name} drives: {', '.join(stack.families)}"
        )
    return faults


def _simulation_faults(profile: HardwareProfile) -> list[str]:
    execution, accelerator = profile.execution, profile.accelerator
    if execution.compile_s and not execution.simulate_latency:
        return [f"execution: 'compile_s' is {execution.compile_s:g}; only 'simulate_latency = true' makes use of it"]
    if execution.simulate_latency and (accelerator is None or accelerator.peak_tops is None):
        return ["execution: 'simulate_latency' is true; it needs accelerator.peak_tops, by which a run is estimated"]
    return []


def _accelerator_faults(profile: HardwareProfile) -> list[str]:
    accelerator = profile.accelerator
    if accelerator is None:
        return []
    faults = []
    kind = accelerator.activation_type
    least, most = _ZERO_POINTS[kind]
    if not least <= accelerator.zero_point <= most:
        faults.append(f"accelerator: 'zero_point' is {accelerator.zero_point}; {kind} holds {least} to {most}")
    if accelerator.opset_min and accelerator.opset_max and accelerator.opset_min > accelerator.opset_max:
        faults.append(
            f"accelerator: 'opset_min' is {accelerator.opset_min}; expected at most opset_max, {accelerator.opset_max}"
        )
    limits = accelerator.limits
    if limits is None:
        return faults
    if accelerator.family != "dpu":
        faults.append(f"accelerator: 'limits' are those of a dpu; 'family' is {accelerator.family!r}")
    ranges = (
        ("kernel", limits.kernel_min, limits.kernel_max),
        ("stride", limits.stride_min, limits.stride_max),
        ("shift_cut", limits.shift_cut_min, limits.shift_cut_max),
    )
    return faults + [
        f"accelerator: limits: '{name}_min' is {least}; expected at most {name}_max, {most}"
        for name, least, most in ranges
        if least > most
    ]
