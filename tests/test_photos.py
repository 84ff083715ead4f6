"""support/photos.py, and support/check.py's word on the same files: damage, EXIF, other sizes."""

import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import data
from helpers import one_line, photo
from support import check, launch, photos


def write_instance(file, side=9, size=()):
    return data.Instance(7, file, 1, np.ones((1, 3), np.float32), (0, 0, side, side), size)


def write_exif(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def test_exif_is_ignored_in_the_data_set_and_obeyed_in_a_photo(tmp_path):
    image, file = photo(40, 20), tmp_path / "x.png"
    # Shown turned by a quarter, clockwise.
    image.save(file, exif=write_exif(6))
    pixels, _ = data.load_crop(write_instance(file, side=20), 20)
    plain = data.cut_crop(image, data.make_affine((0, 0, 20, 20), 20), 20)
    torch.testing.assert_close(pixels, plain)
    upright = photos.open_image(file)
    assert np.array_equal(np.array(upright), np.rot90(np.array(image), -1))


@pytest.mark.parametrize(
    "name, kind",
    [("broken.jpg", ValueError), ("cut.jpg", ValueError), ("gone.jpg", FileNotFoundError)],
)
def test_images_that_cannot_be_read(tmp_path, name, kind):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    whole = io.BytesIO()
    photo(600, 600).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:5000])
    with pytest.raises(kind, match=name) as error:
        data.load_crop(write_instance(tmp_path / name, side=600), 28)
    assert "annotation 7" in one_line(error)


def load_first(instances):
    return data.load_crop(instances[0][0], 28)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_that_only_decoding_shows_is_one_line(tmp_path, capsys, workers):
    """Bytes zeroed in the middle of a PNG: its header and its end are whole."""
    file = tmp_path / "x.png"
    photo(90, 90).save(file)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(500)
    file.write_bytes(content)
    assert check.examine_image(file, (90, 90)).problem == ""
    instances = torch.utils.data.StackDataset([write_instance(file, 90, (90, 90))])
    crops = torch.utils.data.DataLoader(instances, collate_fn=load_first, num_workers=workers)
    with pytest.raises(SystemExit) as end:
        launch.run("train.py", lambda: list(crops))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"train.py: {file} is no image that Pillow can read")
    assert said.count("\n") == 1 and "Traceback" not in said
    remedy = "replace the file and go on with --resume, or remove annotation 7 and start anew"
    assert remedy in said


REMEDY = "annotated upright, stored turned: apply the EXIF rotation to the files"


@pytest.mark.parametrize("orientation", range(9))
def test_photos_annotated_upright_and_stored_turned(tmp_path, orientation):
    """EXIF's orientations 5 to 8 exchange width and height, as ImageOps.exif_transpose does."""
    file = tmp_path / "x.jpg"
    photo(80, 40).save(file, exif=write_exif(orientation))
    turned = ImageOps.exif_transpose(Image.open(file)).size == (40, 80)
    assert turned == (5 <= orientation <= 8)
    # Stored as large as annotated, or twice as large.
    for size in ((40, 80), (20, 40)):
        problem, text, _ = check.examine_image(file, size)
        assert problem == "other size" and (REMEDY in text) == turned
        message = "x.jpg is 80 x 40 pixels, annotated as"
        with pytest.raises(ValueError, match=message) as error:
            data.load_crop(write_instance(file, size=size), 28)
        assert (REMEDY in one_line(error)) == turned
    assert REMEDY not in check.examine_image(file, (40, 70)).text


