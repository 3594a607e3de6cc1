"""Loading the base: a torch model in float32 with its tokenizer, and what the checkpoint says of itself."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldtune.adapters import read_adapter
from fieldtune.bundle import ImageSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.modalities.image import image_spec
from fieldtune_offline.precisions.holding import hold_base, matrix_layers, weight_of
from fieldtune_offline.precisions.quantized_checkpoints import places_of, quantized_recipe, read_quantized
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.interface import Task

_STORED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
_WHOLE_NUMBERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"}


@dataclasses.dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base.

    Attributes:
        model: in evaluation mode, float32, eager attention, no key-value cache by default; its layers may hold their
            matrices in parts.
        tokenizer: a fast transformers tokenizer; None of a vision model.
        image: how images become its input; None of a language model.
        new_modules: names of modules that the checkpoint does not have and that were initialized anew.
        sha256: over names, dtypes, shapes and bytes of the checkpoint's own tensors as loaded.
        dtypes: tensor name → dtype in the checkpoint, where it is not float32.
        licence: as the model card's front matter has it.
    """

    model: Any
    tokenizer: Any | None
    image: ImageSpec | None
    new_modules: tuple[str, ...]
    sha256: str
    dtypes: Mapping[str, str]
    licence: str | None


def load_base(spec: BuildSpec, task: type[Task], *, held: bool = False) -> BaseModel:
    """Load model and tokenizer.

    Args:
        spec: what to build.
        task: says which class of model.
        held: whether layers hold their matrices as the checkpoint stores them, mapped from its files where it has one
            dtype throughout; the model is frozen then. Those of a quantized checkpoint always do.

    Raises:
        UnsupportedModel: not a model directory, a model without a class for the task, or without a fast tokenizer.
    """
    from transformers import AutoConfig

    _check_folder(spec.model)
    _check_code(spec)
    state, matrices = read_quantized(Path(spec.model)) if quantized_recipe(Path(spec.model)) else (None, [])
    labels = spec.labels or _adapter_labels(spec.adapter)
    task.check_labels(labels)
    settings: dict[str, Any] = {}
    if labels:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: index for index, label in settings["id2label"].items()}
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(spec.model, trust_remote_code=spec.trust_remote_code, **settings)
            model, info = _load_model(spec, task.name, config, state, held=held)
    except Exception as error:  # transformers, its parsers and the models' own code raise errors of every kind
        raise UnsupportedModel(f"{spec.model}: cannot be loaded for {task.name}: {_first_line(error)}") from error
    images = task.modality == "image"
    task.check_config(config, spec.model)
    model.eval()
    model.config.use_cache = False
    if held or matrices:
        hold_base(model.requires_grad_(False), places_of(matrices, model))
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return BaseModel(
        model=model,
        tokenizer=None if images else _load_tokenizer(spec.model),
        image=image_spec(spec.model, config) if images else None,
        new_modules=_modules_of(missing, model),
        sha256=_digest(model, missing),
        dtypes={name: dtype for name, dtype in _stored_dtypes(Path(spec.model)).items() if dtype != "F32"},
        licence=_licence(Path(spec.model)),
    )


