import pytest

from fieldtune.preflight.sessions.runtime_graph import run_steps
from fieldtune.preflight.sessions.weights import weight_memory


def weights(made, *outputs, fed=("lora_A",), prepacking=True, optimization="all", architecture="x86_64"):
    table = made.table(*outputs)
    steps = run_steps(table, optimization)
    settings = {"prepacking": prepacking, "optimization": optimization, "architecture": architecture}
    found = weight_memory(table, steps, fed=fed, **settings)
    return found.mapped_bytes, found.packed_bytes, found.copied_bytes


def forward_and_backward(made):
    """One weight, read by the product of the forward pass and by that of the backward pass."""
    weight = made.constant("w", 32, 16, bytes_=2048)
    y = made.add("Gemm", [made.input("x", 4, 16), weight], (4, 32), transB=1)
    return made.add("Gemm", [y, weight], (4, 16))


def test_a_weight_is_packed_once_for_each_product_and_then_no_longer_mapped(graph):
    made = graph()
    assert weights(made, forward_and_backward(made)) == (0, 4096, 0)
    made = graph()
    assert weights(made, forward_and_backward(made), prepacking=False) == (2048, 0, 0)


def test_an_embedding_that_is_the_head_as_well_stays_mapped(graph):
    made = graph()
    table = made.constant("embedding", 64, 16, bytes_=4096)
    rows = made.add("Gather", [table, made.input("ids", 4, dtype="int64")], (4, 16))
    assert weights(made, made.add("Gemm", [rows, table], (4, 64), transB=1)) == (4096, 4096, 0)


def test_columns_are_packed_in_panels_of_16(graph):
    made = graph()
    weight = made.constant("w", 2, 16, bytes_=128)
    assert weights(made, made.add("Gemm", [made.input("x", 4, 16), weight], (4, 2), transB=1)) == (0, 1024, 0)


def test_biases_adapters_and_products_of_activations_are_not_packed(graph):
    made = graph()
    made.inputs.append(made.constant("lora_A", 16, 16, bytes_=1024))
    bias = made.constant("b", 16, bytes_=64)
    y = made.add("Gemm", [made.input("x", 4, 16), "lora_A", bias], (4, 16))
    out = made.add("MatMul", [y, made.input("z", 16, 4)], (4, 4))
    assert weights(made, out) == (64, 0, 0)


@pytest.mark.parametrize(
    ("architecture", "optimization", "expected"),
    [
        ("x86_64", "all", (0, 0, 2 * 1728)),
        ("any", "all", (0, 0, 2 * 1728)),
        ("aarch64", "all", (1728, 0, 0)),
        ("x86_64", "extended", (1728, 0, 0)),
    ],
)
def test_convolutions_are_copied_into_blocked_order(graph, architecture, optimization, expected):
    made = graph()
    weight = made.constant("w", 16, 3, 3, 3, bytes_=1728)
    out = made.add("Conv", [made.input("x", 1, 3, 8, 8), weight], (1, 16, 8, 8))
    assert weights(made, out, architecture=architecture, optimization=optimization) == expected


def test_a_transposed_convolution_packs(graph):
    made = graph()
    weight = made.constant("w", 16, 3, 3, 3, bytes_=1728)
    out = made.add("ConvTranspose", [made.input("x", 1, 16, 8, 8), weight], (1, 3, 10, 10))
    assert weights(made, out) == (0, 1728, 0)
    assert weights(made, out, prepacking=False) == (1728, 0, 0)


def test_what_nothing_reads_any_more_takes_nothing(graph):
    made = graph()
    made.constant("unused", 16, bytes_=64)
    assert weights(made, made.add("Neg", [made.input("x", 4)], (4,))) == (0, 0, 0)


def integer_product(made, codes):
    """The product of activations in bytes with transposed codes."""
    turned = made.add("Transpose", [codes], (16, 32), dtype="int8", perm=[1, 0])
    given = made.input("x", 4, 16, dtype="uint8")
    return made.add("MatMulIntegerToFloat", [given, turned], (4, 32), macs=(4, 32, 16))


def test_parts_that_could_be_fed_and_are_not_stay_mapped_under_each_of_their_names(graph):
    made = graph()
    for name in ("codes", "codes@backward"):
        made.inputs.append(made.constant(name, 32, 16, dtype="int8", bytes_=512))
    back = made.add("MatMulIntegerToFloat", [made.input("g", 4, 32, dtype="uint8"), "codes@backward"], (4, 16))
    assert weights(made, integer_product(made, "codes"), back) == (1024, 0, 0)
    made = graph()
    made.inputs.append(made.constant("codes", 32, 16, dtype="int8", bytes_=512))
    assert weights(made, integer_product(made, "codes"), fed=("codes",)) == (0, 0, 0)


def test_constant_codes_are_transposed_once_and_no_longer_mapped(graph):
    made = graph()
    codes = made.constant("codes", 32, 16, dtype="int8", bytes_=512)
    assert weights(made, integer_product(made, codes)) == (0, 0, 512)


def test_a_product_that_unpacks_its_codes_packs_them_in_as_many_bytes(graph):
    made = graph()
    codes = made.constant("codes", 32, 1, 32, dtype="uint8", bytes_=1024)
    scales = made.constant("scales", 32, bytes_=128)
    out = made.add("MatMulNBits", [made.input("x", 4, 64), codes, scales], (4, 32), K=64, N=32)
    assert weights(made, out) == (128, 1024, 0)
    assert weights(made, out, prepacking=False) == (1152, 0, 0)
