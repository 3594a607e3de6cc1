"""Image files and arrays into pixels as a bundle's graphs take them: upright, resized, cut, and still of uint8.

Pillow reads the files and resizes. It is imported only for that: arrays of the right size need none of it.
"""

import dataclasses
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import IGNORE_INDEX, ImageSpec
from fieldtune.data.examples import Encoded
from fieldtune.errors import FieldtuneError, InvalidData, listed

if TYPE_CHECKING:
    import PIL.Image

Pixels: TypeAlias = npt.NDArray[np.uint8]

ARRAY_SUFFIX = ".npy"
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow is asked to read: what cameras and data sets hold. Its other readers, EPS among them, run other programs
or are seldom used, and would only widen what a hostile file can reach."""
SUFFIXES = (
    ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    ARRAY_SUFFIX,
)  # fmt: skip
"""By which images are told from other files in a folder; a file that is named alone may have any."""
MOST_PIXELS = 64_000_000
"""Of one image, before and after it is resized: 192 MB of memory. A file of a few bytes can claim far more."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageExample:
    """An image's file and the index of its class; None where it is to be found out.

    ``where`` is the ``file:line`` that names it, if a file does.
    """

    path: Path
    label: int | None = None
    where: str = dataclasses.field(default="", compare=False)


def encoded_image(pixels: Pixels, label: int | None = None) -> Encoded:
    """Return an image as the graphs take it.

    Args:
        pixels: uint8, shape (channels, height, width).
        label: the index of its class; None where it is unknown.
    """
    labels = np.array(IGNORE_INDEX if label is None else label, np.int64)
    return Encoded(arrays={"pixel_values": pixels, "labels": labels}, weight=0 if label is None else 1)


def load_images(sources: Sequence[tuple[str, Path | npt.NDArray[np.uint8]]], image: ImageSpec) -> list[Pixels]:
    """Read images, each a file or an array, with what messages call it before the file's own name ("" for nothing).

    Raises:
        InvalidData: every one that cannot be used is named, up to 20.
        FieldtuneError: Pillow is needed and is not installed.
    """
    loaded: list[Pixels] = []
    faults: list[str] = []
    for where, source in sources:
        pixels = _loaded(source, image)
        if isinstance(pixels, str):
            faults.append(f"{where}: {pixels}" if where else pixels)
        else:
            loaded.append(pixels)
    if faults:
        count = "1 image" if len(faults) == 1 else f"{len(faults)} images"
        raise InvalidData(f"{count} of {len(sources)} cannot be used{listed(faults)}")
    return loaded


def read_image(path: Path, image: ImageSpec) -> Pixels:
    """Read an image file, the first picture of several, turned as its EXIF orientation says.

    Transparent parts become white: whatever colour a file holds where nothing is to be seen was chosen by nobody.

    Args:
        path: of a .npy file as ``fit_image`` takes it, or of an image of one of FORMATS.
        image: the bundle's.

    Returns:
        uint8, shape (channels, height, width).

    Raises:
        InvalidData: it cannot be read, is damaged, has more than 8 bits a channel or more than MOST_PIXELS.
        FieldtuneError: Pillow is needed and is not installed.
    """
    if not is_file(path):
        raise InvalidData(f"{path}: {'a folder' if is_folder(path) else 'no such file'}; expected an image")
    try:
        pixels = _read_array(path) if path.suffix.lower() == ARRAY_SUFFIX else _read_picture(path, image.channels)
        return fit_image(pixels, image)
    except InvalidData as error:
        raise InvalidData(f"{path}: {error}") from error


def fit_image(pixels: npt.NDArray[np.uint8], image: ImageSpec) -> Pixels:
    """Bring an image to the channels and the size that the graphs take, as ImageSpec says.

    Grey becomes RGB of equal parts, RGB the grey of ITU-R BT.601. What is smaller than the cut gets a black margin.

    Args:
        pixels: uint8, shape (height, width) or (height, width, channels), with 1 channel (grey) or 3 (RGB).
        image: the bundle's.

    Returns:
        uint8, shape (channels, height, width).

    Raises:
        InvalidData: another dtype or shape, or more than MOST_PIXELS before or after resizing.
        FieldtuneError: it has to be resized, and Pillow is not installed.
    """
    _check_array(pixels.dtype, pixels.shape)
    height, width = pixels.shape[:2]
    converted = _with_channels(pixels.reshape(height, width, -1), image.channels)
    target = _target_size(height, width, image)
    if target != (height, width):
        _check_size(*target, of=f"{height} by {width} pixels, which resized are ")
        converted = _resized(converted, *target, image)
    return np.ascontiguousarray(_centre(converted, image.height, image.width).transpose(2, 0, 1))


