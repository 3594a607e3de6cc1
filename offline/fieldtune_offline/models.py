"""Loading the base: a torch model in float32 with its tokenizer, and what the checkpoint says of itself."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldtune.adapters import read_adapter
from fieldtune.bundle import ImageSpec
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.modalities.image import image_spec
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.tasks.interface import Task


@dataclasses.dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base.

    Attributes:
        model: in evaluation mode, float32, eager attention, no key-value cache by default.
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


def load_base(spec: BuildSpec, task: type[Task]) -> BaseModel:
    """Load model and tokenizer.

    Raises:
        UnsupportedModel: not a model directory, a model without a class for the task, or without a fast tokenizer.
    """
    from transformers import AutoConfig

    _check_folder(spec.model)
    _check_code(spec)
    labels = spec.labels or _adapter_labels(spec.adapter)
    task.check_labels(labels)
    settings: dict[str, Any] = {}
    if labels:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: index for index, label in settings["id2label"].items()}
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(spec.model, trust_remote_code=spec.trust_remote_code, **settings)
            model, info = _load_model(spec, task.name, config)
    except Exception as error:  # transformers, its parsers and the models' own code raise errors of every kind
        raise UnsupportedModel(f"{spec.model}: cannot be loaded for {task.name}: {_first_line(error)}") from error
    images = task.modality == "image"
    task.check_config(config, spec.model)
    model.eval()
    model.config.use_cache = False
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return BaseModel(
        model=model,
        tokenizer=None if images else _load_tokenizer(spec.model),
        image=image_spec(spec.model, config) if images else None,
        new_modules=_modules_of(missing, model),
        sha256=_digest(model, missing),
        dtypes=_checkpoint_dtypes(Path(spec.model)),
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


def _load_model(spec: BuildSpec, task: str, config: Any) -> tuple[Any, dict[str, Any]]:
    from optimum.exporters.tasks import TasksManager

    torch.manual_seed(spec.seed)  # a new head repeats
    loader = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    model, info = loader.from_pretrained(
        spec.model,
        config=config,
        dtype=torch.float32,
        attn_implementation="eager",  # the only one whose graph is plain products and a softmax
        ignore_mismatched_sizes=True,
        trust_remote_code=spec.trust_remote_code,
        output_loading_info=True,
    )
    return model, info


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
    for name, tensor in sorted(model.state_dict().items()):
        if name in missing:
            continue
        data = tensor.detach().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(memoryview(data.numpy()).cast("B") if data.numel() else b"")
    return digest.hexdigest()


def _checkpoint_dtypes(folder: Path) -> dict[str, str]:
    from safetensors import safe_open

    dtypes: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                dtype = tensors.get_slice(name).get_dtype()
                if dtype != "F32":
                    dtypes[name] = dtype
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
