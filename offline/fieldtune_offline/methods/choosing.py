"""Which method a build is asked for, and whether the settings that come with it are its own."""

from fieldtune.adapters import methods as device
from fieldtune.adapters import read_adapter
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.methods.peft_config import read_config
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.spec import BuildSpec, MethodSpec, changed, flags

_OF_ALL = frozenset({"name", "target_modules", "modules_to_save", "peft_config"})


def chosen_method(spec: BuildSpec) -> Method:
    """Return the method that is named, or else the one that ``--peft-config`` or ``--adapter`` is of.

    Raises:
        ValueError: no such method, one that contradicts the file, or settings that it does not have.
        UnsupportedModel: a ``--peft-config`` that is none, or of a type that is not supported.
        InvalidAdapter: ``spec.adapter`` is no adapter.
    """
    method = _chosen(spec)
    _check_settings(spec.method, method)
    return method


def _chosen(spec: BuildSpec) -> Method:
    stated = method_named(spec.method.name or device.DEFAULT)
    if spec.adapter is not None:
        config, where = read_adapter(spec.adapter).config, spec.adapter
    elif spec.method.peft_config is not None:
        # A file may leave out what the flags say, the type included.
        where = spec.method.peft_config
        known = {"peft_type": device.method_named(stated.name).peft_type, **stated.fields(spec.method)}
        config = {**known, **read_config(where)}
    else:
        return stated
    of_file = device.method_of(config)
    if of_file is None:
        types = ", ".join(dict.fromkeys(method.peft_type for method in device.all_methods()))
        raise UnsupportedModel(f"{where}: peft_type is {config['peft_type']}; only {types} is supported")
    if spec.method.name not in (None, of_file.name):
        raise ValueError(f"--method {spec.method.name}, and {where} is of {of_file.title}: leave --method out")
    return method_named(of_file.name)


def _check_settings(spec: MethodSpec, method: Method) -> None:
    foreign = [name for name in changed(spec) if name not in _OF_ALL | method.settings]
    if foreign:
        raise ValueError(f"{flags(spec, foreign)}: {method.title} has no such setting; leave it out")
    if spec.bias is not None and spec.bias not in method.biases:
        raise ValueError(f"bias is {spec.bias!r}; {method.title} knows {', '.join(method.biases)}")
