"""A model whose frozen base is packed in place: which matrices are, which stay, and that it still computes the same."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fieldtune_offline.precisions.int4 import Int4
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.nf4 import Nf4
from fieldtune_offline.precisions.operators import unpacked_products
from fieldtune_offline.precisions.packing import Packing, pack_base
from packed_graphs import furthest

WIDTH, WORDS = 48, 20
PRECISIONS = pytest.mark.parametrize(
    "precision", [Int8(), Int4(), Int4(32, symmetric=True), Nf4(), Nf4(double=False)], ids=lambda value: value.recipe
)


class Net(nn.Module):
    """A language model of a kind: words, a linear layer, one that is stored transposed, and the words again as head."""

    def __init__(self, *, tied=True):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.up = nn.Linear(WIDTH, 64)
        self.down = Conv1D(WIDTH, 64)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight
        nn.init.normal_(self.down.bias)
        self.requires_grad_(False)

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        return self.head(self.down(torch.tanh(self.up(self.words(ids)))))


class Pictures(nn.Module):
    """A convolution, and two linear layers."""

    def __init__(self, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.middle = nn.Linear(width, 16)
        self.classifier = nn.Linear(16, 2)
        self.requires_grad_(False)

    def forward(self, pixels):
        return self.classifier(torch.relu(self.middle(self.patches(pixels).mean((2, 3)))))


IDS = torch.tensor([[1, 7, 0], [19, 3, 7]])


def answer(model, *arguments):
    with torch.no_grad():
        return model(*arguments)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@PRECISIONS
def test_layers_of_every_kind_are_packed_embeddings_and_heads_in_int8(precision):
    model = Net()
    packing = pack_base(model, precision)
    assert packing == Packing(
        recipe=precision.recipe,
        matrices={"words": "int8", "up": precision.recipe, "down": precision.recipe, "head": "int8"},
        kept={},
        integer=True,  # the head's
    )
    for layer, used in ((model.words, Int8()), (model.up, precision), (model.down, precision), (model.head, Int8())):
        assert tuple(name for name, _ in layer.named_buffers()) == used.part_names


@PRECISIONS
def test_it_computes_what_the_unpacked_matrices_do(precision):
    before, model = Net(), Net()
    exact, held = answer(before, IDS), weights(before)
    pack_base(model, precision)
    # The weights are what the parts stand for: a copy of the model that uses them is the reference.
    before.load_state_dict(model.state_dict())
    assert not torch.equal(before.down.weight, held["down.weight"])
    for name, found in weights(model).items():
        assert furthest(found, held[name]) < (0.2 if found.ndim == 2 else 1e-9)
    with unpacked_products():
        torch.testing.assert_close(answer(model, IDS), answer(before, IDS), rtol=1e-5, atol=1e-5)
    assert furthest(answer(model, IDS), exact) < 0.2
    assert not torch.equal(answer(model, IDS), exact)


def test_what_is_stored_transposed_is_packed_with_a_row_for_each_output():
    model = Net()
    matrix = model.down.weight.detach().T.contiguous()
    pack_base(model, Int8())
    codes, scales = Int8().pack(matrix)
    assert torch.equal(model.down.codes, codes)
    assert torch.equal(model.down.scales, scales)
    assert torch.equal(model.down.weight, Int8().unpack((codes, scales), WIDTH, 64).T)


def test_biases_are_still_added():
    model = Net()
    pack_base(model, Int8())
    x = torch.zeros(3, WIDTH)
    torch.testing.assert_close(model.up(x), model.up.bias.expand(3, -1))
    torch.testing.assert_close(model.down(torch.zeros(3, 64)), model.down.bias.expand(3, -1))
    assert model.up.bias.any()


def test_tied_weights_have_one_set_of_parts():
    tied, own = Net(), Net(tied=False)
    pack_base(tied, Int4())
    pack_base(own, Int4())
    for name in Int8.part_names:
        assert getattr(tied.words, name).data_ptr() == getattr(tied.head, name).data_ptr()
        assert getattr(own.words, name).data_ptr() != getattr(own.head, name).data_ptr()
    assert tied.head.weight is tied.words.weight


def test_only_products_of_integers_are_said_to_be_such():
    """Rows of an embedding are gathered as they are."""
    model = Net(tied=False)
    model.get_output_embeddings = lambda: None
    packing = pack_base(model, Int4())
    assert packing.matrices == {"words": "int8", **dict.fromkeys(("up", "down", "head"), Int4().recipe)}
    assert not packing.integer
    assert pack_base(Pictures(), Int8()).integer


@PRECISIONS
def test_convolutions_stay_and_are_named(precision):
    model, before = Pictures(), Pictures()
    packing = pack_base(model, precision)
    assert packing.kept == {"patches": "a convolution"}
    assert set(packing.matrices) == {"middle", "classifier"}
    assert torch.equal(model.patches.weight, before.patches.weight)
    assert not torch.equal(model.middle.weight, before.middle.weight)
    assert list(model.patches.buffers()) == []


def test_what_nf4_cannot_pack_stays_in_float32_and_says_why():
    model, before = Pictures(width=24), Pictures(width=24)
    packing = pack_base(model, Nf4())
    assert packing.kept == {"patches": "a convolution", "middle": "24 columns are no multiple of 16"}
    assert packing.matrices == {"classifier": "nf4/64/double"}
    assert torch.equal(model.middle.weight, before.middle.weight)
    x = torch.ones(2, 24)
    assert torch.equal(model.middle(x), before.middle(x))


def test_packing_again_changes_nothing():
    """The weights are what the parts stand for already."""
    model = Pictures()
    pack_base(model, Int8())
    once = weights(model)
    pack_base(model, Int8())
    for name, found in weights(model).items():
        torch.testing.assert_close(found, once[name], rtol=1e-6, atol=0)


def test_parts_are_not_in_what_the_model_saves():
    model = Net()
    names = set(model.state_dict())
    pack_base(model, Int4())
    assert set(model.state_dict()) == names
    assert {name for name, _ in model.named_buffers()} >= {"up.codes", "up.scales", "up.zero_points"}


def test_progress_counts_every_layer():
    told = []
    pack_base(Net(), Int8(), lambda *numbers: told.append(numbers))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]


@pytest.fixture
def adapted():
    """The function from PEFT's settings to a network with LoRA on ``middle``, its B not zero."""

    def make(**settings):
        config = LoraConfig(r=2, target_modules=["middle"], **settings)
        model = get_peft_model(Pictures(), config).eval()
        with torch.no_grad():
            model.get_submodule("base_model.model.middle").lora_B["default"].weight.normal_()
        return model

    return make


