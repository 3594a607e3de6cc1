"""A model whose frozen base is packed in place: which matrices are, which stay, and that it still computes the same."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from fieldtune_offline.precisions.holding import (
    Matrix,
    held_matrix,
    hold_base,
    matrix_layers,
    release,
    release_all,
    release_trained,
    weight_of,
)
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
    return {name: value.detach().clone() for name, value in unpacked(model).named_parameters()}


def unpacked(model):
    """Copy a model; the copy has a weight in float32 where the model holds a matrix in parts."""
    copied = copy.deepcopy(model)
    release_all(copied)
    return copied


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
    model = Net()
    exact, held = answer(model, IDS), weights(model)
    pack_base(model, precision)
    before = unpacked(model)
    assert [type(layer) for layer in before.children()] == [nn.Embedding, nn.Linear, Conv1D, nn.Linear]
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
    assert torch.equal(weight_of(model.down), Int8().unpack((codes, scales), WIDTH, 64).T)


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
    assert not torch.equal(weight_of(model.middle), before.middle.weight)
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
    """What is packed in the same way already is taken as it is."""
    model = Pictures()
    pack_base(model, Int8())
    codes = model.middle.codes
    assert pack_base(model, Int8()).matrices == {"middle": "int8", "classifier": "int8"}
    assert model.middle.codes is codes


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
    reference = unpacked(model)
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


class Scaled(nn.Embedding):
    """An embedding whose rows are scaled, as Gemma's are."""

    def forward(self, ids):
        return super().forward(ids) * 3


class Turned(nn.Linear):
    """A layer that does not go by its kind's own product."""

    def forward(self, x):
        return nn.functional.linear(x, -self.weight, self.bias)


class Others(nn.Module):
    """Layers with code of their own, and attention in one module, which reads the weight of its last layer itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = Scaled(WORDS, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.turned = Turned(WIDTH, 16)
        self.requires_grad_(False)

    def forward(self, ids):
        x = self.words(ids)
        return self.turned(self.attention(x, x, x)[0])


@PRECISIONS
def test_layers_with_code_of_their_own_are_packed_if_they_compute_the_same_and_named_if_not(precision):
    model, before = Others(), Others()
    packing = pack_base(model, precision)
    assert packing.matrices == {"words": "int8"}
    reason = "its weight is read by code of its own"
    assert packing.kept == {"attention.out_proj": reason, "turned": reason}
    found, expected = answer(model, IDS), answer(before, IDS)
    assert 0 < furthest(found, expected) < 0.05
    assert isinstance(model.words, Scaled)
    assert isinstance(model.turned, Turned)


def test_layers_hold_what_is_stored_without_a_copy_until_they_are_packed():
    model = Net(tied=False).to(torch.bfloat16)
    stored = {name: layer.weight for name, layer in matrix_layers(model)}
    exact = answer(Net(tied=False).to(torch.bfloat16).float(), IDS)
    hold_base(model)
    for name, layer in matrix_layers(model):
        assert held_matrix(layer).parts[0].data_ptr() == stored[name].data_ptr()
        assert layer.weight.shape == stored[name].shape
        assert layer.weight.untyped_storage().nbytes() == 4
        assert layer.weight.isnan().all()  # whoever reads it sees that it is not there
        assert torch.equal(weight_of(layer), stored[name].float())
    for layer in (model.up, model.down):
        layer.bias.data = layer.bias.data.float()
    torch.testing.assert_close(answer(model, IDS), exact, rtol=1e-5, atol=1e-6)


def test_a_product_with_what_is_stored_has_the_gradient_of_its_weight():
    model, reference = Pictures(), Pictures()
    hold_base(model)
    pixels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    gradients = []
    for net in (model, reference):
        given = pixels.clone().requires_grad_()
        net(given).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_a_released_layer_is_what_it_was():
    model = Net()
    model.up.weight.requires_grad_(False)
    before = weights(model)
    hold_base(model)
    hold_base(model)  # again: nothing
    assert model.head.weight is model.words.weight
    release(model, [model.up])
    assert type(model.up) is nn.Linear
    assert set(vars(model.up)) == set(vars(Net().up))
    assert list(model.up.buffers()) == []
    assert torch.equal(model.up.weight, before["up.weight"])
    assert not model.up.weight.requires_grad
    release(model, [model.head])  # with what it is tied to
    assert model.head.weight is model.words.weight
    assert torch.equal(model.words.weight, before["words.weight"])
    assert held_matrix(model.down) is not None


def test_a_layer_that_peft_copies_to_train_it_whole_is_copied_with_its_matrix():
    model, before = Pictures(), Pictures()
    hold_base(model)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["middle"], modules_to_save=["classifier"]))
    release_trained(wrapped)
    layer = wrapped.base_model.model.classifier
    trained = layer.modules_to_save["default"]
    assert type(trained) is nn.Linear
    assert torch.equal(trained.weight, before.classifier.weight)
    assert trained.weight.requires_grad
    assert held_matrix(layer.original_module) is not None
    assert held_matrix(wrapped.base_model.model.middle.base_layer) is not None
    # An adapter starts the same, whatever holds the base.
    plain = get_peft_model(before, LoraConfig(r=2, target_modules=["middle"]))
    for net in (wrapped, plain):
        assert net.base_model.model.middle.lora_A["default"].weight.dtype == torch.float32


def test_parts_are_kept_where_the_caller_keeps_them():
    kept = []

    def keep(parts):
        kept.append([part.clone() for part in parts])
        return kept[-1]

    model = Net()
    pack_base(model, Int4(), keep=keep)
    assert len(kept) == 3  # the head's are those of the embedding
    assert model.up.codes is kept[1][0]
    assert isinstance(held_matrix(model.up), Matrix)
