import csv
import io
import time

import numpy as np
import pytest
from PIL import Image

from artimuse.artimuse_core.errors import ImageError, ImageInputError
from artimuse.artimuse_core.images import load_image
from artimuse.artimuse_core.inputs import flatten
from artimuse.artimuse_core.preprocess import preprocess, preprocess_batch


def encoded(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x * 6, y * 8, 255 - x * 3], axis=-1).astype(np.uint8))


def test_path_bytes_and_file_decode_alike(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(gradient()))
    expected = np.asarray(gradient())
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90° clockwise to view
    image = load_image(encoded(gradient(), "PNG", exif=exif))
    expected = gradient().transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_a_pil_image_is_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = Image.open(io.BytesIO(encoded(gradient(), exif=exif)))
    assert load_image(original).size == (30, 40)
    assert original.size == (40, 30)
    assert original.getexif()[0x0112] == 6


def test_alpha_is_dropped_as_the_reference_does() -> None:
    rgba = gradient().convert("RGBA")
    rgba.putalpha(0)
    np.testing.assert_array_equal(np.asarray(load_image(encoded(rgba))), np.asarray(gradient()))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = load_image(encoded(Image.fromarray(ramp)))
    np.testing.assert_array_equal(np.asarray(image)[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    image = load_image(encoded(gradient().convert(mode)))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_cmyk_and_palette_with_transparency() -> None:
    assert load_image(encoded(gradient().convert("CMYK"), "JPEG")).mode == "RGB"
    palette = gradient().convert("P")
    assert load_image(encoded(palette, "PNG", transparency=bytes([0, 128, 255]))).mode == "RGB"


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((4, 4)) == (255, 0, 0)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(ImageError, match="over the limit of"):
        load_image(encoded(gradient()), max_pixels=1000)


def test_truncated_file_says_so() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise))
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"hello", "not an image"), (b"\0\0\0\x20ftypheic" + bytes(30), "HEIF")],
)
def test_what_is_no_image_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        load_image(data)


def test_missing_file_and_folder_say_so(tmp_path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot read"):
        load_image(tmp_path)


def test_float_images_are_refused() -> None:
    with pytest.raises(ImageError, match="32-bit float"):
        load_image(Image.new("F", (4, 4)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # a broken MPO header is worth a warning
def test_every_hostile_file_decodes_or_gives_one_line(shared_data) -> None:
    folder = shared_data / "hostile"
    rows = list(csv.DictReader((folder / "manifest.csv").read_text("utf-8").splitlines()))
    assert rows
    for row in rows:
        start = time.perf_counter()
        try:
            image = load_image(folder / row["file"])
        except ImageError as error:
            assert str(error).count("\n") == 0
            assert row["pillow_decode"] != "ok", f"{row['file']}: {error}"
        else:
            assert image.mode == "RGB"
        assert time.perf_counter() - start < 5, row["file"]


def test_preprocess_is_bit_equal_to_resize_divide_normalise() -> None:
    image = gradient(321, 257)
    for size in (28, 112):
        resized = image.resize((size, size), Image.Resampling.BICUBIC)
        unit = np.asarray(resized).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
        std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
        np.testing.assert_array_equal(preprocess(image, size), (unit - mean) / std)
    assert preprocess_batch([image, gradient()], 28).shape == (2, 3, 28, 28)


def test_preprocess_equals_torch_arithmetic() -> None:
    import torch

    image = gradient(64, 64)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = tensor.sub(mean[:, None, None]).div(std[:, None, None]).numpy()
    np.testing.assert_array_equal(preprocess(image, 64), expected)


def as_arrays(images: object) -> list[np.ndarray]:
    return [np.asarray(load_image(image)) for image in flatten(images)]


def test_every_layout_of_an_image_is_the_same_image(tmp_path) -> None:
    import torch

    pixels = np.asarray(gradient())
    unit = pixels.astype(np.float32) / 255
    path = tmp_path / "a.png"
    gradient().save(path)
    for images in (
        path,
        gradient(),
        pixels,
        pixels[None],
        unit,
        unit[None],  # ComfyUI's layout
        torch.from_numpy(unit)[None],
        torch.from_numpy(unit).permute(2, 0, 1)[None],
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ):
        (array,) = as_arrays(images)
        np.testing.assert_array_equal(array, pixels)


def test_batches_and_nested_lists_keep_their_order(tmp_path) -> None:
    images = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in range(6)]
    stack = np.stack([np.asarray(image) for image in images[1:3]])
    flat = as_arrays([images[0], stack, [images[3], tuple(images[4:])]])
    assert [int(array[0, 0, 0]) for array in flat] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((2, 5, 8, 8), np.uint8), "channels first or last"),
        (np.zeros((8,), np.uint8), r"\(B,H,W,C\)"),
        (np.zeros((1, 3, 8, 3), np.uint8), "cannot tell"),
        (np.zeros((8, 8, 3), np.int64), "uint8 or floats"),
        (np.full((8, 8, 3), 200.0), r"0\.\.1"),
        (np.full((8, 8, 3), np.nan), r"0\.\.1"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one pixel"),
        (42, "got int"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(images: object, reason: str) -> None:
    with pytest.raises(ImageInputError, match=reason):
        list(flatten(images))
