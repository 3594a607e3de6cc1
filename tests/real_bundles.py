"""Build the bundles of real models that tests share, once: MiniLM and SmolLM2, with the official training artifacts.

    python tests/real_bundles.py .cache/bundles --cache .cache [real-minilm real-smollm2]

Run in the development environment. SmolLM2 takes minutes, so each bundle has a stamp of its own.
"""

import argparse
import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "demo"), str(REPOSITORY / "tests")]

import assets  # noqa: E402  (of the folders put on the path above)
import tiny_bundles  # noqa: E402
from fieldtune_offline import BuildSpec, MethodSpec, build_bundle  # noqa: E402

ENCODER = MethodSpec(rank=8, alpha=16, target_modules=("query", "value"))
DECODER = MethodSpec(rank=8, alpha=16, target_modules=("q_proj", "v_proj"))


def spec(name: str, out: Path, cache: Path, *, official: bool) -> BuildSpec:
    """Return how one of the bundles is built."""
    folder = out / name
    if name == "real-minilm":
        return BuildSpec(model=str(assets.fetch("minilm", cache)), task="text-classification", out=folder,
                         labels=("no", "yes"), method=ENCODER, overwrite=True, ort_training=official)  # fmt: skip
    return BuildSpec(model=str(assets.fetch("smollm2", cache)), task="text-generation", out=folder, method=DECODER,
                     overwrite=True, ort_training=official)  # fmt: skip


NAMES = ("real-minilm", "real-smollm2")


def sources() -> list[Path]:
    """Return the files that a bundle follows from: commands and the training loop are not among them."""
    packages = (REPOSITORY / "offline" / "fieldtune_offline", REPOSITORY / "ondevice" / "fieldtune")
    files = [path for package in packages for path in sorted(package.rglob("*.py"))]
    aside = {packages[0] / "cli", packages[1] / "cli", packages[1] / "training"}
    requirements = packages[0] / "ort_training" / "requirements.txt"
    return [*(path for path in files if not aside & set(path.parents)), requirements, Path(__file__)]


def build(name: str, out: Path, cache: Path) -> None:
    """Build one of the bundles in OUT, unless it is there from the same sources and the same model."""
    official = tiny_bundles.has_training_tool()
    wanted = spec(name, out, cache, official=official)
    parts = [repr(wanted).encode(), (Path(wanted.model) / ".asset").read_bytes()]
    key = hashlib.sha256(b"".join([*parts, *(path.read_bytes() for path in sources())])).hexdigest()
    stamp = out / f"{name}.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == key and (wanted.out / "manifest.json").is_file():
        return
    stamp.unlink(missing_ok=True)
    print(f"building {wanted.out}", flush=True)
    build_bundle(wanted)
    stamp.write_text(json.dumps(key))


def main() -> None:
    """Build what the command line names, both bundles if it names none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the bundles")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}; both if none")
    parser.add_argument("--cache", type=Path, required=True, help="folder of models and environments")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"{', '.join(unknown)}: expected {' or '.join(NAMES)}")
    warnings.simplefilter("ignore")
    os.environ.setdefault("FIELDTUNE_CACHE", str(arguments.cache.resolve()))
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        build(name, out, arguments.cache.resolve())


if __name__ == "__main__":
    main()
