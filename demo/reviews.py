"""The whole way on real data: MiniLM learns movie reviews in an environment that holds only the device half.

python demo/reviews.py --cache .cache --text "A film to fall asleep to."
"""

import argparse
import time
from pathlib import Path

import assets
from stages import ask, build, heading, prepare_device

EXAMPLE = "A charming, clever film with a heart as big as its screen."


def main() -> None:
    """Build, install, adapt, evaluate, classify; every step is a command that a user could type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for downloads and results")
    parser.add_argument("--text", default=EXAMPLE, help="sentence to classify at the end")
    parser.add_argument("--epochs", type=int, default=3, help="how often every review is seen")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()

    heading("Fetch a pretrained encoder and real movie reviews")
    model, reviews = assets.fetch("minilm", cache), assets.fetch("reviews", cache)
    fieldtune = prepare_device(cache)

    started = time.monotonic()
    adapted = ["--labels", "negative", "positive", "--target-modules", "query", "value"]
    bundle = build(cache / "bundles" / "reviews", [model, "--task", "text-classification", *adapted])
    adapter = cache / "demo" / "reviews-adapter"
    heading("On the device: adapt to 2,000 reviews, evaluated on 1,000 others before and after")
    data = ["--data", reviews / "train.jsonl", "--eval", reviews / "eval.jsonl", "--epochs", str(arguments.epochs)]
    ask(fieldtune, ["train", bundle, *data, "--out", adapter, "--overwrite"])
    heading("On the device: classify a sentence, without and with the adapter")
    ask(fieldtune, ["run", bundle, arguments.text])
    ask(fieldtune, ["run", bundle, "--adapter", adapter, arguments.text])
    print(f"\nReport: {adapter / 'report.html'}")
    print(f"Adapter, as PEFT loads it: {adapter}")
    print(f"{time.monotonic() - started:.0f} seconds after installation")


if __name__ == "__main__":
    main()
