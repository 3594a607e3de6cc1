import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from builders import image_spec
from fieldtune.bundle.manifest import ImageSpec
from fieldtune.data import images
from fieldtune.data.images import encoded_image, fit_image, is_file, is_folder, load_images, normalize, read_image
from fieldtune.errors import FieldtuneError, InvalidData

RED, WHITE = (255, 0, 0), (255, 255, 255)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG of 8-bit grey whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def message_of(path: Path, image: ImageSpec | None = None) -> str:
    with pytest.raises(InvalidData) as caught:
        read_image(path, image or image_spec(4, 4))
    return str(caught.value)


def test_normalization_is_that_of_each_channel() -> None:
    image = image_spec(1, 2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = np.array([[[0, 255]], [[0, 255]], [[0, 51]]], np.uint8)[None]
    found = normalize(pixels, image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[[0, 1]], [[-1, 1]], [[-4, -3.2]]]], atol=1e-6)
    assert pixels.max() == 255, "the pixels are left as they were"


def test_an_array_of_the_right_size_is_taken_as_it_is() -> None:
    array = noise(4, 6, 3)
    np.testing.assert_array_equal(fit_image(array, image_spec(4, 6)), array.transpose(2, 0, 1))
    grey = noise(4, 6)
    for shape in ((4, 6), (4, 6, 1)):
        np.testing.assert_array_equal(fit_image(grey.reshape(shape), image_spec(4, 6)), np.stack([grey] * 3))
        np.testing.assert_array_equal(fit_image(grey.reshape(shape), image_spec(4, 6, channels=1)), grey[None])


def test_rgb_becomes_the_grey_of_bt_601() -> None:
    array = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 20, 30]]], np.uint8)
    assert fit_image(array, image_spec(1, 5, channels=1)).tolist() == [[[76, 150, 29, 255, 18]]]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (7, 6), (6, 7), (4, 9), (5, 4)])
def test_the_cut_lies_in_the_centre(height: int, width: int) -> None:
    # The shorter edge is what it should be resized to already, so nothing but the cut happens.
    array = noise(height, width, 3)
    top, left = (height - 4) // 2, (width - 4) // 2
    found = fit_image(array, image_spec(4, 4, resize=min(height, width)))
    np.testing.assert_array_equal(found, array[top : top + 4, left : left + 4].transpose(2, 0, 1))


