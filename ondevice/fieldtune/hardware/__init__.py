"""Hardware profiles: what a device is and how it should be used, one hand-written TOML file a device.

``specs`` holds what a profile says, ``reading`` turns TOML into it, ``stacks`` knows the options of the Vitis AI
provider's software stacks, ``fit`` checks the parts against each other, ``finding`` knows where profiles lie,
``kernels`` knows what a CPU does with products of integers, ``machine`` looks at a machine, ``detection`` proposes a
profile for it, and ``installed`` finds ONNX Runtime. ``hw_profiles/README.md`` lists every key.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.hardware.detection import Proposal, propose
    from fieldtune.hardware.finding import FOLDERS_VARIABLE, load_profile, load_profiles, profile_names, profile_path
    from fieldtune.hardware.installed import (
        RuntimeFeatures,
        check_installed,
        features,
        installed_runtimes,
        load_runtime,
        release,
    )
    from fieldtune.hardware.kernels import IntegerKernels, integer_kernels, kernel_advice
    from fieldtune.hardware.machine import (
        MachineFacts,
        environment,
        instruction_sets,
        machine_facts,
        processor_name,
        usable_cores,
    )
    from fieldtune.hardware.on_missing import OnMissing
    from fieldtune.hardware.reading import read_profile
    from fieldtune.hardware.specs import (
        CPU_PROVIDER,
        Accelerator,
        Activation,
        Architecture,
        ArenaExtend,
        Backend,
        CpuSpec,
        DetectSpec,
        DpuLimits,
        ExecutionSpec,
        GraphOptimization,
        HardwareProfile,
        MemorySpec,
        RuntimeSpec,
        Source,
        TrainingSpec,
    )
    from fieldtune.hardware.stacks import CACHE_VARIABLES, STACKS

__all__ = [
    "CACHE_VARIABLES",
    "CPU_PROVIDER",
    "FOLDERS_VARIABLE",
    "STACKS",
    "Accelerator",
    "Activation",
    "Architecture",
    "ArenaExtend",
    "Backend",
    "CpuSpec",
    "DetectSpec",
    "DpuLimits",
    "ExecutionSpec",
    "GraphOptimization",
    "HardwareProfile",
    "IntegerKernels",
    "MachineFacts",
    "MemorySpec",
    "OnMissing",
    "Proposal",
    "RuntimeFeatures",
    "RuntimeSpec",
    "Source",
    "TrainingSpec",
    "check_installed",
    "environment",
    "features",
    "installed_runtimes",
    "instruction_sets",
    "integer_kernels",
    "kernel_advice",
    "load_profile",
    "load_profiles",
    "load_runtime",
    "machine_facts",
    "processor_name",
    "profile_names",
    "profile_path",
    "propose",
    "read_profile",
    "release",
    "usable_cores",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "detection": (
                "Proposal",
                "propose",
            ),
            "finding": (
                "FOLDERS_VARIABLE",
                "load_profile",
                "load_profiles",
                "profile_names",
                "profile_path",
            ),
            "installed": (
                "RuntimeFeatures",
                "check_installed",
                "features",
                "installed_runtimes",
                "load_runtime",
                "release",
            ),
            "kernels": (
                "IntegerKernels",
                "integer_kernels",
                "kernel_advice",
            ),
            "machine": (
                "MachineFacts",
                "environment",
                "instruction_sets",
                "machine_facts",
                "processor_name",
                "usable_cores",
            ),
            "on_missing": ("OnMissing",),
            "reading": ("read_profile",),
            "specs": (
                "CPU_PROVIDER",
                "Accelerator",
                "Activation",
                "Architecture",
                "ArenaExtend",
                "Backend",
                "CpuSpec",
                "DetectSpec",
                "DpuLimits",
                "ExecutionSpec",
                "GraphOptimization",
                "HardwareProfile",
                "MemorySpec",
                "RuntimeSpec",
                "Source",
                "TrainingSpec",
            ),
            "stacks": (
                "CACHE_VARIABLES",
                "STACKS",
            ),
        },
    )
