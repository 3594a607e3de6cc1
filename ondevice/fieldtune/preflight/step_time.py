"""How long a step may take: multiply-accumulates over a rate. A guess of its order, never a measurement.

What the CPU computes in a second is ``cpu.gflops`` where the profile states it. Elsewhere it is worked out as

    cores · clock · multiply-accumulates a cycle · EFFICIENCY

with the fused multiply-adds in float32 that a core of the instruction set starts in one cycle: 4 with asimd (one vector
of 128 bits: Cortex-A53, A55, A72; A76 and later start two, which their features do not tell), 16 with avx2 and fma, 32
with avx512f (two vectors each, as Intel's and AMD's optimization manuals have them). Operators other than products and
convolutions are not counted, and the accelerator's part is a bound at its peak rate; what the accelerator leaves of its
graph is the CPU's.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from fieldtune.hardware import Accelerator, CpuSpec, integer_kernels
from fieldtune.placement import OPERATIONS_OF_A_MAC, ProviderShare, estimate_run_s
from fieldtune.preflight.placing import GraphPlacement
from fieldtune.preflight.workload import Use, Workload

EFFICIENCY = 0.5
"""Of the peak rate. The steps of docs/benchmarks.md took 0.6 to 0.7 of it, on two cores with AVX-512 that show 2.6 GHz;
no board was measured, so it is lower."""
UNPACKED_MACS = 100
"""What unpacking one weight takes: steps of MiniLM with 4 bits took 2.2 to 2.8 ns longer for each weight that they
unpack, at 34 multiply-accumulates a nanosecond (8 texts of 64 tokens, one thread, AVX-512)."""
_MACS_A_CYCLE: Mapping[str, int] = {"avx512f": 32, "avx2": 16, "asimd": 4, "neon": 4}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TimeEstimate:
    """An estimate of one run through the graphs of a use; it is one, whatever it looks like.

    Attributes:
        use: what for.
        batch: samples of the run.
        macs: multiply-accumulates on the CPU, the prefix's not among them.
        integer_macs: those of them that are of integers.
        unpacked_weights: weights of packed matrices that are unpacked, each time that they are.
        seconds: that all of it takes; None where the profile does not tell how fast the CPU is.
        prefix_macs: those of the prefix, which later epochs find in the activation cache; 0 without a split.
        prefix_s: seconds that they take: at the accelerator's peak rate for what its plan gives it, at the CPU's for
            the rest; None where that is unknown.
        basis: where the CPU's rate is from, in words.
    """

    use: Use
    batch: int
    macs: int
    integer_macs: int
    unpacked_weights: int
    seconds: float | None
    prefix_macs: int
    prefix_s: float | None
    basis: str


def estimate_time(work: Workload, placements: Sequence[GraphPlacement]) -> TimeEstimate:
    """Return an estimate of one microbatch: forward and backward when training, else forward.

    Args:
        work: what is done; "training with evaluation" has no step of its own.
        placements: where graphs would run, those on the accelerator among them.
    """
    accelerator = work.profile.accelerator
    rate, basis = cpu_rate(work.profile.cpu)
    kernels = integer_kernels(work.profile.cpu)
    macs = integer_macs = unpacked = prefix_macs = 0
    prefix_s: float | None = 0.0
    for part in work.parts:
        runs = -(-work.batch // part.batch)  # a prefix's batch is fixed, and the last one is filled up
        part_macs = runs * part.macs
        if not part.is_prefix:
            macs += part_macs
            integer_macs += runs * part.integer_macs
            unpacked += runs * part.unpacked_weights(prepacking=work.profile.runtime.prepacking)
            continue
        prefix_macs += part_macs
        if part.on_accelerator and accelerator is not None:
            shares = next(placement.shares for placement in placements if placement.graph == part.graph)
            prefix_s = _split_s(runs, shares, accelerator, rate)
        else:
            prefix_s = None if rate is None else part_macs / rate
    equal_macs = macs - integer_macs + integer_macs / (kernels.rate or 1) + UNPACKED_MACS * unpacked
    if integer_macs and kernels.rate:
        basis += f" · {kernels.rate:g} of integers"
    return TimeEstimate(
        use=work.use,
        batch=work.batch,
        macs=macs,
        integer_macs=integer_macs,
        unpacked_weights=unpacked,
        seconds=None if rate is None else equal_macs / rate,
        prefix_macs=prefix_macs,
        prefix_s=prefix_s,
        basis=basis,
    )


def _split_s(
    runs: int, shares: Sequence[ProviderShare], accelerator: Accelerator, cpu_macs_a_second: float | None
) -> float | None:
    """Return how long runs of a graph take that is partly the accelerator's; None where a rate or a plan is missing."""
    on_cpu = sum(share.macs for share in shares if share.on_cpu)
    accelerator_s = estimate_run_s(sum(share.macs for share in shares) - on_cpu, accelerator)
    if not shares or accelerator_s is None or (on_cpu and cpu_macs_a_second is None):
        return None
    cpu_s = on_cpu / cpu_macs_a_second if cpu_macs_a_second else 0.0
    return runs * (accelerator_s + cpu_s)


def cpu_rate(cpu: CpuSpec) -> tuple[float | None, str]:
    """Return float32 multiply-accumulates a second, None where the profile does not tell, and what that is based on."""
    if cpu.gflops is not None:
        return cpu.gflops * 1e9 / OPERATIONS_OF_A_MAC, "cpu.gflops of the profile"
    a_cycle = next((macs for feature, macs in _MACS_A_CYCLE.items() if feature in cpu.features), None)
    if cpu.cores is None or cpu.frequency_hz is None or a_cycle is None:
        missing = [
            name
            for name, value in (("cores", cpu.cores), ("frequency_hz", cpu.frequency_hz), ("features", a_cycle))
            if value is None
        ]
        return None, f"unknown: the profile states no cpu.gflops, and no {', '.join(missing)}"
    rate = cpu.cores * cpu.frequency_hz * a_cycle * EFFICIENCY
    return rate, f"{cpu.cores} cores · {cpu.frequency_hz / 1e9:g} GHz · {a_cycle} a cycle · {EFFICIENCY:g}"