def test_what_is_smaller_than_the_cut_gets_a_black_margin() -> None:
    found = fit_image(np.full((2, 3), 9, np.uint8), image_spec(5, 4, channels=1, resize=2))
    assert found.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0], [0, 9, 9, 9], [0, 9, 9, 9], [0, 0, 0, 0]]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "an array of float32; expected uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\); expected \(height, width\)"),
        (np.zeros((4,), np.uint8), r"shape \(4,\)"),
        (np.zeros((4, 0), np.uint8), r"shape \(4, 0\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.broadcast_to(np.zeros(1, np.uint8), (9000, 9000)), "9000 by 9000 pixels; expected at most 64,000,000"),
        (np.zeros((1, 20000), np.uint8), "1 by 20000 pixels, which resized are 64 by 1280000 pixels; expected at most"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        fit_image(array, image_spec(4, 4, resize=64))


def test_npy_files_need_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    array = noise(4, 4)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy", image_spec(4, 4)), np.stack([array] * 3))
    (tmp_path / "b.png").write_bytes(b"")
    np.save(tmp_path / "c.npy", noise(5, 5))
    for name in ("b.png", "c.npy"):
        with pytest.raises(FieldtuneError, match=r"Pillow, which is not installed: pip install 'fieldtune\[images\]'"):
            read_image(tmp_path / name, image_spec(4, 4))


def test_damaged_npy_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, noise(40, 40))
    whole = path.read_bytes()
    for data in (b"", b"PK\x03\x04", whole[:20], whole[:-1], whole.replace(b"(40, 40)", b"((40, 4)")):
        path.write_bytes(data)
        assert message_of(path).startswith(f"{path}: damaged, or not a NumPy array (")
    for shape in (b"(4000000000, 4000000000)", b"(8001, 8000)", b"(-4, -4)", b"(0, 4)", b"()"):
        room = max(8, len(shape))
        path.write_bytes(whole.replace(b"(40, 40), }".ljust(room + 3), shape.ljust(8) + b", }"))
        assert "; expected" in message_of(path)
    np.save(path, np.array([{}], object), allow_pickle=True)
    assert message_of(path) == f"{path}: an array of object; expected uint8, from 0 to 255"
    path.write_bytes(b"\x93NUMPY\x02\x00" + whole[8:])
    assert "not in version 1.0 of its format" in message_of(path)
    np.save(path, noise(4, 4).astype(np.int64))
    assert message_of(path) == f"{path}: an array of int64; expected uint8, from 0 to 255"
    np.save(path, np.asfortranarray(noise(4, 4)))
    np.testing.assert_array_equal(read_image(path, image_spec(4, 4))[0], noise(4, 4))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert message_of(tmp_path / "a.png") == f"{tmp_path / 'a.png'}: no such file; expected an image"
    assert message_of(tmp_path) == f"{tmp_path}: a folder; expected an image"
    for name in ("a text " * 100, "with\0null"):
        assert not is_file(tmp_path / name)
        assert not is_folder(tmp_path / name)


def test_every_image_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for name in range(25):
        (tmp_path / f"{name}.npy").write_bytes(b"")
    np.save(tmp_path / "good.npy", noise(4, 4))
    sources = [("rows.csv:3", tmp_path / "0.npy"), ("", tmp_path / "good.npy"), ("image 3", np.zeros(3, np.uint8))]
    with pytest.raises(InvalidData) as caught:
        load_images([*sources, *(("", tmp_path / f"{name}.npy") for name in range(1, 25))], image_spec(4, 4))
    lines = str(caught.value).splitlines()
    assert lines[0] == "26 images of 27 cannot be used"
    assert lines[1].startswith(f"  - rows.csv:3: {tmp_path / '0.npy'}: damaged")
    assert lines[2].startswith("  - image 3: an array of shape (3,)")
    assert lines[3].startswith(f"  - {tmp_path / '1.npy'}: damaged")
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 6 more"


def test_an_image_keeps_its_pixels_and_its_label() -> None:
    pixels = noise(3, 4, 4)
    found, unknown = encoded_image(pixels, 1), encoded_image(pixels)
    np.testing.assert_array_equal(found.arrays["pixel_values"], pixels)
    assert found.arrays["pixel_values"].dtype == np.uint8
    assert [int(example.arrays["labels"]) for example in (found, unknown)] == [1, -100]
    assert [example.weight for example in (found, unknown)] == [1, 0]
    assert [example.length for example in (found, unknown)] == [1, 1]
    assert not found.truncated


class TestWithPillow:
    @pytest.fixture(autouse=True)
    def _pillow(self) -> None:
        pytest.importorskip("PIL.Image", reason="Pillow is not installed")

    @pytest.mark.parametrize("form", ["png", "bmp", "ppm", "tiff", "gif"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_lossless_files_and_arrays_agree(self, tmp_path: Path, form: str, channels: int) -> None:
        from PIL import Image

        array = noise(6, 4, 3)
        picture = Image.fromarray(array)
        if form == "gif":
            picture = picture.quantize(24)
            array = np.asarray(picture.convert("RGB"))
        picture.save(tmp_path / f"a.{form}")
        image = image_spec(6, 4, channels)
        np.testing.assert_array_equal(read_image(tmp_path / f"a.{form}", image), fit_image(array, image))

    @pytest.mark.parametrize("form", ["jpeg", "webp"])
    def test_lossy_files_come_near(self, tmp_path: Path, form: str) -> None:
        from PIL import Image, features

        if form == "webp" and not features.check("webp"):
            pytest.skip("this Pillow reads no WebP")
        smooth = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)
        array = np.stack([smooth, smooth[::-1], 255 - smooth], axis=2)
        Image.fromarray(array).save(tmp_path / f"a.{form}", quality=95)
        found = read_image(tmp_path / f"a.{form}", image_spec(32, 48)).astype(int)
        assert np.abs(found - array.transpose(2, 0, 1)).mean() < 3

    def test_exif_turns_the_image(self, tmp_path: Path) -> None:
        from PIL import Image

        array = noise(2, 3, 3)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be seen, it is turned by a quarter clockwise
        Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
        found = read_image(tmp_path / "a.png", image_spec(3, 2))
        np.testing.assert_array_equal(found, np.rot90(array, -1).transpose(2, 0, 1))

    def test_transparent_parts_are_white(self, tmp_path: Path) -> None:
        from PIL import Image

        pixels = np.array([[[*RED, 255], [*RED, 0], [*RED, 128]]], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png", image_spec(1, 3)).transpose(1, 2, 0).tolist() == [
            [list(RED), list(WHITE), [255, 127, 127]]
        ]
        Image.fromarray(pixels).convert("LA").save(tmp_path / "b.png")
        assert read_image(tmp_path / "b.png", image_spec(1, 3, channels=1)).tolist() == [[[76, 255, 165]]]
        palette = Image.new("P", (2, 1))
        palette.putpalette([*RED, 0, 0, 255])
        palette.putpixel((1, 0), 1)
        palette.save(tmp_path / "c.png", transparency=1)
        assert read_image(tmp_path / "c.png", image_spec(1, 2)).transpose(1, 2, 0).tolist() == [
            [list(RED), list(WHITE)]
        ]

    def test_only_the_first_of_several_pictures_counts(self, tmp_path: Path) -> None:
        from PIL import Image

        first, second = (Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE))
        first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
        assert read_image(tmp_path / "a.gif", image_spec(4, 4))[:, 0, 0].tolist() == list(RED)

    @pytest.mark.parametrize("mode", ["I;16", "I", "F"])
    def test_more_than_eight_bits_are_refused(self, tmp_path: Path, mode: str) -> None:
        from PIL import Image

        Image.new(mode, (4, 4)).save(tmp_path / "a.tiff")
        assert "more than 8 bits a channel" in message_of(tmp_path / "a.tiff")

    def test_damaged_files(self, tmp_path: Path) -> None:
        from PIL import Image

        Image.fromarray(noise(40, 40, 3)).save(tmp_path / "whole.png")
        Image.fromarray(noise(40, 40, 3)).save(tmp_path / "whole.jpg")
        for whole in (tmp_path / "whole.png", tmp_path / "whole.jpg"):
            data = whole.read_bytes()
            path = tmp_path / f"cut{whole.suffix}"
            path.write_bytes(data[: len(data) // 2])
            assert message_of(path).startswith(f"{path}: cannot be read as an image (")
            for damaged in (b"", b"no image", data[:5]):
                path.write_bytes(damaged)
                message = message_of(path)
                assert message.startswith(f"{path}: ")
                assert "an image" in message
            path.write_bytes(b"no image")
            assert "damaged, or not an image of a known format (BMP, GIF, JPEG, PNG" in message_of(path)

    def test_no_damage_gets_past(self, tmp_path: Path) -> None:
        from PIL import Image

        rng = np.random.default_rng(3)
        for form in ("png", "jpg", "gif", "bmp", "tiff"):
            Image.fromarray(noise(12, 12, 3)).save(tmp_path / f"whole.{form}")
            data = np.frombuffer((tmp_path / f"whole.{form}").read_bytes(), np.uint8)
            path = tmp_path / f"a.{form}"
            for _ in range(40):
                damaged = data.copy()
                damaged[rng.integers(0, len(damaged), 6)] = rng.integers(0, 256, 6)
                path.write_bytes(damaged.tobytes()[: rng.integers(1, len(damaged) + 1)])
                # Anything but InvalidData would end the test.
                with contextlib.suppress(InvalidData):
                    assert read_image(path, image_spec(4, 4)).shape == (3, 4, 4)

    # Pillow only warns of the smaller of the two, so what is tested is that its words are passed on.
    @pytest.mark.filterwarnings("error")
    def test_a_small_file_cannot_claim_much_memory(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(8001, 8000))
        assert "8000 by 8001 pixels; expected at most 64,000,000" in message_of(tmp_path / "a.png")
        # Pillow's own limits.
        for edge in (12_000, 60_000):
            (tmp_path / "b.png").write_bytes(png(edge, edge))
            assert "b.png: cannot be read as an image (Image size" in message_of(tmp_path / "b.png")

    def test_other_formats_are_not_tried(self, tmp_path: Path) -> None:
        # Pillow would start Ghostscript for it.
        (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
        assert "not an image of a known format" in message_of(tmp_path / "a.png")

    @pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic"])
    @pytest.mark.parametrize(("height", "width"), [(31, 57), (57, 31), (20, 20), (9, 12)])
    @pytest.mark.parametrize("resize", [None, 20, 24])
    def test_images_are_prepared_as_transformers_prepares_them(
        self, resample: str, height: int, width: int, resize: int | None
    ) -> None:
        pytest.importorskip("torch")
        vit = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
        size = {"height": 18, "width": 20} if resize is None else {"shortest_edge": resize}
        processor = vit.ViTImageProcessorPil(
            size=size,
            do_center_crop=resize is not None,
            crop_size={"height": 18, "width": 20},
            resample={"nearest": 0, "bilinear": 2, "bicubic": 3}[resample],
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        image = image_spec(
            18, 20, resize=resize, resample=resample, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        array = noise(height, width, 3)
        expected = processor(array, input_data_format="channels_last", return_tensors="np")["pixel_values"]
        found = normalize(fit_image(array, image)[None], image)
        assert found.shape == (1, 3, 18, 20)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize(("resample", "bits"), [("bilinear", 1), ("bicubic", 1)])
    def test_resizing_has_no_aliases(self, resample: str, bits: int) -> None:
        torch = pytest.importorskip("torch")
        array = noise(40, 60, 1)
        found = fit_image(array, image_spec(10, 15, channels=1, resample=resample))[0]
        tensor = torch.from_numpy(array[None, None, :, :, 0].astype(np.float32))
        resized = torch.nn.functional.interpolate(tensor, (10, 15), mode=resample, antialias=True)[0, 0].numpy()
        assert np.abs(found - resized.clip(0, 255)).max() <= bits, "rounded once or twice, to whole numbers"


def test_suffixes_are_of_formats_that_are_read() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.init()
    known = {suffix for suffix, form in image.registered_extensions().items() if form in images.FORMATS}
    assert set(images.SUFFIXES) - known == {".npy"}