def normalize(pixels: Pixels, image: ImageSpec) -> npt.NDArray[np.float32]:
    """Return (pixels / 255 - mean) / std, for each channel its own, as float32 of the same shape.

    Args:
        pixels: uint8, shape (batch, channels, height, width).
        image: the bundle's.
    """
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (image.mean, image.std))
    values = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= mean
    values /= std
    return values


def is_file(path: Path) -> bool:
    """Say whether there is such a file: not if no file can have the name, as when a long text is taken for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Say whether there is such a folder, as ``is_file`` does."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _loaded(source: Path | npt.NDArray[np.uint8], image: ImageSpec) -> Pixels | str:
    """Return the image, or what is wrong with it."""
    try:
        return read_image(source, image) if isinstance(source, Path) else fit_image(source, image)
    except InvalidData as error:
        return str(error)


def _read_array(path: Path) -> Pixels:
    try:
        with path.open("rb") as file:
            # Later versions of the format are for dtypes that images do not have.
            if np.lib.format.read_magic(file) != (1, 0):
                raise InvalidData("a NumPy array, but not in version 1.0 of its format; save it again as uint8")
            # By hand, and not by np.load: before any memory is asked for, what the header claims is checked.
            shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
            _check_array(dtype, shape)
            pixels = np.fromfile(file, np.uint8, math.prod(shape))
        return pixels.reshape(shape, order="F" if columns_first else "C")
    except InvalidData:
        raise
    except Exception as error:
        # NumPy reads a header as Python: what that raises changes with the versions of both.
        raise InvalidData(f"damaged, or not a NumPy array ({_line(error)})") from error


def _read_picture(path: Path, channels: int) -> Pixels:
    pillow = _pillow()
    try:
        with path.open("rb") as file, pillow.open(file, formats=FORMATS) as picture:
            _check_size(picture.height, picture.width)
            if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
                raise InvalidData(f"more than 8 bits a channel (mode {picture.mode}); save it with 8, or as .npy")
            return _converted(picture, channels)
    except InvalidData:
        raise
    except pillow.UnidentifiedImageError as error:
        raise InvalidData(f"damaged, or not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        # Pillow's readers raise what their arithmetic meets in a damaged file: struct.error, zlib.error, SyntaxError, …
        raise InvalidData(f"cannot be read as an image ({_line(error)})") from error


def _converted(picture: "PIL.Image.Image", channels: int) -> Pixels:
    import PIL.Image
    import PIL.ImageOps

    upright = PIL.ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", coloured.size, "white"), coloured)
    return np.asarray(upright.convert("RGB" if channels == 3 else "L"), np.uint8)


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    held = pixels.shape[2]
    if held == channels:
        return pixels
    if held == 1:
        return np.repeat(pixels, channels, axis=2)
    # In 65536ths and rounded, as Pillow computes it: a .npy file and a picture of the same pixels agree.
    grey = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000 >> 16
    return grey.astype(np.uint8)[:, :, None]


def _target_size(height: int, width: int, image: ImageSpec) -> tuple[int, int]:
    if image.resize is None:
        return image.height, image.width
    # Rounded down, as torchvision and transformers do; a pixel more would move the cut.
    if height <= width:
        return image.resize, int(image.resize * width / height)
    return int(image.resize * height / width), image.resize


def _resized(pixels: Pixels, height: int, width: int, image: ImageSpec) -> Pixels:
    pillow = _pillow()
    picture = pillow.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    resized = picture.resize((width, height), pillow.Resampling[image.resample.upper()])
    return np.asarray(resized, np.uint8).reshape(height, width, -1)


def _centre(pixels: Pixels, height: int, width: int) -> Pixels:
    """Cut (or enlarge by a black margin) around the centre; the odd pixel lies as transformers has it."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    inside = pixels[max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    if inside.shape[:2] == (height, width):
        return inside
    out = np.zeros((height, width, pixels.shape[2]), np.uint8)
    down, right = max(-top, 0), max(-left, 0)
    out[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
    return out


def _check_array(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype != np.uint8:
        raise InvalidData(f"an array of {dtype}; expected uint8, from 0 to 255")
    if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise InvalidData(
            f"an array of shape {shape}; expected (height, width), or (height, width, channels) with 1 or 3"
        )
    _check_size(shape[0], shape[1])


def _check_size(height: int, width: int, of: str = "") -> None:
    if height * width > MOST_PIXELS:
        raise InvalidData(f"{of}{height} by {width} pixels; expected at most {MOST_PIXELS:,} altogether")


def _pillow() -> ModuleType:
    """Return PIL.Image."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise FieldtuneError(
            "images are read and resized by Pillow, which is not installed: pip install 'fieldtune[images]' "
            "(7 MB, no compiler needed, on ARM neither)"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
