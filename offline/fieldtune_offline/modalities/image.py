"""How a vision model's images become tensors: from preprocessor_config.json, as transformers writes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldtune.bundle import ImageSpec, Resample
from fieldtune.errors import UnsupportedModel

_FILE = "preprocessor_config.json"
_RESAMPLES: dict[int, Resample] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of them."""


def image_spec(model: str, config: Any) -> ImageSpec:
    """Return how the images of a model directory are prepared.

    Raises:
        UnsupportedModel: no preprocessor_config.json, or one that asks for what devices do not do.
    """
    path = Path(model) / _FILE
    if not path.is_file():
        raise UnsupportedModel(f"{model}: no {_FILE}, which says how images are resized and normalized")
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModel(f"{path}: not JSON: {error}") from error
    channels = int(getattr(config, "num_channels", 3))
    height, width, resize = _sizes(settings, path)
    rescale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not abs(rescale * 255 - 1) < 1e-6:
        raise UnsupportedModel(f"{path}: rescale_factor is {rescale}; only 1/255 is supported")
    resample = _RESAMPLES.get(settings.get("resample", 2))
    if resample is None:
        known = ", ".join(f"{number} ({name})" for number, name in _RESAMPLES.items())
        raise UnsupportedModel(f"{path}: resample is {settings['resample']}; supported: {known}")
    normalized = settings.get("do_normalize", True)
    return ImageSpec(
        height=height,
        width=width,
        channels=channels,
        resize=resize,
        resample=resample,
        mean=_of_channels(settings, "image_mean", channels, path) if normalized else (0.0,) * channels,
        std=_of_channels(settings, "image_std", channels, path) if normalized else (1.0,) * channels,
    )


def _sizes(settings: Mapping[str, Any], path: Path) -> tuple[int, int, int | None]:
    """Return height, width, and the shorter edge that images are resized to before they are cut."""
    unknown = [key for key in ("rescale_offset", "include_top", "do_pad") if settings.get(key)]
    if not settings.get("do_resize", True):
        unknown.append("do_resize: false")
    if unknown:
        raise UnsupportedModel(f"{path}: {', '.join(unknown)}: not done on devices")
    height, width = _size(settings.get("size"), path)
    if settings.get("do_center_crop"):
        cut_height, cut_width = _size(settings.get("crop_size"), path)
        if cut_width is None:
            raise UnsupportedModel(f"{path}: crop_size is {settings.get('crop_size')}; expected height and width")
        if width is None:
            return cut_height, cut_width, height
        if (height, width) != (cut_height, cut_width):
            raise UnsupportedModel(
                f"{path}: images are resized to {height} x {width} without regard to their form and then cut; only a "
                "shortest_edge is supported before a cut"
            )
    if width is not None:
        return height, width, None
    # ConvNeXT's way: below 384 pixels the image is resized by 1 / crop_pct and its centre cut out; from there on it is
    # resized without regard to its form.
    percent = settings.get("crop_pct")
    if percent and height >= 384:
        return height, height, None
    return height, height, int(height / percent) if percent else height


def _size(value: Any, path: Path) -> tuple[int, int | None]:
    """Return height and width, or the shorter edge and None."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping):
        if "height" in value and "width" in value:
            return int(value["height"]), int(value["width"])
        if "shortest_edge" in value:
            return int(value["shortest_edge"]), None
    raise UnsupportedModel(f"{path}: size is {value}; expected height and width, or shortest_edge")


def _of_channels(settings: Mapping[str, Any], key: str, channels: int, path: Path) -> tuple[float, ...]:
    values = settings.get(key)
    values = list(values) if isinstance(values, list | tuple) else [values] * channels
    if len(values) != channels or not all(isinstance(value, int | float) for value in values):
        raise UnsupportedModel(f"{path}: {key} is {settings.get(key)}; expected {channels} numbers, one a channel")
    return tuple(float(value) for value in values)
