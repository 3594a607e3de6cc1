import pytest

from builders import altered
from fieldtune.hardware import CpuSpec, load_profile
from fieldtune.preflight.placing import place_graph
from fieldtune.preflight.step_time import EFFICIENCY, UNPACKED_MACS, cpu_rate, estimate_time
from fieldtune.preflight.workload import Part, Workload


def part(table, batch, **changes):
    usual = {"graph": table.graph, "is_prefix": False, "on_accelerator": False, "sequence": 0, "rank": 8}
    return Part(**usual | {"batch": batch, "table": table} | changes)


def estimate(profile, parts, placements=(), *, batch=4):
    """Return the estimate of a training step; the bundle has no part in it."""
    sizes = {"batch": batch, "sequence": 0, "samples": 0}
    return estimate_time(
        Workload(bundle=None, profile=profile, use="training", parts=tuple(parts), **sizes), placements
    )


def product(made, rows, name="graph"):
    x = made.input("x", rows, 1000)
    weight = made.constant("w", 1000, 1000, bytes_=4_000_000)
    return made.table(made.add("MatMul", [x, weight], (rows, 1000), macs=(rows, 1000, 1000)), name=name)


def test_a_measured_rate_counts_first():
    rate, basis = cpu_rate(CpuSpec(gflops=10.0, cores=4, frequency_hz=10**9, features=("asimd",)))
    assert (rate, basis) == (5e9, "cpu.gflops of the profile")


@pytest.mark.parametrize(
    ("features", "a_cycle"),
    [(("asimd",), 4), (("avx2", "fma"), 16), (("avx2", "avx512f"), 32)],
)
def test_a_rate_is_worked_out_from_cores_clock_and_instructions(features, a_cycle):
    rate, basis = cpu_rate(CpuSpec(cores=2, frequency_hz=1_500_000_000, features=features))
    assert rate == 2 * 1.5e9 * a_cycle * EFFICIENCY
    assert basis == f"2 cores · 1.5 GHz · {a_cycle} a cycle · {EFFICIENCY:g}"


def test_what_the_profile_does_not_tell_is_unknown():
    rate, basis = cpu_rate(CpuSpec(cores=2, features=("asimd",)))
    assert rate is None
    assert basis == "unknown: the profile states no cpu.gflops, and no frequency_hz"


def test_seconds_are_macs_over_the_rate(graph):
    profile = load_profile("raspberry-pi-5")
    profile = altered(profile, cpu={"gflops": 2.0})
    found = estimate(profile, [part(product(graph(), "batch"), 4)])
    assert (found.macs, found.seconds) == (4_000_000, 0.004)
    assert (found.prefix_macs, found.prefix_s) == (0, 0.0)


def prefix_on(profile, graph):
    """A convolution, which a DPU runs, and a product of two activations, which it leaves; batches of 4."""
    made = graph()
    x = made.quantize(made.conv(made.quantize(made.input("x", 4, 16, 8, 8)), "conv"))
    product = made.add("MatMul", [x, x], (4, 16, 8, 8), macs=(4, 16, 8, 8, 8))
    prefix = part(made.table(made.quantize(product), name="prefix"), 4, is_prefix=True, on_accelerator=True)
    return prefix, place_graph(prefix, profile)


CONVOLUTION, PRODUCT = 4 * 16 * 64 * 16 * 9, 4 * 16 * 64 * 8


def test_the_prefix_of_an_accelerator_counts_at_its_peak_rate_and_what_it_leaves_at_the_cpus(graph):
    """5 examples need two runs of a graph whose batch is fixed to 4."""
    profile = load_profile("kv260")
    prefix, placement = prefix_on(profile, graph)
    suffix = part(product(graph(), "batch", "suffix"), 5)
    found = estimate(profile, [prefix, suffix], [placement], batch=5)
    assert (found.macs, found.prefix_macs) == (5_000_000, 2 * (CONVOLUTION + PRODUCT))
    cpu_s = PRODUCT / (4 * 1.333e9 * 4 * EFFICIENCY)
    assert found.prefix_s == pytest.approx(2 * (2 * CONVOLUTION / 1.2288e12 + cpu_s))


def test_what_an_accelerator_leaves_takes_unknown_time_on_a_cpu_of_unknown_rate(graph):
    profile = load_profile("kv260")
    profile = altered(profile, cpu={"frequency_hz": None})
    prefix, placement = prefix_on(profile, graph)
    assert estimate(profile, [prefix], [placement]).prefix_s is None


def test_a_graph_that_cannot_be_planned_takes_unknown_time(graph):
    made, profile = graph(), load_profile("kv260")
    x = made.quantize(made.input("x", "batch", 16, 8, 8))
    prefix = part(made.table(made.quantize(made.conv(x, "conv"))), 1, is_prefix=True, on_accelerator=True)
    placement = place_graph(prefix, profile)
    assert estimate(profile, [prefix], [placement]).prefix_s is None


def test_a_prefix_on_the_cpu_counts_at_its_rate(graph):
    profile = load_profile("raspberry-pi-5")
    prefix = part(product(graph(), "batch", "prefix"), 4, is_prefix=True)
    found = estimate(profile, [prefix])
    assert found.prefix_s == 4e6 / (4 * 2.4e9 * 4 * EFFICIENCY)
    assert (found.macs, found.seconds) == (0, 0.0)


def test_products_of_integers_take_less_and_unpacked_weights_take_more(graph):
    made = graph()
    given, codes = made.input("x", "batch", 1000, dtype="uint8"), made.constant("codes", 1000, 1000, dtype="int8")
    integers = made.add("MatMulIntegerToFloat", [given, codes], ("batch", 1000), macs=("batch", 1000, 1000))
    weights = made.add("DequantizeLinear", [made.input("packed", 100, 10, dtype="uint8")], (100, 10))
    profile = altered(load_profile("raspberry-pi-5"), cpu={"gflops": 2.0, "features": ("avx512_vnni",)})
    made_of = part(made.table(integers, weights), 4)
    found = estimate(profile, [made_of])
    assert (found.macs, found.integer_macs, found.unpacked_weights) == (4_000_000, 4_000_000, 1000)
    assert found.seconds == pytest.approx((4_000_000 / 3.4 + UNPACKED_MACS * 1000) / 1e9)
    assert found.basis == "cpu.gflops of the profile · 3.4 of integers"
    # Nobody measured them there: they count as those of float32.
    plain = estimate(altered(profile, cpu={"features": ("asimd", "asimddp")}), [made_of])
    assert plain.seconds == pytest.approx((4_000_000 + UNPACKED_MACS * 1000) / 1e9)
