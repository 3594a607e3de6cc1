"""The bytes of an adapter directory: PEFT's two files, and fieldtune.json in format 1.0."""

from pathlib import Path

import numpy as np
import pytest

from fieldtune.adapters.adapter import Adapter, AdapterCard
from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor, TensorFile

GOLDEN = Path(__file__).parent / "adapter"
FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "fieldtune.json")


def golden_adapter() -> Adapter:
    values = np.array([[1, -2], [0.5, 0.25]], np.float32)
    module = "base_model.model.bert.encoder.layer.0.attention.self.query"
    return Adapter(
        config={
            "base_model_name_or_path": "some/base",
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": 4,
            "peft_type": "LORA",
            "r": 2,
            "target_modules": ["query"],
            "task_type": "SEQ_CLS",
        },
        tensors=TensorFile(
            tensors={
                f"{module}.lora_A.weight": StoredTensor.from_float32(values, "F32"),
                f"{module}.lora_B.weight": StoredTensor.from_float32(values.T, "BF16"),
            },
            metadata={"format": "pt"},
        ),
        card=AdapterCard(
            base_sha256="0123456789abcdef" * 4,
            task="text-classification",
            labels=("négatif", "positif"),
            training={"steps": 20, "learning_rate": 0.0005},
        ),
        where="golden",
    )


@pytest.mark.parametrize("name", FILES)
def test_writing_gives_the_golden_bytes(tmp_path, name):
    write_adapter(golden_adapter(), tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)
    assert (tmp_path / "a" / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_reading_the_golden_files_gives_the_adapter():
    found, expected = read_adapter(GOLDEN), golden_adapter()
    assert (found.config, found.card) == (expected.config, expected.card)
    assert (dict(found.tensors.tensors), found.tensors.metadata) == (dict(expected.tensors.tensors), {"format": "pt"})
