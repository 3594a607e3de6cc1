"""Convolutions, pooling and batch normalization of images, forward and backward, against torch."""

import pytest
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import convolution

aten = torch.ops.aten
CONV, BACK = aten.convolution.default, aten.convolution_backward.default
POOL, POOL_BACK = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
NORM, MEAN_POOL = aten._native_batch_norm_legit_no_training.default, aten.avg_pool2d.default

# x, weight, stride, padding, dilation, groups
FORMS = (
    ("f[n,3,7,9]", "f[4,3,1,1]", [1, 1], [0, 0], [1, 1], 1),
    ("f[n,3,7,9]", "f[4,3,3,3]", [1, 1], [1, 1], [1, 1], 1),
    ("f[n,3,8,9]", "f[4,3,3,2]", [2, 2], [1, 0], [1, 1], 1),
    ("f[n,3,9,9]", "f[4,3,3,3]", [3, 2], [2, 1], [1, 2], 1),
    ("f[n,4,7,7]", "f[4,1,5,5]", [2, 2], [2, 2], [1, 1], 4),
    ("f[n,3,8,8]", "f[4,3,1,1]", [2, 2], [0, 0], [1, 1], 1),
)


def _forward(form):
    x, weight, stride, padding, dilation, groups = form

    def call(op, x, w, *bias):
        return op(x, w, bias[0] if bias else None, stride, padding, dilation, False, [0, 0], groups)

    return [(CONV, (x, weight), call), (CONV, (x, weight, f"f[{weight[2]}]"), call)]


def _backward(form):
    x, weight, stride, padding, dilation, groups = form
    # A depthwise weight has no gradient here; a bias always has one.
    mask = [True, groups == 1, True]

    def call(op, x, w):
        y = CONV(x, w, None, stride, padding, dilation, False, [0, 0], groups)
        found = op(torch.tanh(y), x, w, [w.shape[0]], stride, padding, dilation, False, [0, 0], groups, mask)
        return tuple(gradient for gradient, wanted in zip(found, mask, strict=True) if wanted)

    return (BACK, (x, weight), call)


CASES = [
    *(case for form in FORMS for case in _forward(form)),
    *(_backward(form) for form in FORMS),
    (CONV, ("f[n,3,4,5]", "f[3,2,3,3]"), lambda op, x, w: op(x, w, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    (
        NORM,
        ("f[n,3,4,5]", "f[3]", "f[3]", "f[3]", "p[3]"),
        lambda op, x, w, b, m, v: op(x, w, b, m, v, 0.1, 1e-3)[0],
    ),
    (NORM, ("f[n,3,4,5]", "f[3]", "p[3]"), lambda op, x, m, v: op(x, None, None, m, v, 0.1, 1e-5)[0]),
    (POOL, ("f[n,2,7,8]",), lambda op, x: op(x, [3, 3], [2, 2], [1, 1])[0]),
    (POOL, ("f[n,2,7,8]",), lambda op, x: op(x, [2], [], [0], [1], True)[0]),
    (
        # Windows overlap: one place takes the gradients of several.
        POOL_BACK,
        ("f[n,2,7,8]",),
        lambda op, x: op(
            torch.tanh(POOL(x, [3, 3], [2, 2], [1, 1])[0]), x, [3, 3], [2, 2], [1, 1], [1, 1], False,
            POOL(x, [3, 3], [2, 2], [1, 1])[1],
        ),
    ),
    (MEAN_POOL, ("f[n,2,7,8]",), lambda op, x: op(x, [3, 3], [2, 2], [1, 1])),
    (MEAN_POOL, ("f[n,2,7,8]",), lambda op, x: op(x, [2, 3], [], [1, 0], False, False)),
]  # fmt: skip


@pytest.mark.parametrize("op", convolution.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases, tolerance=1e-5)


def test_zero_padding_becomes_the_convolutions_own(lowered):
    model = lowered(
        lambda x, w: torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 2, 0, 3)), w, padding=1),
        ("f[n,3,6,6]", "f[4,3,3,3]"),
    )
    (node,) = (node for node in model.graph.node if node.op_type != "Identity")
    assert node.op_type == "Conv"
    attributes = {attribute.name: list(attribute.ints) or attribute.i for attribute in node.attribute}
    # top, left, bottom, right; and every attribute is written out, as AMD's compiler needs it.
    assert attributes == {
        "pads": [1, 2, 4, 3], "kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "group": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "specs", "message"),
    [
        (torch.nn.functional.conv1d, ("f[n,3,6]", "f[4,3,3]"), "3 axes; only images"),
        (
            lambda x, w: BACK(CONV(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 3), x, w, [0], [1, 1], [0, 0],
                              [1, 1], False, [0, 0], 3, [False, True, False])[1],
            ("f[n,3,6,6]", "f[3,1,3,3]"),
            "grouped .depthwise. convolution",
        ),
        (
            lambda x, w: BACK(CONV(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1), x, w, [0], [1, 1], [0, 0],
                              [1, 1], False, [0, 0], 1, [True, False, False])[0],
            ("f[3,3,n,6]", "f[3,3,3,3]"),
            "height and width must be static",
        ),
    ],
)  # fmt: skip
def test_what_has_no_lowering_is_refused_by_name(lowered, function, specs, message):
    with pytest.raises(UnsupportedModel, match=message):
        lowered(function, specs)