@PRECISIONS
def test_what_is_trained_and_what_is_saved_with_the_adapter_stay(adapted, precision):
    model = adapted(modules_to_save=["classifier"])
    before = weights(model)
    packing = pack_base(model, precision)
    # By the names of the checkpoint, without what PEFT has around a layer.
    assert packing.matrices == {"middle": precision.recipe}
    assert packing.kept == {"patches": "a convolution"}
    after = weights(model)
    assert [name for name in after if not torch.equal(after[name], before[name])] == [
        "base_model.model.middle.base_layer.weight"
    ]


@PRECISIONS
def test_an_adapted_layer_adds_its_adapter_to_the_packed_product(adapted, precision):
    model, pixels = adapted(), torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    pack_base(model, precision)
    reference = adapted()
    reference.load_state_dict(model.state_dict())
    with unpacked_products():
        model(pixels).sum().backward()
        torch.testing.assert_close(answer(model, pixels), answer(reference, pixels), rtol=1e-5, atol=1e-5)
    reference(pixels).sum().backward()
    gradients = {name: value.grad for name, value in reference.named_parameters() if value.grad is not None}
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == gradients.keys()
    assert len(found) == 2
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_head_of_a_language_model_is_found_under_its_adapter():
    model = Net(tied=False)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["head"])).eval()
    wrapped.get_output_embeddings = model.get_output_embeddings
    packing = pack_base(wrapped, Int4())
    assert packing.matrices["head"] == "int8"
    assert packing.integer
