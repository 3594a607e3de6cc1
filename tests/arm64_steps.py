"""A few training steps on a bundle with the device half alone: writes their losses, or compares with those of a file.

python tests/arm64_steps.py BUNDLE EXPECTED.json
"""

import json
import sys
from pathlib import Path

import numpy as np

from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.hardware import load_profile
from fieldtune.hardware.installed import features
from fieldtune.runtime.providers import choose_provider
from fieldtune.training.backends.optimizers import AdamWConfig
from fieldtune.training.backends.portable import PortableBackend

STEPS = 4
TOLERANCE = 1e-4
"""Relative: other processors sum in another order, and a few steps of AdamW carry that on."""


def losses(folder: Path) -> list[float]:
    """Train on random tokens, the same on every machine, and return the mean loss of each step."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    choice = choose_provider(load_profile("cpu-generic"), features().providers)
    theta = to_theta(read_adapter(bundle.adapter_path), manifest)
    backend = PortableBackend(bundle, choice, theta, AdamWConfig(), max_grad_norm=1.0)
    rng = np.random.Generator(np.random.PCG64(7))
    found = []
    for _ in range(STEPS):
        ids = rng.integers(5, 60, (4, 12))
        mask = np.ones_like(ids)
        mask[0, 9:] = 0
        per_token = next(spec for spec in manifest.graphs["gradient"].inputs if spec.name == "labels").shape
        labels = np.where(mask == 1, ids, -100) if len(per_token) == 2 else rng.integers(0, 2, 4)
        sums = backend.accumulate({"input_ids": ids, "attention_mask": mask, "labels": labels})
        backend.update(1e-2)
        found.append(sums.loss / sums.weight)
    return found


def main() -> int:
    """Return 0 where the losses agree or were written, 1 where they differ."""
    folder, expected_path = Path(sys.argv[1]), Path(sys.argv[2])
    found = losses(folder)
    print(f"{folder.name}: losses {', '.join(f'{loss:.6f}' for loss in found)}")
    if not expected_path.exists():
        expected_path.write_text(json.dumps(found))
        return 0
    expected = json.loads(expected_path.read_text())
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    print(f"{folder.name}: largest relative difference {worst:.1e} (tolerance {TOLERANCE:.0e})")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
