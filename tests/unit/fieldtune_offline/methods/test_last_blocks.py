"""Which modules lie in the last blocks of a model, or behind them."""

import pytest
from torch import nn

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.methods.last_blocks import last_blocks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(2, 2)
        self.parts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


class Model(nn.Module):
    """An embedding, twelve blocks with parts of their own, a pooler and a head."""

    def __init__(self, blocks=12):
        super().__init__()
        self.words = nn.Embedding(3, 2)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Block() for _ in range(blocks))
        self.pooler = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def queries(*blocks):
    return [f"encoder.layer.{block}.query" for block in blocks]


def test_the_last_ones_are_counted_by_number_and_what_is_behind_belongs_to_them():
    last = last_blocks(Model(), queries(*range(12)), 3)
    assert (last.container, last.first) == ("encoder.layer", 9)
    names = [*queries(8, 9, 10), "words", "pooler", "head", "encoder.layer.11.parts.0"]
    assert last.among(names) == [*queries(9, 10), "pooler", "head", "encoder.layer.11.parts.0"]


def test_the_outermost_number_is_the_block():
    last = last_blocks(Model(), ["encoder.layer.0.parts.1", "encoder.layer.11.parts.0"], 1)
    assert last.among(["encoder.layer.0.parts.1", "encoder.layer.11.parts.0"]) == ["encoder.layer.11.parts.0"]


@pytest.mark.parametrize(
    ("targeted", "count", "message"),
    [
        (["pooler"], 2, r"the last 2 block\(s\) of what\? The targeted modules lie in no numbered blocks"),
        ([*queries(0), "decoder.layer.0.query"], 1, r"lie in decoder\.layer, encoder\.layer; name the modules"),
        (queries(0, 11), 12, "encoder.layer has 12 blocks; --split 12 would leave none of them frozen"),
        (queries(0, 9), 2, "none of the targeted modules lies in the last 2 of 12 blocks"),
    ],
)
def test_what_has_no_last_blocks_is_refused(targeted, count, message):
    with pytest.raises(UnsupportedModel, match=message):
        last_blocks(Model(), targeted, count)


def test_a_model_of_two_blocks_keeps_one():
    assert last_blocks(Model(2), queries(0, 1), 1).first == 1
