"""MiSS on the device: matrices of r rows, fed with the pattern that sums every r-th input."""

from pathlib import Path

import numpy as np
import pytest

from builders import QUERY, adapter, graph_spec, layout, manifest, parameter, tensor_spec
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.fit import check_fits
from fieldtune.adapters.methods.miss import METHOD, PATTERN
from fieldtune.adapters.methods.table import method_of
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import AdapterMismatch, InvalidAdapter, InvalidBundle

BLOCK, SUMS = f"{QUERY}.miss_block", f"{QUERY}.{PATTERN}"
CONFIG = {"peft_type": "MISS", "r": 2, "target_modules": ["query"]}
MATRIX = np.arange(8, dtype=np.float32).reshape(2, 4)


def miss(matrix=MATRIX, **config):
    return adapter({**CONFIG, **config}, {BLOCK: matrix})


def bundle(*, features=5, inputs=None):
    specs = (tensor_spec(BLOCK, "rank", 4), tensor_spec(SUMS, features, "rank")) if inputs is None else inputs
    block = parameter(BLOCK, {"rank": 2, "out_features": 4}, module="bert.query")
    described = manifest(
        method="miss",
        peft_config=CONFIG,
        layout=layout(block),
        graphs={"infer": graph_spec(adapter_inputs=specs)},
    )
    return Bundle(Path("nowhere"), described)


def test_what_is_written_is_read(tmp_path):
    write_adapter(miss(), tmp_path / "a")
    found = read_adapter(tmp_path / "a")
    assert (found.config, dict(found.tensors.tensors)) == (CONFIG, dict(miss().tensors.tensors))
    assert method_of(found.config) is METHOD


def test_its_settings_in_words():
    assert METHOD.described(CONFIG) == "rank 2"
    assert METHOD.settings({**CONFIG, "bias": "all"}) == {
        "rank": 2,
        "targets": ["query"],
        "saved": None,
        "bias": "all",
    }
    assert "bias" not in METHOD.settings({**CONFIG, "bias": "none"})


@pytest.mark.parametrize("form", ["bat", "mini"])
def test_other_forms_are_refused_by_name(tmp_path, form):
    write_adapter(miss(init_weights=form), tmp_path / "a")
    with pytest.raises(InvalidAdapter, match=rf"not supported on the device\n  - init_weights '{form}': the "):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("form", [True, False, None, [], {"bat": 1}, "other"])
def test_initializations_that_make_no_other_form_are_read(form):
    assert METHOD.setting_faults({**CONFIG, "init_weights": form}) == []


@pytest.mark.parametrize("rank", [2, 3])
def test_every_rth_input_is_summed(rank):
    matrix = np.arange(rank * 4, dtype=np.float32).reshape(rank, 4)
    fed = METHOD.feeds(miss(matrix, r=rank), bundle(), least_rank=3)
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    folded = sum(x[:, [place]] * matrix[place % rank] for place in range(5))
    assert (fed[SUMS].shape, fed[BLOCK].shape) == ((5, 3), (3, 4))
    np.testing.assert_allclose(x @ fed[SUMS] @ fed[BLOCK], folded, rtol=1e-5)


@pytest.mark.parametrize("inputs", [(), (tensor_spec(SUMS, "features", "rank"),)])
def test_a_bundle_without_the_pattern(inputs):
    with pytest.raises(InvalidBundle, match=r"no graph has an input '.*\.miss_pattern'; build the bundle again"):
        METHOD.feeds(miss(), bundle(inputs=inputs))


def test_ranks_are_those_of_the_settings():
    check_fits(miss(), bundle().manifest, for_training=True)
    with pytest.raises(AdapterMismatch, match=r"\n  - bert\.query\.miss_block: rank 2; adapter_config\.json says 3"):
        check_fits(miss(r=3), bundle().manifest, for_training=False)


def test_training_goes_on_at_the_bundles_rank_alone():
    other = miss(np.zeros((3, 4), np.float32), r=3)
    check_fits(other, bundle().manifest, for_training=False)
    with pytest.raises(AdapterMismatch, match=r"rank 3 in bert\.query; training continues only at .* rank, 2"):
        check_fits(other, bundle().manifest, for_training=True)


def test_the_default_rank_is_pefts():
    bare = adapter({"peft_type": "MISS"}, {BLOCK: np.zeros((64, 4), np.float32)})
    assert METHOD.rank_faults(bare, ["bert.query"]) == []


@pytest.mark.parametrize(
    ("rank", "says"),
    [("2", "'r' is a string"), (0, "'r' is 0; expected at least 1"), (None, "'r' is null"), (1 << 70, "of 71 bits")],
)
def test_ranks_of_another_type(rank, says):
    with pytest.raises(InvalidAdapter, match=f"some/adapter: adapter_config.json: .*{says}"):
        METHOD.rank_faults(miss(r=rank), ["bert.query"])
