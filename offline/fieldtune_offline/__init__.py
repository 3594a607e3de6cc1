"""fieldtune on the dev box: turn a Hugging Face model into a bundle that devices adapt and serve."""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune_offline.build import build_bundle
    from fieldtune_offline.spec import BuildSpec, MethodSpec

__all__ = ["BuildSpec", "MethodSpec", "build_bundle"]

__getattr__ = lazy_names(
    __name__,
    {
        "build": ("build_bundle",),
        "spec": ("BuildSpec", "MethodSpec"),
    },
)
