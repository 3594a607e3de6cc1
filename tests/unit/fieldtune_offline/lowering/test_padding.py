"""Zero padding that can be differentiated with sizes that vary, and which paddings become it."""

import pytest
import torch
from torch import nn

from fieldtune_offline.lowering.padding import differentiable_padding
from fieldtune_offline.quiet import quiet_tracing

aten = torch.ops.aten
OURS = torch.ops.fieldtune.zero_pad.default


class Net(nn.Module):
    def __init__(self, pad):
        super().__init__()
        self.pad = pad

    def forward(self, x):
        return self.pad(x)


def replaced(pad, *, dynamic=True):
    """The number of paddings that became ours, of a program that still computes the same."""
    x = torch.arange(24.0).reshape(2, 3, 4)
    shapes = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},) if dynamic else None
    with quiet_tracing():
        program = torch.export.export(Net(pad), (x,), dynamic_shapes=shapes, strict=False)
    module = differentiable_padding(program).module()
    assert torch.equal(module(x), pad(x))
    return sum(node.target is OURS for node in program.graph.nodes)


@pytest.mark.parametrize("pad", [[1, 2], [0, 1, 2, 0], [1, 1, 0, 2, 3, 0]])
def test_it_is_torchs_padding_forward_and_backward(pad):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.pad(x, pad)
    assert torch.equal(OURS(x, pad), expected)
    assert OURS(x.to("meta"), pad).shape == expected.shape
    weight = torch.randn_like(expected)
    (ours,) = torch.autograd.grad((OURS(x, pad) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: nn.functional.pad(x, (1, 2)),
        lambda x: nn.functional.pad(x, (1, 2, 0, 1), value=0.0),
        nn.ZeroPad1d(3),
    ],
)
def test_paddings_with_zeros_become_it(pad):
    assert replaced(pad) == 1


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: nn.functional.pad(x, (1, 2), value=1.0),
        lambda x: nn.functional.pad(x, (-1, 2)),
        lambda x: nn.functional.pad(x, (1, 2), mode="reflect"),
        lambda x: nn.functional.pad(x, (0, x.shape[0])),
        lambda x: x + 1,
    ],
    ids=["ones", "inwards", "reflected", "by a size", "no padding"],
)
def test_other_paddings_stay(pad):
    assert replaced(pad) == 0


def test_sizes_still_vary_after_it_is_differentiated():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return (nn.functional.pad(x * self.weight, (0, 0, 1, 0)) ** 2).sum()

    from torch.export.experimental import _export_forward_backward

    with quiet_tracing():
        program = torch.export.export(
            Loss(), (torch.ones(3, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
        joint = _export_forward_backward(differentiable_padding(program), joint_loss_index=0)
    (x,) = (node for node in joint.graph.nodes if node.op == "placeholder" and node.meta["val"].ndim == 2)
    assert isinstance(x.meta["val"].shape[0], torch.SymInt)
