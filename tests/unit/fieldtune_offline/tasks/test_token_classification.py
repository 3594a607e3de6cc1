import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from fieldtune.bundle.manifest import TaskSpec, TensorSpec, TextSpec
from fieldtune.data.batches import batch_of
from fieldtune.errors import UnsupportedModel
from fieldtune.tasks.table import new_task
from fieldtune.tasks.tagging.texts import SpansExample, WordsExample
from fieldtune_offline.tasks.table import task_class
from fieldtune_offline.tasks.token_classification import TokenClassification

LABELS = ("O", "B-person", "I-person", "B-place", "I-place")
SENTENCES = (
    ("the", "cast", ":", "Ann-Marie", "O'Neill", ",", "great", "!"),
    ("what", "a", "story"),
    ("it", "is", "set", "in", "New", "York", "..."),
)
TAGS = ((0, 0, 0, 1, 2, 0, 0, 0), (0, 0, 0), (0, 0, 0, 0, 3, 4, 0))


@pytest.fixture(scope="module")
def tokenizer(tiny_models):
    return AutoTokenizer.from_pretrained(tiny_models / "classifier")


@pytest.fixture(scope="module")
def model(tiny_models):
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(tiny_models / "classifier", id2label=dict(enumerate(LABELS)))
    return AutoModelForTokenClassification.from_pretrained(tiny_models / "classifier", config=config).eval()


@pytest.fixture(scope="module")
def device(tiny_models, tokenizer):
    """The device's half of the task."""
    text = TextSpec(max_length=64, pad_token_id=0, stop_token_ids=(), special_tokens={}, chat_template=None)
    spec = TaskSpec(name="token-classification", labels=LABELS)
    return new_task(spec, text=text, tokenizer_path=tiny_models / "classifier" / "tokenizer.json")


@pytest.fixture(scope="module")
def task(model):
    return TokenClassification(model)


def theirs(tokenizer, words, tags):
    """Ids, mask and labels as transformers' own example of token classification makes them."""
    encoded = tokenizer(list(words), is_split_into_words=True, return_offsets_mapping=True)
    seen, labels = set(), []
    for word in encoded.word_ids():
        labels.append(-100 if word is None or word in seen else tags[word])
        seen.add(word)
    return {
        "input_ids": torch.tensor([encoded["input_ids"]]),
        "attention_mask": torch.tensor([encoded["attention_mask"]]),
        "labels": torch.tensor([labels]),
    }


def test_the_name_finds_it():
    assert task_class("token-classification") is TokenClassification
    assert (TokenClassification.peft_type, TokenClassification.labelled) == ("TOKEN_CLS", True)


def test_labels_are_checked_before_and_after_the_model_is_loaded(tiny_models):
    TokenClassification.check_labels(LABELS)
    TokenClassification.check_labels(())
    with pytest.raises(UnsupportedModel, match="--labels: labels of no scheme: 'person'; expected O and, for each"):
        TokenClassification.check_labels(("O", "person"))
    with pytest.raises(UnsupportedModel, match="labels named more than once: O"):
        TokenClassification.check_labels(("O", "B-x", "O"))
    config = AutoConfig.from_pretrained(tiny_models / "classifier")
    with pytest.raises(UnsupportedModel, match=r"here: config\.json: labels of no scheme: 'LABEL_0', 'LABEL_1'"):
        TokenClassification.check_config(config, "here")


def test_words_are_encoded_as_transformers_encodes_them(tokenizer, device):
    encoded = device.encode([WordsExample(words=w, tags=t) for w, t in zip(SENTENCES, TAGS, strict=True)])
    for words, tags, found in zip(SENTENCES, TAGS, encoded.examples, strict=True):
        expected = theirs(tokenizer, words, tags)
        assert found.arrays["input_ids"].tolist() == expected["input_ids"][0].tolist()
        assert found.arrays["labels"].tolist() == expected["labels"][0].tolist()
        assert found.weight == len(words)
    # What serves gets the same tokens from the text.
    served = device.encode([SpansExample(text=" ".join(words)) for words in SENTENCES])
    for one, other in zip(encoded.examples, served.examples, strict=True):
        assert one.arrays["input_ids"].tolist() == other.arrays["input_ids"].tolist()


@torch.no_grad()
def test_a_row_has_the_same_loss_alone_and_beside_longer_ones(tokenizer, device, model, task):
    encoded = device.encode([WordsExample(words=w, tags=t) for w, t in zip(SENTENCES, TAGS, strict=True)])
    grid = ("batch", "sequence")
    inputs = [
        TensorSpec(name=name, dtype="int64", shape=grid, pad=-100 if name == "labels" else 0)
        for name in ("input_ids", "attention_mask", "labels")
    ]
    module = task.loss_module(with_logits=True)

    def ours(indices):
        batch = batch_of(encoded.examples, indices, inputs)
        return module(**{name: torch.from_numpy(array) for name, array in batch.items()})

    sums = []
    for index, (words, tags) in enumerate(zip(SENTENCES, TAGS, strict=True)):
        own = model(**theirs(tokenizer, words, tags)).loss * len(words)
        loss, weight, logits = ours([index])
        assert float(weight) == len(words) == encoded.examples[index].weight
        assert logits.shape == (1, encoded.examples[index].length, len(LABELS))
        torch.testing.assert_close(loss, own)
        sums.append(own)
    loss, weight, _ = ours([0, 1, 2])
    assert float(weight) == sum(map(len, SENTENCES))
    torch.testing.assert_close(loss, sum(sums))


@torch.no_grad()
def test_batches_of_parity(task):
    batch = task.batch(3, 12, 0)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (3, 12)
    )
    labels, mask = batch["labels"], batch["attention_mask"]
    assert (labels[mask == 0] == -100).all()
    assert (labels[2] == -100).all()
    assert 0 < int((labels[:2] != -100).sum()) < 24
    summed, weight = task.reference_loss(batch)
    found, counted = task.loss_module(with_logits=False)(**batch)
    torch.testing.assert_close(found, summed)
    assert int(counted) == int(weight) == int((labels != -100).sum())
    assert set(task.graphs(3, 12)) == {"gradient", "eval", "infer"}


def test_labels_of_noise():
    class Manifest:
        task = TaskSpec(name="token-classification", labels=LABELS)

    def drawn(*, masked):
        rng = np.random.default_rng(0)
        return TokenClassification.noise_labels(rng, Manifest, np.arange(9), masked=masked)["labels"]

    assert (drawn(masked=True) == -100).all()
    labels = drawn(masked=False)
    assert labels.dtype == np.int64
    assert ((labels == -100) == [True, False] * 4 + [True]).all()
    assert labels.max() < len(LABELS)
