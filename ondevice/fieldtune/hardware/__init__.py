"""Hardware profiles: what a device is and how it should be used, one hand-written TOML file a device.

``specs`` holds what a profile says, ``reading`` turns TOML into it, ``stacks`` knows the options of the Vitis AI
provider's software stacks, ``fit`` checks the parts against each other, ``finding`` knows where profiles lie,
``machine`` looks at a machine and ``detection`` proposes a profile for it. ``hw_profiles/README.md`` lists every key.
"""

from fieldtune.hardware.finding import FOLDERS_VARIABLE, load_profile, load_profiles, profile_names, profile_path
from fieldtune.hardware.reading import FORMAT_VERSION, read_profile
from fieldtune.hardware.specs import (
    Accelerator,
    Activation,
    ActivationType,
    Architecture,
    ArenaExtend,
    CpuSpec,
    DetectSpec,
    DpuLimits,
    ExecutionSpec,
    Family,
    GraphOptimization,
    HardwareProfile,
    MemorySpec,
    Precision,
    RuntimeSpec,
    Source,
    StackName,
    Support,
    TrainingSpec,
)

__all__ = [
    "FOLDERS_VARIABLE",
    "FORMAT_VERSION",
    "Accelerator",
    "Activation",
    "ActivationType",
    "Architecture",
    "ArenaExtend",
    "CpuSpec",
    "DetectSpec",
    "DpuLimits",
    "ExecutionSpec",
    "Family",
    "GraphOptimization",
    "HardwareProfile",
    "MemorySpec",
    "Precision",
    "RuntimeSpec",
    "Source",
    "StackName",
    "Support",
    "TrainingSpec",
    "load_profile",
    "load_profiles",
    "profile_names",
    "profile_path",
    "read_profile",
]
