"""Tokens a second of a language model with an adapter: fieldtune on each base beside transformers' generate with PEFT.

    python benchmarks/decoding.py --cache .cache
    python benchmarks/decoding.py --cache .cache --bases float32 int8 --rounds 3
    python benchmarks/decoding.py --cache .cache --quick

SmolLM2-135M-Instruct with LoRA of rank 8 on q_proj and v_proj, the adapter fed. Every contender is a process of its own
that stays alive and answers in turn: one prompt, greedily, the same number of tokens. Counted is the time from the
first token to the last, so that reading the prompt is not in it. Ratios are of turns taken one right after the other,
given as min / median / max. Peak memory is the largest resident set of the process, mapped weights included.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import THREADS, Child, asset, machine_line, on_threads, parser, ratios, save, say, table
from packed_base import BASES, packed_bundle

REFERENCE = "transformers + PEFT"
PROMPT = (
    "Explain in three sentences how a device in the field could learn from its own data, and what it must not forget."
)


# --- the contenders, in processes of their own ---


def fieldtune_decoder(built: Path) -> Callable[[int], list[float]]:
    """Return what decodes some tokens with a bundle and gives the time at which each came."""
    from fieldtune import load_profile, open_bundle
    from fieldtune.data import encode_prompt
    from fieldtune.serving import GenerationSettings, Runner
    from fieldtune.serving.generation import generate

    runner = Runner(open_bundle(built), on_threads(load_profile("cpu-generic")))
    # An answer that ends early would be no measure.
    runner.bundle = dataclasses.replace(
        runner.bundle,
        manifest=dataclasses.replace(
            runner.bundle.manifest, text=dataclasses.replace(runner.bundle.text, stop_token_ids=())
        ),
    )
    ids = encode_prompt(PROMPT, runner.tokenizer, runner.bundle.text)
    adapter = runner.load_adapter(runner.bundle.adapter_path)

    def decode(count: int) -> list[float]:
        settings = GenerationSettings(max_new_tokens=count)
        return [time.perf_counter() for _ in generate(runner, ids, settings=settings, adapter=adapter)]

    return decode


def torch_decoder(model: Path, built: Path) -> Callable[[int], list[float]]:
    """Return what decodes some tokens with transformers and PEFT, float32, and gives the time at which each came."""
    import torch
    from contenders import peft_model
    from transformers import AutoTokenizer
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(THREADS)
    adapted = peft_model(model, built).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def decode(count: int) -> list[float]:
        clock = Clock()
        with torch.no_grad():
            settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
            adapted.generate(**ids, **settings, use_cache=True, streamer=clock)
        return clock.times[1:]  # the first that is put is the prompt

    return decode


def child(arguments: argparse.Namespace) -> None:
    """Answer each number of tokens on stdin with their seconds on stdout."""
    model, built = arguments.model, arguments.bundle
    reference = arguments.child == REFERENCE
    decode = torch_decoder(model, built) if reference else fieldtune_decoder(built)
    decode(4)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        times = decode(int(line))
        print(json.dumps({"seconds": times[-1] - times[0], "tokens": len(times) - 1}), flush=True)


# --- the rounds ---


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the bases that are asked for, print the table, and return the figures."""
    cache = arguments.cache.resolve()
    rounds, tokens = (1, 16) if arguments.quick else (arguments.rounds, arguments.tokens)
    model = asset("smollm2", cache)
    bundles = {base: packed_bundle("smollm2", base, cache) for base in arguments.bases}
    contenders = {**bundles, REFERENCE: bundles[arguments.bases[0]]}
    children = {}
    for name, built in contenders.items():
        children[name] = Child([sys.executable, __file__, "--child", name, "--model", model, "--bundle", built])
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for name, process in children.items():
            answer = process.ask(str(tokens))
            speeds[name].append(answer["tokens"] / answer["seconds"])
    peaks = {name: process.close() for name, process in children.items()}
    rows = [
        [
            name,
            f"{np.median(speeds[name]):.1f}",
            ratios(speeds[name], speeds[REFERENCE]).text(2),
            f"{peaks[name]:.0f}",
        ]
        for name in contenders
    ]
    print(f"{machine_line()}\n")
    print(table(["base", "tokens a second", f": {REFERENCE}", "peak memory, MB"], rows))
    print(f"\n{rounds} rounds of {tokens} tokens.")
    return {"speeds": speeds, "peaks_mb": peaks}


def main() -> None:
    """Measure, print the table, save the figures."""
    flags = parser(__doc__)
    flags.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES), help="default: all")
    flags.add_argument("--rounds", type=int, default=5, help="how often each takes its turn (default: 5)")
    flags.add_argument("--tokens", type=int, default=64, help="of a turn (default: 64)")
    flags.add_argument("--child", help=argparse.SUPPRESS)
    flags.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.child:
        child(arguments)
        return
    print(f"Figures: {save('decoding', arguments.cache, run(arguments))}")


if __name__ == "__main__":
    main()
