"""Train a bundle's official artifacts with ONNX Runtime's own training API, and with nothing of fieldtune.

    python examples/official_api.py BUNDLE CHECKPOINT

Needs onnxruntime-training-cpu, numpy and tokenizers. Takes ten steps on four texts, prints the loss of each, and saves
a checkpoint, which ``fieldtune import-checkpoint BUNDLE CHECKPOINT --out DIR`` turns into a PEFT adapter.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

# onnxruntime.training imports torch, which its submodule api does not need. Leave these two lines out where torch is
# installed; elsewhere an empty module that knows the folder stands in for the parent package.
sys.modules["onnxruntime.training"] = type(sys)("onnxruntime.training")
sys.modules["onnxruntime.training"].__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: E402

TEXTS = {"a moving, clever film": 1, "dull from start to end": 0, "great acting, great fun": 1, "two wasted hours": 0}

files, out = Path(sys.argv[1]) / "ort_training", sys.argv[2]
state = CheckpointState.load_checkpoint(str(files / "checkpoint"))
module = Module(str(files / "training_model.onnx"), state, str(files / "eval_model.onnx"))
optimizer = Optimizer(str(files / "optimizer_model.onnx"), module)

tokenizer = Tokenizer.from_file(str(files.parent / "tokenizer.json"))
tokenizer.enable_padding()
encoded = tokenizer.encode_batch(list(TEXTS))
ids = np.array([row.ids for row in encoded], np.int64)
mask = np.array([row.attention_mask for row in encoded], np.int64)
labels = np.array(list(TEXTS.values()), np.int64)  # text classification: one class for each text
if "correct" in module.output_names():  # text generation: each token is a label; -100 leaves padding out
    labels = np.where(mask == 1, ids, -100)
batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
feeds = [batch[name] for name in module.input_names()]

optimizer.set_learning_rate(1e-2)
for step in range(1, 11):
    loss, _ = module(*feeds)  # forward and backward: a Module starts in training mode
    optimizer.step()
    module.lazy_reset_grad()
    print(f"step {step}: loss {float(loss):.4f}")
CheckpointState.save_checkpoint(state, out, include_optimizer_state=True)
