"""Softmax and layer normalization, against torch, with the values that their backward passes read."""

import pytest
import torch

from fieldtune_offline.lowering import normalization

aten = torch.ops.aten

SOFTMAX = (aten._softmax.default, aten._log_softmax.default)
NORM = aten.native_layer_norm.default
CASES = [
    *((op, ("f[n,m,5]",), lambda op, x: op(x, -1, False)) for op in SOFTMAX),
    *((op, ("f[n,5,m]",), lambda op, x: op(x, 1, False)) for op in SOFTMAX),
    (NORM, ("f[n,m,6]", "f[6]", "f[6]"), lambda op, x, w, b: op(x, [6], w, b, 1e-12)),
    (NORM, ("f[n,6]", "f[6]"), lambda op, x, w: op(x, [6], w, None, 1e-5)),
    (NORM, ("f[n,6]",), lambda op, x: op(x, [6], None, None, 1e-5)),
    (NORM, ("f[n,6]", "f[6]"), lambda op, x, b: op(x, [6], None, b, 1e-5)),
    (NORM, ("f[n,2,3]", "f[2,3]", "f[2,3]"), lambda op, x, w, b: op(x, [2, 3], w, b, 0.1)),
]


@pytest.mark.parametrize("op", normalization.LOWERINGS, ids=str)
def test_the_graph_computes_what_torch_computes(check_cases, op):
    cases = [case for case in CASES if case[0] is op]
    assert cases
    check_cases(cases, tolerance=5e-6)


def test_all_of_them_in_core_operators(check_cases):
    check_cases(CASES, core=True, tolerance=5e-6)


def test_a_row_whose_every_position_is_masked_is_uniform(check):
    def function(x):
        return torch.softmax(x.masked_fill(torch.ones_like(x, dtype=torch.bool), torch.finfo(torch.float32).min), -1)

    check(function, ("f[n,5]",))
