"""The identity of an open prefix: a digest of all that its outputs depend on beside what it is fed with."""

import platform

from fieldtune.bundle import Bundle
from fieldtune.compilation.kept.key import digest_of, model_digest, option_digest
from fieldtune.compilation.kept.versions import driver_version, provider_version
from fieldtune.files import json_value
from fieldtune.hardware import CPU_PROVIDER, features, instruction_sets, usable_cores
from fieldtune.placement import PlacementReport
from fieldtune.runtime import ProviderChoice


def prefix_identity(bundle: Bundle, opened_with: ProviderChoice, report: PlacementReport) -> str:
    """Return the digest of graph, weights, placement, and how ONNX Runtime and its provider compute.

    Args:
        bundle: of the prefix.
        opened_with: as its session was opened.
        report: where it runs; of a compiled one, as it was read back.

    Raises:
        InvalidBundle: the graph's weights lie in a file that is not the bundle's.
    """
    parts = {
        "model": model_digest(bundle, report.graph),
        "provider": report.actual,
        "emulated": report.emulated,
        "compiled": report.cache_identity,
        "shares": json_value(report.shares),
        "partitions": report.partitions,
        "runtime": features().version,
        "batch": report.batch,
        "settings": json_value(opened_with.session_settings),
        # Kernels are chosen by the processor, and work is divided among its cores where no number of threads is set.
        "machine": platform.machine(),
        "instructions": instruction_sets(),
        "cores": 0 if opened_with.session_settings.intra_op_threads else usable_cores(),
    }
    if not report.cache_identity:
        # What is compiled has these in its key, under the names that the profile gives them.
        parts |= {
            "options": {name: option_digest(value) for name, value in opened_with.options.items()},
            "provider_version": provider_version(opened_with),
            "driver": "" if report.actual == CPU_PROVIDER else driver_version(),
        }
    return digest_of(parts)
