"""The examples of the official training API: they train, and the product reads what they save."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.training.backends.ort_checkpoint import read_adamw, read_parameters
from fieldtune.training.backends.training_api import import_training

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
OFFICIAL = EXAMPLES / "official_api.py"


def run(script, *arguments):
    # From another folder and without the variables that could bring the project's own packages in.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.anchor, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_official_api_example_is_thirty_lines_of_code_without_the_project():
    source = OFFICIAL.read_text(encoding="utf-8")
    tree = ast.parse(source)
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {token.start[0] for token in tokens if token.type not in silent}
    assert len({line for line in lines if line > tree.body[0].end_lineno}) <= 30
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} == {"sys", "pathlib", "numpy", "onnxruntime", "tokenizers"}


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_the_official_api_example_learns_its_texts_and_saves_what_loads(official, name, tmp_path):
    bundle = official(name)
    saved = tmp_path / "checkpoint"
    losses = [float(loss) for loss in re.findall(r"step \d+: loss (\S+)", run(OFFICIAL, bundle.root, saved))]
    assert len(losses) == 10
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    layout = bundle.manifest.layout
    state = import_training("api").CheckpointState.load_checkpoint(str(saved))
    assert {p.key for p in layout.parameters} <= {found for found, _ in state.parameters}
    moved = abs(read_parameters(saved, layout) - to_theta(read_adapter(bundle.adapter_path), bundle.manifest))
    # Ten steps of AdamW at 0.01 move a value by about 0.1 at most.
    assert 0.05 < moved.max() < 0.12
    assert read_adamw(saved, layout)["step"] == 10


def test_the_tokens_for_the_cpp_example_are_classes_and_ids_without_padding(bundle_folder, tmp_path):
    from tokenizers import Tokenizer

    examples, out = tmp_path / "examples.jsonl", tmp_path / "tokens"
    examples.write_text('{"text": "a great film", "label": 1}\n{"text": "dull", "label": 0}\n', encoding="utf-8")
    tokenizer_file = bundle_folder("tiny-classifier") / "tokenizer.json"
    run(EXAMPLES / "cpp" / "tokens.py", tokenizer_file, examples, out)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = [[int(number) for number in line.split()] for line in out.read_text(encoding="ascii").splitlines()]
    assert rows == [[1, *tokenizer.encode("a great film").ids], [0, *tokenizer.encode("dull").ids]]
