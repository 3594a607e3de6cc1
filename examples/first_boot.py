"""First boot of a bundle on real hardware: does the accelerator compute what the desk said it would?

    fieldtune compile BUNDLE --profile vek280
    python examples/first_boot.py BUNDLE --profile vek280

Needs fieldtune alone. Opens the prefix that was compiled for the profile's accelerator, runs the inputs that the bundle
stores with it, and compares the outputs with those that it stores, in LSB: the steps that an output is quantized in.
Exit code 0 if every output is within the tolerance, else 1. With ``--on-missing emulate`` the same runs on a desk,
which proves the script and the bundle, and nothing about the hardware.
"""

import argparse
import sys

from fieldtune.bundle import open_bundle, read_node_table
from fieldtune.cli.shared import placement_table, print_tables
from fieldtune.compilation import compare_outputs, open_prefix, read_reference
from fieldtune.errors import FieldtuneError
from fieldtune.files import json_text
from fieldtune.hardware import load_profile
from fieldtune.placement import find_target


def arguments() -> argparse.Namespace:
    """Return the command line's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", help="folder that was built with --target")
    parser.add_argument("--profile", required=True, help="name or .toml file of the device's hardware profile")
    parser.add_argument("--on-missing", choices=("error", "emulate"), help="what to do without the real provider")
    parser.add_argument("--tolerance-lsb", type=float, default=1.0, help="what an element may be off by (default: 1)")
    parser.add_argument("--share", type=float, default=0.0, help="of the elements, may be off by more (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, to keep or to send")
    return parser.parse_args()


def main() -> int:
    """Run the stored inputs, print what came out of them, and return the exit code."""
    asked = arguments()
    bundle, profile = open_bundle(asked.bundle), load_profile(asked.profile)
    target = find_target(bundle, profile)
    reference = read_reference(bundle, target)
    table = read_node_table(bundle.root / bundle.manifest.graphs[target.graph].nodes)
    prefix = open_prefix(bundle, profile, on_missing=asked.on_missing)
    answers = prefix.run(reference.inputs)
    # Hardware rounds halves in one way or the other: it is held to the way that it is nearer to.
    compared = {
        rounding: compare_outputs(answers, expected, table, asked.tolerance_lsb)
        for rounding, expected in (("to even", reference.half_even), ("up", reference.half_up))
    }
    halves = min(compared, key=lambda rounding: sum(output.beyond + output.differing for output in compared[rounding]))
    outputs = compared[halves]
    wrong = [output.name for output in outputs if output.beyond > asked.share]
    if asked.json:
        limits = {"tolerance_lsb": asked.tolerance_lsb, "share": asked.share}
        facts = {
            "bundle": bundle.root,
            "profile": profile.name,
            "samples": reference.samples,
            "halves": halves,
            "matches": not wrong,
            **limits,
        }
        print(json_text({**facts, "outputs": outputs, "placement": prefix.report}), end="")
        return 1 if wrong else 0
    print_tables(placement_table(prefix.report))
    allowed = f"{asked.share:.2%} of an output may be off by more than {asked.tolerance_lsb:g} LSB"
    print(f"{reference.samples} stored samples; {allowed}; nearest to a reference with halves rounded {halves}")
    for output in outputs:
        step = f"1 LSB is {output.step:g}" + ("" if output.quantized else ", for it is not quantized")
        print(
            f"  {output.name}: largest difference {output.largest_lsb:.2f} LSB, {output.differing:.3%} differ, "
            f"{output.beyond:.3%} by more ({step})"
        )
    print(f"MISMATCH in {', '.join(wrong)}" if wrong else "MATCH")
    if prefix.report.emulated:
        print("emulated: nothing is said about the accelerator itself")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FieldtuneError as error:
        print(f"first_boot: error: {error}", file=sys.stderr)
        sys.exit(1)