def _load_tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(model, use_fast=True)
    except Exception as error:  # as above
        raise UnsupportedModel(f"{model}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    # Without a file, transformers makes up a tokenizer that knows its special tokens only.
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UnsupportedModel(f"{model}: has no fast tokenizer (tokenizer.json), which devices need")
    return tokenizer


def _adapter_labels(adapter: Path | None) -> tuple[str, ...]:
    """Return the names of the classes that an adapter's card gives its head; none where PEFT alone has written it."""
    card = read_adapter(adapter).card if adapter else None
    return card.labels if card else ()


def _check_folder(model: str) -> None:
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UnsupportedModel(f"{model}: not a model directory: no config.json in it (found: {held})")
    if not folder.exists() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise UnsupportedModel(f"{model}: no such folder; expected a model directory in transformers' format")
    if folder.is_file():
        raise UnsupportedModel(f"{model}: a file; expected a model directory in transformers' format")


def _check_code(spec: BuildSpec) -> None:
    """Refuse a directory whose config.json names code of its own, unless the caller trusts it."""
    path = Path(spec.model) / "config.json"
    if spec.trust_remote_code or not path.is_file():
        return
    try:
        code = json.loads(path.read_text(encoding="utf-8")).get("auto_map")
    except (ValueError, AttributeError):
        return  # transformers says what is wrong with it
    if code:
        raise UnsupportedModel(
            f"{spec.model}: brings Python code of its own ({', '.join(sorted(set(code.values())))}), which is run only "
            "with --trust-remote-code"
        )


def _load_model(
    spec: BuildSpec, task: str, config: Any, state: dict[str, torch.Tensor] | None, *, held: bool
) -> tuple[Any, dict[str, Any]]:
    from optimum.exporters.tasks import TasksManager

    torch.manual_seed(spec.seed)  # a new head repeats
    loader = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    source: str | None = spec.model
    if state is not None:
        source, loader = None, _class_of(loader, config)
    with _matrices_as_stored(Path(spec.model)) if held else contextlib.nullcontext():
        model, info = loader.from_pretrained(
            source,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation="eager",  # the only one whose graph is plain products and a softmax
            ignore_mismatched_sizes=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
    if state is not None and model.can_generate():
        model.generation_config = _generation_config(spec.model, model)
    return model, info


def _class_of(loader: Any, config: Any) -> Any:
    """Return the class that an Auto class stands for, which takes tensors in place of a folder."""
    del config.quantization_config  # as if there were no library to load it with
    with torch.device("meta"):
        return type(loader.from_config(config))


def _generation_config(folder: str, model: Any) -> Any:
    from transformers import GenerationConfig

    if (Path(folder) / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return model.generation_config


@contextlib.contextmanager
def _matrices_as_stored(folder: Path) -> Iterator[None]:
    """Have transformers leave matrices in the one dtype that a checkpoint has, so that it maps and does not copy them.

    All else comes in float32. Where transformers has no such plan, or the checkpoint several dtypes, matrices are in
    float32, too: it takes more memory, and is the same.
    """
    from transformers import PreTrainedModel

    dtype = _STORED_DTYPES.get(_only_dtype(folder) or "")
    plan = "_get_dtype_plan"
    plan_of = getattr(PreTrainedModel, plan, None)
    if dtype is None or plan_of is None:
        yield
        return

    def planned(self: Any, default: torch.dtype) -> dict[str, torch.dtype]:
        names = "|".join(re.escape(f"{name}.weight") for name, _ in matrix_layers(self))
        return {**plan_of(self, default), f"^(?:{names})$": dtype}

    setattr(PreTrainedModel, plan, planned)
    try:
        yield
    finally:
        setattr(PreTrainedModel, plan, plan_of)


def _only_dtype(folder: Path) -> str | None:
    """Return the dtype of all tensors of a checkpoint that hold floating-point numbers; None where they differ."""
    found = {dtype for dtype in _stored_dtypes(folder).values() if dtype not in _WHOLE_NUMBERS}
    return found.pop() if len(found) == 1 else None


def _modules_of(keys: list[str], model: nn.Module) -> tuple[str, ...]:
    """The outermost module of each tensor that the checkpoint lacks, as modules_to_save names it."""
    backbone = getattr(model, "base_model_prefix", "")
    roots = {key.split(".")[0] for key in keys}
    if backbone in roots:
        lost = [key for key in keys if key.split(".")[0] == backbone]
        # A pooler that the checkpoint never had is trained with the head; anything else is a broken checkpoint.
        inner = {".".join(key.split(".")[:2]) for key in lost}
        if any(not name.endswith("pooler") for name in inner):
            raise UnsupportedModel(f"the checkpoint lacks weights of its own backbone: {', '.join(lost[:5])}")
        roots = (roots - {backbone}) | {name.split(".")[1] for name in inner}
    return tuple(sorted(roots))


def _digest(model: nn.Module, missing: list[str]) -> str:
    digest = hashlib.sha256()
    layers = dict(matrix_layers(model))
    for name, tensor in sorted(model.state_dict().items()):
        if name in missing:
            continue
        layer = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        data = (tensor.detach() if layer is None else weight_of(layer)).contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        array: Any = data.numpy()
        digest.update(memoryview(array).cast("B") if data.numel() else b"")
    return digest.hexdigest()


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """Return the dtype of each tensor of a checkpoint, as safetensors calls it."""
    from safetensors import safe_open

    dtypes: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                dtypes[name] = tensors.get_slice(name).get_dtype()
    return dtypes


def _licence(folder: Path) -> str | None:
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.partition(":")[2].strip().strip("\"'") or None
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
