"""Hardware profiles: what a device is and how it should be used, one hand-written TOML file a device.

``specs`` holds what a profile says, ``reading`` turns TOML into it, ``stacks`` knows the options of the Vitis AI
provider's software stacks, ``fit`` checks the parts against each other, ``finding`` knows where profiles lie,
``machine`` looks at a machine, ``detection`` proposes a profile for it, and ``installed`` finds ONNX Runtime.
``hw_profiles/README.md`` lists every key. The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.hardware.finding import FOLDERS_VARIABLE, load_profile, load_profiles, profile_names, profile_path
    from fieldtune.hardware.reading import FORMAT_VERSION, read_profile
    from fieldtune.hardware.specs import (
        Accelerator,
        Activation,
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

__getattr__ = lazy_names(
    __name__,
    {
        "Accelerator": "fieldtune.hardware.specs",
        "Activation": "fieldtune.hardware.specs",
        "Architecture": "fieldtune.hardware.specs",
        "ArenaExtend": "fieldtune.hardware.specs",
        "CpuSpec": "fieldtune.hardware.specs",
        "DetectSpec": "fieldtune.hardware.specs",
        "DpuLimits": "fieldtune.hardware.specs",
        "ExecutionSpec": "fieldtune.hardware.specs",
        "FOLDERS_VARIABLE": "fieldtune.hardware.finding",
        "FORMAT_VERSION": "fieldtune.hardware.reading",
        "Family": "fieldtune.hardware.specs",
        "GraphOptimization": "fieldtune.hardware.specs",
        "HardwareProfile": "fieldtune.hardware.specs",
        "MemorySpec": "fieldtune.hardware.specs",
        "RuntimeSpec": "fieldtune.hardware.specs",
        "Source": "fieldtune.hardware.specs",
        "StackName": "fieldtune.hardware.specs",
        "Support": "fieldtune.hardware.specs",
        "TrainingSpec": "fieldtune.hardware.specs",
        "load_profile": "fieldtune.hardware.finding",
        "load_profiles": "fieldtune.hardware.finding",
        "profile_names": "fieldtune.hardware.finding",
        "profile_path": "fieldtune.hardware.finding",
        "read_profile": "fieldtune.hardware.reading",
    },
)