@pytest.mark.parametrize("damage", [b"no exif at all", b"II*\0"])
def test_damaged_exif_does_no_harm(tmp_path, damage):
    """The pixels are whole. Of an upright photo it says nothing, of another size it hints at none.

    Pillow raises SyntaxError at the one and struct.error at the other.
    """
    file = tmp_path / "x.png"
    for width, height in ((40, 40), (80, 40)):
        photo(width, height).save(file, exif=b"Exif\0\0" + damage)
        assert check.examine_image(file, (width, height)).problem == ""
        data.load_crop(write_instance(file, size=(width, height)), 28)
    problem, text, _ = check.examine_image(file, (40, 80))
    assert problem == "other size" and REMEDY not in text
    with pytest.raises(ValueError, match="annotated as 40 x 80: correct the annotation"):
        data.load_crop(write_instance(file, size=(40, 80)), 28)
    assert photos.open_image(file).tobytes() == photo(80, 40).tobytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_exif_is_nobodys_concern(tmp_path, recwarn, suffix):
    """Pillow warns of a directory that is cut short; the pixels are whole."""
    file = tmp_path / f"x.{suffix}"
    photo(40, 20).save(file, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    recwarn.clear()
    photos.open_image(file)
    for size in ((40, 20), (20, 40)):
        try:
            data.load_crop(write_instance(file, size=size), 28)
        except ValueError as error:
            assert "annotated as" in str(error)
    assert not recwarn.list


def draw_modes():
    """{name of a file: how Pillow draws it}, of every mode of pixels that a format stores."""
    image = photo(24, 20)
    grey = np.asarray(image.convert("L")).astype(np.float32)
    transparent = image.copy()
    transparent.putalpha(image.convert("L"))
    return {
        "grey.png": image.convert("L"),
        "16 bits.png": Image.fromarray((grey * 120 + 3000).astype(np.uint16)),
        "16 bits.tif": Image.fromarray((grey * 120 + 3000).astype(np.uint16)),
        "32 bits.tif": Image.fromarray((grey * 100).astype(np.int32)),
        "floats.tif": Image.fromarray(grey / 255),
        "large floats.tif": Image.fromarray(grey * 200),
        "1 bit.png": image.convert("1"),
        "palette.png": image.quantize(16),
        "palette.gif": image.quantize(16),
        "transparent.png": transparent,
        "transparent grey.png": transparent.convert("LA"),
        "transparent palette.png": transparent.quantize(16),
        "transparent.webp": transparent,
        "transparent.tif": transparent,
        "CMYK.jpg": image.convert("CMYK"),
        "YCbCr.tif": image.convert("YCbCr"),
        "rgb.bmp": image,
        "rgb.tga": image,
        "rgb.ppm": image,
        "large.jpg": photo(240, 200),
    }


@pytest.mark.parametrize("name", draw_modes())
@pytest.mark.parametrize("orientation", [1, 3])
def test_training_and_sample_see_the_same_pixels(tmp_path, name, orientation):
    """Of every kind of picture; of one that viewers turn, sample.py sees what they show."""
    file, image = tmp_path / name, draw_modes()[name]
    has_exif = name.endswith(("png", "jpg", "webp", "tif"))
    image.save(file, **({"exif": write_exif(orientation)} if has_exif else {}))
    side = 20
    pixels, _ = data.load_crop(write_instance(file, side, image.size), side)
    upright = photos.open_image(file)
    if has_exif and orientation == 3 and not name.endswith("tif"):
        upright = upright.transpose(Image.Transpose.ROTATE_180)
    asked = data.cut_crop(upright, data.make_affine((0, 0, side, side), side), side)
    assert torch.equal(pixels, asked)
    # And they see something.
    assert pixels.std() > 0.1


# Types of TIFF's fields.
BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED, FLOAT = 1, 2, 3, 4, 5, 9, 11


@pytest.mark.parametrize("kind", [BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED, FLOAT, 99])
@pytest.mark.parametrize("tag", [0x100, 0x10F, 0x11A, 0x128, 0x132, 0x213, 0x8298, 0x8769, 0x8825])
def test_photos_are_turned_whatever_else_exif_says(tmp_path, tag, kind):
    """Phones write odd fields; only the orientation is read, and nothing is written."""
    # Of a fraction the entry says where it stands.
    odd = struct.pack("<I", 8) if kind == RATIONAL else b"\xff\0\0\xff"
    entries = {0x112: (SHORT, struct.pack("<HH", 6, 0)), tag: (kind, odd)}
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    for number, (kind, value) in sorted(entries.items()):
        exif += struct.pack("<HHI", number, kind, 1) + value
    file = tmp_path / "x.png"
    photo(40, 20).save(file, exif=exif + bytes(4))
    upright = photos.open_image(file)
    assert np.array_equal(np.array(upright), np.rot90(np.array(photo(40, 20)), -1))
    assert check.examine_image(file, (40, 20)) == check.Finding(is_turned=True)


@pytest.mark.parametrize("error", [TypeError, KeyError, ZeroDivisionError, IndexError, MemoryError])
def test_whatever_pillow_raises_is_one_line_about_the_file(tmp_path, monkeypatch, error):
    file = tmp_path / "x.png"
    photo(9, 9).save(file)

    def fail(image):
        raise error()

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for look in (photos.open_image, lambda file: data.load_crop(write_instance(file), 28)):
        with pytest.raises(ValueError, match="x.png is no image that Pillow can read") as caught:
            look(file)
        one_line(caught)


def test_pipes_are_refused_and_long_names_cut(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    long = tmp_path / ("x" * 5000)
    for path in (pipe, long, tmp_path / "a\x1b\n.png"):
        assert check.examine_image(path, (9, 9)).problem in ("unreadable", "missing")
        for look in (photos.open_image, lambda file: data.load_crop(write_instance(file), 28)):
            with pytest.raises((ValueError, FileNotFoundError)) as error:
                look(path)
            assert len(one_line(error)) < 450 and one_line(error).isprintable()


@pytest.mark.parametrize("side", [1000, 5000, 70_000])
def test_very_large_crops_are_averages(side):
    """Pillow's own sums are black where thousands of pixels become one."""
    image = Image.new("RGB", (side, 60), (200, 100, 50))
    crop = data.cut_crop(image, data.make_affine((0, 0, side, 60), 1), 1)
    shown = (crop * photos.PIXEL_STD + photos.PIXEL_MEAN) * 255
    torch.testing.assert_close(shown.ravel(), torch.tensor([200.0, 100, 50]), atol=2, rtol=0)


@pytest.mark.parametrize("mode", ["I;16", "F", "L", "P", "RGBA", "LA", "CMYK"])
def test_whoever_opens_an_image_the_model_sees_the_same(model, mode, tmp_path):
    """`CapeLLM.locate` gets a PIL image of any mode; sample.py one that it has opened as RGB."""
    values = np.random.default_rng(0).random((30, 40))
    if mode == "I;16":
        image = Image.fromarray((65535 * values).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(values.astype(np.float32))
    else:
        image = Image.fromarray((255 * values).astype(np.uint8)).convert(mode)
    assert image.mode == mode
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    path = tmp_path / "image.tiff"
    image.save(path)
    asked, _ = model.look(image)
    opened, _ = model.look(photos.open_image(path))
    assert torch.equal(asked, opened)
    # Neither white nor black.
    assert 0.1 < asked.std() < 3
