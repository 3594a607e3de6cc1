"""Whether an adapter fits a bundle: base, task, targets, shapes, ranks, labels; every mismatch at once."""

from fieldtune.adapters.adapter import Adapter, adapted_modules, same_parameter
from fieldtune.adapters.methods import Method, method_named, method_of
from fieldtune.adapters.tensors import FLOAT_DTYPES
from fieldtune.bundle import RANK, Manifest, ParameterSpec
from fieldtune.errors import AdapterMismatch, listed


def check_fits(adapter: Adapter, manifest: Manifest, *, for_training: bool) -> None:
    """Check that an adapter can be served by a bundle, or trained further with it.

    Serving takes any rank and alpha; training only the bundle's own, which its gradient graph has built in.

    Raises:
        AdapterMismatch: it does not fit; every mismatch is listed.
        InvalidAdapter: a setting of adapter_config.json has another type.
        InvalidBundle: the bundle's method is not known.
    """
    if manifest.merged and adapter.tensors.tensors:
        raise AdapterMismatch(
            f"{adapter.where}: cannot be used with this bundle of {manifest.base.id}, which has the adapter "
            f"{manifest.merged.adapter} merged into its weights; name the bundle that it was merged from"
        )
    method = method_named(manifest.method, manifest.base.id)
    others = _method_faults(adapter, manifest, method)
    faults = [
        *others,
        *_origin_faults(adapter, manifest),
        *_missing(adapter, manifest, method, for_training=for_training),
        *_extra(adapter, manifest, method),
        *_shape_faults(adapter, manifest),
    ]
    if not others:
        # What the settings of another method say of ranks is no fault of their own.
        faults += method.rank_faults(adapter, adapted_modules(manifest))
        faults += method.training_faults(adapter, manifest) if for_training else []
    if faults:
        raise AdapterMismatch(
            f"{adapter.where}: does not fit the bundle of {manifest.base.id}; "
            f"{len(faults)} mismatch(es){listed(faults)}"
        )


def _method_faults(adapter: Adapter, manifest: Manifest, method: Method) -> list[str]:
    own = method_of(adapter.config)
    if manifest.merged or own is method:
        return []
    kind = own.title if own else f"the type {adapter.config.get('peft_type')!r}"
    return [f"an adapter of {kind}; the bundle was built for {method.title}"]


def _origin_faults(adapter: Adapter, manifest: Manifest) -> list[str]:
    faults: list[str] = []
    card, task = adapter.card, manifest.task
    if card and card.base_sha256 and card.base_sha256 != manifest.base.sha256:
        faults.append(
            f"trained on another base model (sha256 {card.base_sha256[:12]}…; "
            f"the bundle's base has {manifest.base.sha256[:12]}…)"
        )
    if card and card.task != task.name:
        faults.append(f"trained for the task {card.task}; the bundle's is {task.name}")
    if card and len(card.labels) != len(task.labels):
        faults.append(f"{_labels(card.labels)}; the bundle has {_labels(task.labels)}")
    for key in ("task_type", "ensure_weight_tying"):
        ours, theirs = adapter.config.get(key), manifest.peft_config.get(key)
        if ours != theirs and None not in (ours, theirs):
            faults.append(f"{key} is {ours!r} in adapter_config.json; the bundle was built with {theirs!r}")
    return faults


def _missing(adapter: Adapter, manifest: Manifest, method: Method, *, for_training: bool) -> list[str]:
    def may_lack(parameter: ParameterSpec) -> bool:
        return not for_training and parameter.optional and method.may_lack(adapter.config, parameter)

    return [
        f"{p.key}: missing; the bundle trains it with {p.module}"
        for p in manifest.layout.parameters
        if p.key not in adapter.tensors.tensors and not may_lack(p)
    ]


def _extra(adapter: Adapter, manifest: Manifest, method: Method) -> list[str]:
    known = {same_parameter(p.key) for p in manifest.layout.parameters}
    copies = method.copies(manifest)
    same_base = adapter.card is not None and adapter.card.base_sha256 == manifest.base.sha256
    faults = []
    for key in adapter.tensors.tensors:
        # A head's original_module is what the saved head stands in for: no forward pass reads it.
        if same_parameter(key) in known or ".original_module." in key:
            continue
        if key not in copies:
            faults.append(f"{key}: the bundle has no such part of an adapter")
        elif not same_base:
            faults.append(
                f"{key}: a copy of a base weight, which may not be the bundle's; "
                "save the adapter with save_embedding_layers=False"
            )
    return faults


def _shape_faults(adapter: Adapter, manifest: Manifest) -> list[str]:
    labels = manifest.task.labels
    faults = []
    for p in manifest.layout.parameters:
        stored = adapter.tensors.tensors.get(p.key)
        if stored is None:
            continue
        if stored.dtype not in FLOAT_DTYPES:
            faults.append(f"{p.key}: dtype {stored.dtype}; expected one of {', '.join(FLOAT_DTYPES)}")
        expected = _with_rank(p.shape, p.rank_axis)
        if _with_rank(stored.shape, p.rank_axis) == expected:
            continue
        fault = f"{p.key}: shape {_shape(stored.shape)}; expected {_shape(expected)}"
        if p.replaces is None:
            fault += f": another {_other_axes(stored.shape, p)}"
        elif labels and p.shape[0] == len(labels) and stored.shape[1:] == p.shape[1:]:
            fault += f": {stored.shape[0]} label(s); the bundle has {_labels(labels)}"
        faults.append(fault)
    return faults


def _with_rank(shape: tuple[int, ...], axis: int | None) -> tuple[int | str, ...]:
    return tuple(RANK if index == axis else size for index, size in enumerate(shape))


def _other_axes(shape: tuple[int, ...], parameter: ParameterSpec) -> str:
    """Return the names of the axes that differ; where their number does, of all but the rank."""
    known = list(zip(parameter.axes, parameter.shape, strict=True))
    if len(shape) == len(known):
        known = [named for named, size in zip(known, shape, strict=True) if named[1] != size]
    return " and ".join(axis for axis, _ in known if axis != RANK)


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _labels(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} label(s) ({', '.join(labels)})" if labels else "no labels"
