"""Which hardware profile fits a machine: a proposal with its reasons, from what ``machine`` has seen."""

import dataclasses
import re
from collections.abc import Sequence

from fieldtune.hardware.machine import MachineFacts
from fieldtune.hardware.specs import CPU_PROVIDER, HardwareProfile

GENERIC = "cpu-generic"
# A kernel keeps a few percent of the memory to itself, and firmware some more.
_MEMORY_RATIOS = (0.8, 1.05)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Another profile that may fit, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The profile proposed for a machine.

    Attributes:
        name: of the profile.
        reasons: why this one.
        others: profiles that may fit as well.
        warnings: where profile and machine differ.
        to_copy: the nearest profile, to begin one's own from; "" where the machine was recognized.
    """

    name: str
    reasons: tuple[str, ...]
    others: tuple[Candidate, ...]
    warnings: tuple[str, ...]
    to_copy: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    profile: HardwareProfile
    strength: int
    reason: str


def propose(facts: MachineFacts, profiles: Sequence[HardwareProfile]) -> Proposal:
    """Propose the profile of a machine: the one whose ``[detect]`` matches best, else ``cpu-generic``.

    Of profiles that match equally well, one whose provider is installed wins, then one of the CPU alone, then the
    first.

    Args:
        facts: of the machine.
        profiles: to choose from; ``cpu-generic`` is among them.

    Raises:
        ValueError: if ``cpu-generic`` is not among the profiles.
    """
    by_name = {profile.name: profile for profile in profiles}
    if GENERIC not in by_name:
        raise ValueError(f"{GENERIC} is not among the profiles")
    matches = sorted(
        (match for profile in profiles if (match := _match(facts, profile))),
        key=lambda match: (-match.strength, not _installed(facts, match.profile), not _on_cpu(match.profile)),
    )
    if matches:
        best = matches[0]
        return Proposal(
            name=best.profile.name,
            reasons=(best.reason, *_choice_reasons(facts, matches)),
            others=tuple(Candidate(name=match.profile.name, reason=match.reason) for match in matches[1:]),
            warnings=_warnings(facts, best.profile),
            to_copy="",
        )
    return Proposal(
        name=GENERIC,
        reasons=(_unknown(facts),),
        others=tuple(
            Candidate(
                name=profile.name, reason=f"the installed ONNX Runtime has its provider, {profile.execution.provider}"
            )
            for profile in profiles
            if not _on_cpu(profile) and _installed(facts, profile) and _can_be(facts, profile)
        ),
        warnings=_warnings(facts, by_name[GENERIC]),
        to_copy=_nearest(facts, profiles).name,
    )


def _match(facts: MachineFacts, profile: HardwareProfile) -> _Match | None:
    """Return how well a profile's ``[detect]`` matches: a longer part of the board's name matches better."""
    if not _can_be(facts, profile):
        return None
    model = facts.device_tree.casefold()
    named = max((part for part in profile.detect.device_tree if part.casefold() in model), key=len, default="")
    if named:
        reason = f"the device tree's model is {facts.device_tree!r}, and {profile.name} is known by {named!r}"
        return _Match(profile=profile, strength=len(named), reason=reason)
    pci_id = next((pci_id for pci_id in profile.detect.pci_ids if pci_id in facts.pci_ids), None)
    if pci_id:
        reason = f"there is a PCI device {pci_id}, by which {profile.name} is known"
        return _Match(profile=profile, strength=len(pci_id), reason=reason)
    return None


def _choice_reasons(facts: MachineFacts, matches: Sequence[_Match]) -> list[str]:
    """Say what decided between profiles that match equally well."""
    best, equals = matches[0], [match for match in matches[1:] if match.strength == matches[0].strength]
    if not equals:
        return []
    names = ", ".join(match.profile.name for match in equals)
    if _installed(facts, best.profile) and not all(_installed(facts, match.profile) for match in equals):
        why = f"the installed ONNX Runtime has {best.profile.execution.provider}"
    elif _on_cpu(best.profile) and not all(_on_cpu(match.profile) for match in equals):
        why = "it needs no accelerator"
    else:
        why = "it comes first"
    return [f"{names} would fit as well; {best.profile.name} was taken because {why}"]


def _unknown(facts: MachineFacts) -> str:
    seen = []
    if facts.device_tree:
        seen.append(f"the device tree's model, {facts.device_tree!r}")
    if facts.pci_ids:
        count = len(facts.pci_ids)
        seen.append(f"any of its {count} PCI devices" if count > 1 else f"its PCI device {facts.pci_ids[0]}")
    if seen:
        return f"no profile is known by {' or '.join(seen)}"
    return "this machine shows neither a device tree nor PCI devices by which a profile could be known"


def _warnings(facts: MachineFacts, profile: HardwareProfile) -> tuple[str, ...]:
    """Say where a profile and the machine differ in what decides whether a run succeeds."""
    warnings = []
    execution, needed = profile.execution, profile.runtime.ort_version
    if facts.runtime_version and _version(facts.runtime_version) < _version(needed):
        warnings.append(
            f"ONNX Runtime {facts.runtime_version} is installed; {profile.name} is known to run from {needed} on"
        )
    if facts.providers and not _installed(facts, profile):
        warnings.append(
            f"{profile.name} runs on {execution.provider}, and the installed ONNX Runtime has only "
            f'{", ".join(facts.providers)}; on_missing is "{execution.on_missing}"'
        )
    if facts.memory_bytes and profile.memory.total_bytes:
        ratio = facts.memory_bytes / profile.memory.total_bytes
        least, most = _MEMORY_RATIOS
        if not least <= ratio <= most:
            warnings.append(
                f"{profile.name} states {_gib(profile.memory.total_bytes)} of memory, and here are "
                f"{_gib(facts.memory_bytes)}: copy the profile and correct memory.total_bytes"
            )
    if facts.cores and profile.cpu.cores and facts.cores < profile.cpu.cores:
        warnings.append(f"{profile.name} states {profile.cpu.cores} cores, and here are {facts.cores}")
    return tuple(warnings)


def _nearest(facts: MachineFacts, profiles: Sequence[HardwareProfile]) -> HardwareProfile:
    """Return the profile to copy: of the same cores if there is one, and of the CPU rather than an accelerator."""

    def distance(profile: HardwareProfile) -> tuple[bool, bool, bool, float]:
        same_cores = bool(facts.cpu_model) and facts.cpu_model in profile.cpu.model
        total = profile.memory.total_bytes
        apart = abs(facts.memory_bytes - total) / total if facts.memory_bytes and total else float("inf")
        return (not same_cores, profile.name != GENERIC, not _on_cpu(profile), apart)

    return min((profile for profile in profiles if _can_be(facts, profile)), key=distance)


def _can_be(facts: MachineFacts, profile: HardwareProfile) -> bool:
    return profile.cpu.architecture in ("any", facts.architecture)


def _installed(facts: MachineFacts, profile: HardwareProfile) -> bool:
    return profile.execution.provider in facts.providers


def _on_cpu(profile: HardwareProfile) -> bool:
    return profile.execution.provider == CPU_PROVIDER


def _version(text: str) -> tuple[int, ...]:
    """Return the three numbers of a version; 1.22.0.dev1 is 1.22.0, and so is 1.22."""
    return tuple(int(part) for part in [*re.findall(r"\d+", text), "0", "0"][:3])


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
