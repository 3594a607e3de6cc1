"""The whole way to an FPGA without one: EfficientNet-Lite0, quantized, split, compiled and adapted on emulated DPUs.

python demo/fpga.py --cache .cache --epochs 2
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import assets
from fpga_page import write_page
from stages import ask, build, heading, prepare_device

TARGET, SECOND = "vek280", "kv260"
"""The board that Vitis AI 3.5's ONNX Runtime provider supports, and one of the release before."""
ADAPTED = {"target_modules": r"blocks\.1[345]\.(expand|project)|head", "r": 8, "lora_alpha": 16}
"""The 1 x 1 convolutions of the last three blocks, and the one behind them."""
EMULATED = ["--on-missing", "emulate"]


def main() -> None:
    """Build, check, compile, adapt, serve; every step is a command that a user could type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for downloads and results")
    parser.add_argument("--epochs", type=int, default=2, help="how often every image is seen; from the 2nd on, cached")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()

    heading("Fetch a pretrained image classifier and real images")
    model, images = assets.fetch("efficientnet-lite0", cache), assets.fetch("fashion", cache)
    fieldtune = prepare_device(cache, also=["pillow"])

    started = time.monotonic()
    bundle = build_bundle(cache, model, images)
    out = cache / "demo" / "fpga"
    out.mkdir(parents=True, exist_ok=True)
    heading("On the device: what would run where, and what would it need?")
    ask(fieldtune, ["check", bundle, "--profile", TARGET])
    heading("On the device: compile for both boards, emulated by the CPU")
    for profile in (TARGET, SECOND):
        ask(fieldtune, ["compile", bundle, "--profile", profile, *EMULATED])
    ask(fieldtune, ["cache", "clear", "--activations"])  # of an earlier demo: the first epoch is to fill the cache
    heading(f"On the device: adapt on the emulated {TARGET}, evaluated on 1,000 other images")
    data = ["--data", images / "train.jsonl", "--eval", images / "eval.jsonl", "--epochs", str(arguments.epochs)]
    adapter = out / "adapter"
    ask(fieldtune, ["train", bundle, "--profile", TARGET, *EMULATED, *data, "--out", adapter, "--overwrite"])
    heading(f"The same adapter on the emulated {SECOND}, without another compilation")
    second = ["evaluate", bundle, "--profile", SECOND, *EMULATED, "--adapter", adapter, "--data", images / "eval.jsonl"]
    ask(fieldtune, second)
    heading("On the device: put new versions of the adapter into use")
    swapped = answer(
        fieldtune.with_name("python"),
        [Path(__file__).with_name("swaps.py"), bundle, bundle / "adapter", adapter, "--profile", TARGET,
         "--image", images / "eval" / "00000.png"],
    )  # fmt: skip
    print(
        f"{swapped['swaps']} swaps, a median of {swapped['median_ms']:.1f} ms from a folder to its first use; "
        f"sessions opened: {swapped['sessions']}; files compiled: {swapped['compiled_files']}"
    )
    page = write_page(
        out / "report.html",
        bundle=bundle,
        targets=(TARGET, SECOND),
        trained=json.loads((adapter / "train_report.json").read_text(encoding="utf-8")),
        second=answer(fieldtune, [*second, "--json"]),
        swapped=swapped,
    )
    print(f"\nReport: {page}")
    print(f"{time.monotonic() - started:.0f} seconds after installation, on this machine's CPU")


def build_bundle(cache: Path, model: Path, images: Path) -> Path:
    """Build the bundle: split below the adapted blocks, its frozen part quantized for both boards."""
    bundles = cache / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    settings = bundles / "fashion-lora.json"
    settings.write_text(json.dumps(ADAPTED), encoding="utf-8")
    task = [model, "--task", "image-classification", "--trust-remote-code", "--peft-config", settings]
    targets = ["--split", "auto", "--target", TARGET, SECOND, "--calibration", images / "train.jsonl"]
    return build(bundles / "fashion", [*task, "--labels", *assets.FASHION, *targets])


def answer(program: Path, arguments: list[Any]) -> Any:
    """Return what a command prints as JSON."""
    done = subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
