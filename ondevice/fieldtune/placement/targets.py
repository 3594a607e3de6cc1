"""Which prefix of a bundle an accelerator takes."""

from fieldtune.bundle import Bundle, TargetSpec, decodes
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import Accelerator, HardwareProfile, OnMissing
from fieldtune.runtime import ProviderChoice, choose_here


def choose_for(
    bundle: Bundle, profile: HardwareProfile, requested: str | None = None, on_missing: OnMissing | None = None
) -> ProviderChoice:
    """Choose the execution provider for a bundle, which has to hold what the profile's accelerator takes.

    Args:
        bundle: the bundle.
        profile: of the device.
        requested: ONNX Runtime's name of a provider to use whatever the profile says, its accelerator included.
        on_missing: what to do where the provider is not available; the profile's if None.

    Raises:
        ProviderUnavailable: the provider is not available.
        InvalidBundle: the bundle has no prefix for the profile's accelerator.
    """
    choice = choose_here(profile, requested, on_missing)
    if requested is None and profile.accelerator is not None:
        find_target(bundle, profile)
    return choice


def find_target(bundle: Bundle, profile: HardwareProfile) -> TargetSpec:
    """Return the prefix that was made for a profile's accelerator.

    What it was made for decides and not the profile's name, so that a copy of a profile runs what the original does;
    of several that fit, the one of that name comes first.

    Raises:
        InvalidBundle: the bundle has none; the message says how to build one.
        ValueError: the profile has no accelerator.
    """
    accelerator = profile.accelerator
    if accelerator is None:
        raise ValueError(f"the profile {profile.name} has no accelerator")
    targets = bundle.manifest.targets
    named = [targets[profile.name]] if profile.name in targets else []
    for target in (*named, *targets.values()):
        if not mismatches(target, accelerator):
            return target
    raise InvalidBundle(_missing(bundle, profile, accelerator))


def mismatches(target: TargetSpec, accelerator: Accelerator) -> list[str]:
    """Return in what a bundle's prefix and an accelerator differ, as ``what found instead of expected``."""
    pairs = (
        ("target", target.target, accelerator.target),
        ("precision", target.precision, accelerator.precision),
        ("activation_type", target.activation_type, accelerator.activation_type),
        ("zero_point", target.zero_point, accelerator.zero_point),
        ("batch", target.batch, accelerator.batch),
    )
    return [f"{name} {given} instead of {expected}" for name, given, expected in pairs if given != expected]


def _missing(bundle: Bundle, profile: HardwareProfile, accelerator: Accelerator) -> str:
    targets, task = bundle.manifest.targets, bundle.manifest.task.name
    if decodes(bundle.manifest):
        return (
            f"{bundle.root}: is a bundle for {task}, and the profile {profile.name} runs the frozen prefix on "
            f"{accelerator.target}: language models are not split, for decoding would need compiled graphs of a whole "
            "prompt and of one token; take a profile without an accelerator"
        )
    if targets:
        had = "; ".join(f"{name} has {', '.join(mismatches(spec, accelerator))}" for name, spec in targets.items())
    else:
        had = "it has none for any accelerator"
    return (
        f"{bundle.root}: has no prefix for the accelerator of the profile {profile.name} ({accelerator.target}, "
        f"{accelerator.precision}, {accelerator.activation_type} activations with zero point {accelerator.zero_point}, "
        f"batch {accelerator.batch}): {had}; build one on the dev box: fieldtune-offline build MODEL --task "
        f"{task} --out BUNDLE --target {profile.name} --calibration DATA"
    )
