"""The arena that takes no more memory than it is asked for: one for all sessions of the process that want it."""

import functools

from fieldtune.errors import FieldtuneError
from fieldtune.hardware import load_runtime

_AS_REQUESTED = 1  # onnxruntime_c_api.h, OrtArenaCfg: 0 is the next power of two, 1 is what is requested
_DEFAULT = -1
_NO_LIMIT = 0


@functools.cache
def register_shared_arena() -> None:
    """Give ONNX Runtime's environment a CPU arena that grows as requested; later calls find it there.

    A session's own arena takes no such setting; it uses this one where ``session.use_env_allocators`` is 1.

    Raises:
        FieldtuneError: another part of the program has registered a CPU allocator already.
        ProviderUnavailable: there is no ONNX Runtime.
    """
    runtime = load_runtime()
    memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    growth = runtime.OrtArenaCfg(_NO_LIMIT, _AS_REQUESTED, _DEFAULT, _DEFAULT)
    try:
        runtime.create_and_register_allocator(memory, growth)
    except Exception as error:  # its own classes differ between versions
        raise FieldtuneError(
            f"ONNX Runtime takes no arena that grows as requested ({error}); a program may register one allocator for "
            'the CPU: leave that to fieldtune, or use a profile with arena_extend = "power-of-two"'
        ) from error
