import numpy as np
import pytest

from fieldtune.tasks.tagging.named_entities import Entities, NamedEntity, named_in
from fieldtune.tasks.tagging.pieces import Aligned


def test_entities_are_named_by_the_first_token_of_each_word():
    # "a bc d": the second word has two tokens, and the third lost its own to the cut.
    aligned = Aligned(input_ids=np.arange(5), length=6, words=((0, 1), (2, 4), (5, 6)), pieces=(1, 2, -1), mute=0)
    likely = {0: 2, 1: 1, 2: 2, 3: 0, 4: 1}
    logits = np.zeros((5, 3), np.float32)
    for place, tag in likely.items():
        logits[place, tag] = 2
    (entity,) = named_in("a bc d", aligned, logits, ("O", "B-x", "I-x"))
    assert (entity.label, entity.text, entity.start, entity.end) == ("x", "a bc", 0, 4)
    assert entity.score == pytest.approx(np.exp(2) / (np.exp(2) + 2))


def test_a_text_without_words_has_no_entities():
    aligned = Aligned(input_ids=np.arange(2), length=2, words=((0, 1),), pieces=(-1,), mute=1)
    assert named_in("a", aligned, np.zeros((2, 3), np.float32), ("O", "B-x", "I-x")) == ()


def test_an_answer_for_people_and_programs():
    named = tuple(
        NamedEntity(label=label, text=words, start=start, end=start + len(words), score=0.5)
        for label, words, start in (("person", "Ann", 0), ("place", "New York", 7), ("place", "Rome", 20))
    )
    answer = Entities(entities=named, truncated=True)
    assert answer.lines(5) == [
        "person: Ann (0-3) 50.0 %", "place: New York (7-15) 50.0 %", "place: Rome (20-24) 50.0 %",
    ]  # fmt: skip
    assert answer.lines(2) == ["person: Ann (0-3) 50.0 %", "place: New York (7-15) 50.0 %; place: Rome (20-24) 50.0 %"]
    assert answer.lines(1) == ["; ".join(answer.lines(5))]
    assert Entities(entities=(), truncated=False).lines(1) == ["no entities"]
    record = answer.record()
    assert record["truncated"] is True
    assert record["entities"][1] == {"label": "place", "text": "New York", "start": 7, "end": 15, "score": 0.5}
