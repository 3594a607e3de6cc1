"""SmolLM2 learns technical questions and answers on the device half alone; its answers before and after.

python demo/chat.py --cache .cache --question "My printer is not printing."
"""

import argparse
from pathlib import Path

import assets
from stages import ask, build, heading, prepare_device

QUESTIONS = ("My printer is not printing.", "can you write a linked list in Python?")


def main() -> None:
    """Build, install, ask, adapt, evaluate, ask again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for downloads and results")
    parser.add_argument("--question", action="append", help="what to ask before and after; may be repeated")
    parser.add_argument("--epochs", type=int, default=3, help="how often every dialogue is seen")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    questions = arguments.question or QUESTIONS

    heading("Fetch a pretrained chat model and real technical dialogues")
    model, dialogues = assets.fetch("smollm2", cache), assets.fetch("support", cache)
    fieldtune = prepare_device(cache)
    bundle = build(
        cache / "bundles" / "support", [model, "--task", "text-generation", "--target-modules", "q_proj", "v_proj"]
    )
    adapter = cache / "demo" / "support-adapter"
    heading("On the device: answers before")
    for question in questions:
        ask(fieldtune, ["run", bundle, question, "--max-new-tokens", "60"])
    heading("On the device: adapt, evaluated on held-out dialogues before and after")
    data = ["--data", dialogues / "train.jsonl", "--eval", dialogues / "eval.jsonl", "--epochs", str(arguments.epochs)]
    settings = ["--batch-size", "4", "--learning-rate", "2e-3"]
    ask(fieldtune, ["train", bundle, *data, *settings, "--out", adapter, "--overwrite"])
    heading("On the device: answers after")
    for question in questions:
        ask(fieldtune, ["run", bundle, question, "--adapter", adapter, "--max-new-tokens", "60"])
    print(f"\nReport: {adapter / 'report.html'}")


if __name__ == "__main__":
    main()
