"""What packing the base costs: figures of loss, gradients and outputs, beside the base in float32."""

import numpy as np
import pytest

from fieldtune.bundle import PackingCost
from fieldtune_offline.parity.packing_cost import Answers, packing_cost, torch_answers
from fieldtune_offline.parity.whole import perturbed
from fieldtune_offline.precisions.packing import pack_base
from fieldtune_offline.precisions.table import precision_of
from packed_graphs import Squares, adapted_net

SHAPES = [(3, 0), (2, 0)]


def answers(loss, gradient, outputs):
    return Answers(loss, np.array(gradient, np.float32), np.array(outputs, np.float32))


def test_figures_by_hand():
    before = [answers(2.0, [3.0, 4.0], [0.0, 2.0]), answers(1.0, [1.0, 0.0], [1.0])]
    after = [answers(2.5, [4.0, 3.0], [0.0, 1.0]), answers(0.5, [0.0, 2.0], [1.0])]
    assert packing_cost(((2, 9), (3, 5)), before, after) == (
        PackingCost(batch=2, sequence=9, loss=2.0, packed_loss=2.5, gradient_cosine=0.96, outputs_relative=0.5),
        PackingCost(batch=3, sequence=5, loss=1.0, packed_loss=0.5, gradient_cosine=0.0, outputs_relative=0.0),
    )


def test_what_is_zero_divides_nothing():
    zero = answers(0.0, [0.0], [0.0])
    (found,) = packing_cost([(1, 1)], [zero], [answers(0.0, [1.0], [2.0])])
    assert (found.gradient_cosine, found.outputs_relative) == (0.0, 2.0)


def test_answers_are_torchs_at_a_moved_adapter():
    adapted = adapted_net()
    task = Squares(adapted.model)
    found = torch_answers(adapted, task, SHAPES)
    tensors = dict(adapted.model.named_parameters())
    trained = {key: tensors[name] for key, name in adapted.names.items()}
    assert all(tensor.grad is None for tensor in tensors.values())
    with perturbed(adapted):
        for seed, (shape, answer) in enumerate(zip(SHAPES, found, strict=True)):
            adapted.model.zero_grad()
            loss, weight = task.reference_loss(task.batch(*shape, seed))
            loss.backward()
            assert answer.loss == pytest.approx(loss.item() / weight.item())
            expected = adapted.layout.pack({key: tensor.grad.numpy() for key, tensor in trained.items()})
            np.testing.assert_allclose(answer.gradient, expected, rtol=1e-6)
            (feeds,) = task.inference_batches(*shape, seed)
            served = task.inference_reference(feeds)["y"].detach().numpy()
            np.testing.assert_allclose(answer.outputs, served.ravel(), rtol=1e-6)
            assert expected.any()


def test_a_tensor_that_the_loss_does_not_need_has_a_gradient_of_zero():
    adapted = adapted_net()

    class Head(Squares):
        """Its loss is of the adapter's A alone."""

        def reference_loss(self, batch):
            layer = self._model.get_submodule("base_model.model.first")
            return layer.lora_A["default"](batch["x"]).square().sum(), batch["counts"].sum()

    (found,) = torch_answers(adapted, Head(adapted.model), SHAPES[:1])
    views = adapted.layout.views(found.gradient)
    a, b = (views[f"base_model.model.first.lora_{part}.weight"] for part in "AB")
    assert a.any()
    assert not b.any()


@pytest.mark.parametrize(
    ("recipe", "least", "most"),
    [("int8", 0.999, 0.03), ("int4/32/asymmetric", 0.98, 0.15), ("nf4/64/double", 0.95, 0.2)],
)
def test_packing_costs_something_and_not_much(recipe, least, most):
    adapted = adapted_net()
    task = Squares(adapted.model)
    before = torch_answers(adapted, task, SHAPES)
    same = packing_cost(SHAPES, before, torch_answers(adapted, task, SHAPES))
    pack_base(adapted.model, precision_of(recipe))
    found = packing_cost(SHAPES, before, torch_answers(adapted, task, SHAPES))
    for cost, nothing in zip(found, same, strict=True):
        assert (nothing.loss, nothing.outputs_relative) == (nothing.packed_loss, 0)
        assert nothing.gradient_cosine == pytest.approx(1, abs=1e-6)
        assert cost.loss == nothing.loss != cost.packed_loss
        assert cost.packed_loss == pytest.approx(cost.loss, rel=0.2)
        assert least < cost.gradient_cosine < 1 - 1e-7
        assert 1e-4 < cost.outputs_relative < most
