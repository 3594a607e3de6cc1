"""Which prefix of a bundle an accelerator takes: what it was made for decides, and a name only between equals."""

import dataclasses
from pathlib import Path

import pytest

from builders import altered, graph_spec, image_spec, manifest, profile, target_spec, tensor_spec
from fieldtune.bundle.manifest import PAST
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import Accelerator
from fieldtune.placement.targets import find_target, mismatches

BOARD = profile(accelerator=Accelerator(target="DPUX", family="dpu", batch=4))


def bundle(*targets, **changes):
    made = manifest(
        task="image-classification",
        image=image_spec(),
        targets={target.profile: target for target in targets},
        **changes,
    )
    return Bundle(Path("some/bundle"), made)


def test_a_copy_of_a_profile_runs_what_the_original_does():
    target = target_spec(BOARD)
    assert find_target(bundle(target), BOARD) is target
    assert find_target(bundle(target), dataclasses.replace(BOARD, name="mine")) is target


def test_of_several_that_fit_the_one_of_the_name_comes_first():
    first, own = target_spec(BOARD, profile="a"), target_spec(BOARD)
    assert find_target(bundle(first, own), BOARD) is own
    assert find_target(bundle(first, own), dataclasses.replace(BOARD, name="mine")) is first


def test_one_of_the_name_that_does_not_fit_is_passed_over():
    own, other = target_spec(BOARD, batch=1), target_spec(BOARD, profile="a")
    assert find_target(bundle(own, other), BOARD) is other


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("target", "DPUY", "target DPUX instead of DPUY"),
        ("activation_type", "uint8", "activation_type int8 instead of uint8"),
        ("zero_point", 3, "zero_point 0 instead of 3"),
        ("batch", 1, "batch 4 instead of 1"),
    ],
)
def test_what_differs_is_named_with_both_values(field, value, says):
    other = altered(BOARD, accelerator={field: value})
    assert mismatches(target_spec(BOARD), BOARD.accelerator) == []
    assert mismatches(target_spec(BOARD), other.accelerator) == [says]
    with pytest.raises(
        InvalidBundle, match=f"some/bundle: has no prefix .*: board has {says}; build one on the dev box"
    ):
        find_target(bundle(target_spec(BOARD)), other)


def test_a_bundle_without_any_target_says_how_to_build_one():
    with pytest.raises(InvalidBundle) as caught:
        find_target(bundle(), BOARD)
    assert str(caught.value) == (
        "some/bundle: has no prefix for the accelerator of the profile board (DPUX, xint8, int8 activations with zero "
        "point 0, batch 4): it has none for any accelerator; build one on the dev box: fieldtune-offline build MODEL "
        "--task image-classification --out BUNDLE --target board --calibration DATA"
    )


def test_language_models_are_not_split():
    cache = tensor_spec(f"{PAST}0.key", "batch", 2, "past_sequence", 8)
    with pytest.raises(InvalidBundle, match=r"language models are not split, .* take a profile without an accelerator"):
        find_target(bundle(graphs={"infer": graph_spec("infer", inputs=(cache,))}), BOARD)


def test_a_profile_without_an_accelerator_takes_none():
    with pytest.raises(ValueError, match="the profile board has no accelerator"):
        find_target(bundle(target_spec(BOARD)), profile())
