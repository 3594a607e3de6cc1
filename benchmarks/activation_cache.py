"""What the activation cache saves: the epochs of a split bundle with it, without it, and the suffix alone.

    python benchmarks/activation_cache.py --cache .cache
    python benchmarks/activation_cache.py --cache .cache --models minilm --rounds 9
    python benchmarks/activation_cache.py --cache .cache --quick

In a round each contender takes the steps of one epoch, one contender after another, from the same adapter on the same
batches: with the whole graph; with a cache that is empty (the first epoch of a run); with what the first left behind
(every later epoch), read from memory, and from the disk alone; with the cache off; and the suffix alone, its boundary
activations in one array. Ratios are of epochs of one round, to the suffix alone, and given as min / median / max. On a
machine that others use, too, CPU seconds say more than seconds.
Losses and adapters of all that train on the split are compared bit for bit. The profile is cpu-generic with two
threads: the prefix is in float32.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from common import machine_line, on_threads, parser, ratios, save, say, table
from splits import SPLITS, split_bundle

from fieldtune import TrainConfig, load_profile, open_bundle
from fieldtune.activations import CacheSettings
from fieldtune.adapters import read_adapter, to_theta
from fieldtune.bundle import Batch, Bundle
from fieldtune.data import Encoded, EncodedSet, IntArray, encoded_image
from fieldtune.hardware import HardwareProfile
from fieldtune.placement import choose_for
from fieldtune.training import AdamWConfig, open_batches
from fieldtune.training.backends.portable import PortableBackend
from fieldtune.training.batch_source import BatchSource
from fieldtune.training.plan import plan_steps

LEARNING_RATE = 1e-3
MOST = 1.2
"""What a later epoch may cost, in epochs of the suffix alone."""


EXAMPLES = {"efficientnet-lite0": 128, "minilm": 96}
"""Of an epoch."""
BATCH = 8

CONTENDERS = {
    "whole": "whole graph",
    "first": "first epoch",
    "later": "later epoch",
    "disk": "later epoch, from disk alone",
    "off": "without cache",
    "suffix": "suffix alone",
}


class Epoch(NamedTuple):
    """What an epoch took, and what came out of it."""

    seconds: float
    cpu_seconds: float
    losses: list[float]
    adapter: bytes


class Held:
    """A source whose boundary activations are one array, computed beforehand."""

    def __init__(self, source: BatchSource, encoded: EncodedSet) -> None:
        self.choice, self.graphs = source.choice, source.graphs
        self._all = source.batch("gradient", encoded, np.arange(len(encoded.examples)))

    def batch(self, _name: str, _encoded: EncodedSet, indices: IntArray) -> Batch:
        """Return rows of the arrays."""
        return {name: array[indices] for name, array in self._all.items()}


class Contender:
    """Trains from the initial adapter on the batches of a source."""

    def __init__(self, opened: Bundle, source: Any, encoded: EncodedSet, batch: int) -> None:
        self._source, self._encoded, self._batch = source, encoded, batch
        self._start = to_theta(read_adapter(opened.adapter_path), opened.manifest)
        self._backend = PortableBackend(opened, source.choice, self._start, AdamWConfig(), 1.0, source.graphs)
        self._optimizer = self._backend.state()

    def epoch(self) -> Epoch:
        """Take the steps of one epoch from the initial adapter."""
        self._backend.load_theta(self._start)
        self._backend.load_state(self._optimizer)
        config = TrainConfig(epochs=1, batch_size=self._batch, gradient_accumulation=1)
        losses = []
        started, cpu = time.perf_counter(), time.process_time()
        for step in plan_steps(self._encoded.lengths, config):
            (indices,) = step.microbatches
            batch = self._source.batch("gradient", self._encoded, indices)
            sums = self._backend.accumulate(batch, self._encoded.weight(indices))
            self._backend.update(LEARNING_RATE)
            losses.append(sums.loss / sums.weight)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        return Epoch(seconds, cpu_seconds, losses, self._backend.theta().tobytes())


def examples(opened: Bundle, count: int) -> EncodedSet:
    """Return random images or full texts: what they show does not change how long they take."""
    rng, image = np.random.default_rng(0), opened.manifest.image
    labels = rng.integers(0, 2, count)
    if image is not None:
        shape = (image.channels, image.height, image.width)
        made = tuple(encoded_image(rng.integers(0, 256, shape, np.uint8), int(label)) for label in labels)
        return EncodedSet(examples=made)
    sequence = opened.manifest.graphs["gradient"].inputs[0].shape[1]
    texts = tuple(
        Encoded(arrays={"input_ids": rng.integers(1000, 20000, sequence), "labels": label}, weight=1, length=sequence)
        for label in labels
    )
    return EncodedSet(examples=texts)


@contextlib.contextmanager
def sources(opened: Bundle, profile: HardwareProfile, encoded: EncodedSet) -> Iterator[dict[str, Any]]:
    """Give the sources that outlive a round."""
    choice, off = choose_for(opened, profile), CacheSettings(activation_cache="off")
    with (
        open_batches(opened, profile, choice, off, whole=True) as whole,
        open_batches(opened, profile, choice, off) as split,
    ):
        yield {"whole": whole, "off": split, "suffix": Held(split, encoded)}


def one_round(
    opened: Bundle, profile: HardwareProfile, encoded: EncodedSet, lasting: dict[str, Contender], batch: int
) -> dict[str, Epoch]:
    """Take an epoch with each contender."""
    choice = choose_for(opened, profile)
    epochs = {name: lasting[name].epoch() for name in ("whole", "off")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FIELDTUNE_CACHE"] = folder
        with open_batches(opened, profile, choice, CacheSettings()) as source:
            cached = Contender(opened, source, encoded, batch)
            epochs["first"] = cached.epoch()
            epochs["later"] = cached.epoch()
            epochs["suffix"] = lasting["suffix"].epoch()
        with open_batches(opened, profile, choice, CacheSettings(cache_memory_mib=0)) as source:
            # It finds its examples' digests in its first epoch, as every run does.
            disk = Contender(opened, source, encoded, batch)
            disk.epoch()
            epochs["disk"] = disk.epoch()
            assert source.split is not None
            assert source.split.activations.misses == 0
    return epochs


def checked_difference(epochs: dict[str, list[Epoch]]) -> float:
    """Check that all that train on the split do the same; return how far losses of the whole graph are from theirs."""
    expected = epochs["suffix"][0]
    for key, taken in epochs.items():
        if key != "whole" and any(epoch[2:] != expected[2:] for epoch in taken):
            raise SystemExit(f"{CONTENDERS[key]}: losses or adapter differ from the suffix alone")
    whole, split = (np.array(epoch.losses) for epoch in (epochs["whole"][0], expected))
    return float(np.max(np.abs(whole - split) / np.abs(split)))


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds of one subject, print its table and return its figures."""
    title, rounds = SPLITS[name].title, 1 if arguments.quick else arguments.rounds
    opened = open_bundle(split_bundle(name, arguments.cache))
    profile = on_threads(load_profile("cpu-generic"))
    encoded = examples(opened, BATCH * 2 if arguments.quick else EXAMPLES[name])
    epochs: dict[str, list[Epoch]] = {name: [] for name in CONTENDERS}
    with sources(opened, profile, encoded) as opened_sources:
        lasting = {key: Contender(opened, source, encoded, BATCH) for key, source in opened_sources.items()}
        for contender in lasting.values():
            contender.epoch()  # the first run of a session is slower
        for number in range(1, rounds + 1):
            say(f"{title}: round {number} of {rounds}")
            for key, epoch in one_round(opened, profile, encoded, lasting, BATCH).items():
                epochs[key].append(epoch)
    difference = checked_difference(epochs)
    kinds = {"seconds": "seconds", "cpu_seconds": "CPU seconds"}
    figures = {kind: {key: [getattr(epoch, kind) for epoch in epochs[key]] for key in CONTENDERS} for kind in kinds}
    compared = {
        kind: {key: ratios(columns[key], columns["suffix"]) for key in CONTENDERS} for kind, columns in figures.items()
    }
    rows = []
    for key, title in CONTENDERS.items():
        row = [title]
        for kind, columns in figures.items():
            row += [f"{statistics.median(columns[key]):.2f}", compared[kind][key].text(2)]
        rows.append(row)
    header = [f"{title}, {len(encoded.examples)} examples"]
    for kind in kinds.values():
        header += [kind, ": suffix alone"]
    print(table(header, rows))
    boundary = sum(int(np.prod(spec.shape[1:])) * 4 for spec in opened.manifest.split.boundary)
    verdict = "at most" if compared["seconds"]["later"].median <= MOST else "MORE THAN"
    print(
        f"\n{rounds} rounds; {boundary:,} bytes of boundary an example. A later epoch takes {verdict} {MOST} times the "
        "suffix alone.\nLosses and adapters on the split are equal bit for bit; losses of the whole graph differ by at "
        f"most {difference:.1e}.\n",
        flush=True,
    )
    return {
        "subject": {**dataclasses.asdict(SPLITS[name]), "examples": len(encoded.examples), "batch": BATCH},
        "rounds": rounds,
        "boundary_bytes": boundary,
        "figures": figures,
        "ratios": {
            kind: {key: dataclasses.asdict(spread) for key, spread in spreads.items()}
            for kind, spreads in compared.items()
        },
        "loss_relative_difference_of_whole": difference,
    }


def main() -> None:
    """Measure, print the tables, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--models", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: all")
    flags.add_argument("--rounds", type=int, default=5, help="epochs of every contender (default: 5)")
    arguments = flags.parse_args()
    print(f"{machine_line()}\n")
    results = {name: measure(name, arguments) for name in arguments.models}
    print(f"Figures: {save('activation_cache', arguments.cache, {'results': results})}")


if __name__ == "__main__":
    main()
