"""Write the file of token ids that train.cpp reads.

    python examples/cpp/tokens.py BUNDLE/tokenizer.json EXAMPLES.jsonl TOKENS

An example is an object with a text and a label, which is a class's number: {"text": "A charming film.", "label": 1}
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
tokenizer.no_padding()  # some tokenizers fill every text to one length
with Path(sys.argv[3]).open("w", encoding="ascii") as out:
    for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        print(int(example["label"]), *tokenizer.encode(example["text"]).ids, file=out)
