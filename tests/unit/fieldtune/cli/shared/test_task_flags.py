"""Flags that the tasks bring: a name for each part of a row, and options of one task alone."""

import tyro

from fieldtune.cli.shared.task_flags import (
    ColumnFlags,
    TaskOptions,
    changed_options,
    named_columns,
    names_of,
    names_that_take,
    options_of,
)
from fieldtune.serving.generation_settings import GenerationSettings
from fieldtune.tasks.interface import NoOptions
from fieldtune.tasks.question_answering import QuestionOptions
from fieldtune.tasks.text_generation import GenerationOptions


def parsed(kind, *arguments):
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(kind, args=list(arguments), config=config)


def test_a_column_is_named_by_the_flag_of_what_it_holds():
    assert named_columns(ColumnFlags()) == {}
    flags = parsed(ColumnFlags, "--text-column", "review", "--answer-start-column", "at")
    assert named_columns(flags) == {"text": "review", "answer_start": "at"}


def test_options_reach_the_task_that_they_are_of():
    options = parsed(TaskOptions, "--temperature", "0.5", "--raw", "--question", "who?", "--question", "where?")
    assert options_of(options, GenerationOptions) == GenerationOptions(
        raw=True, settings=GenerationSettings(temperature=0.5)
    )
    assert options_of(options, QuestionOptions).question == ("who?", "where?")
    assert options_of(options, NoOptions) == NoOptions()


def test_options_that_are_given_are_told_by_their_flags_those_inside_others_too():
    assert changed_options(TaskOptions()) == {GenerationOptions: [], QuestionOptions: []}
    options = parsed(TaskOptions, "--temperature", "0.5", "--raw", "--max-answer-length", "9")
    assert changed_options(options) == {
        GenerationOptions: ["--raw", "--temperature"],
        QuestionOptions: ["--max-answer-length"],
    }


def test_whose_options_and_settings_they_are():
    assert names_of(GenerationOptions) == ["text-generation"]
    assert names_of(QuestionOptions) == ["question-answering"]
    assert "image-classification" in names_that_take("batch_size")
    assert not {"image-classification", "text-generation"} & set(names_that_take("strict"))
    assert "text-classification" in names_that_take("strict")
    assert names_that_take("nothing") == []
