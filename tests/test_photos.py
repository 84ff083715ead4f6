"""support/photos.py, and support/check.py's word on the same files: damage, EXIF, other sizes."""

import io

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
    assert check.find_fault(file, (90, 90)) is None
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
        problem, text = check.find_fault(file, size)
        assert problem == "other size" and (REMEDY in text) == turned
        message = "x.jpg is 80 x 40 pixels, annotated as"
        with pytest.raises(ValueError, match=message) as error:
            data.load_crop(write_instance(file, size=size), 28)
        assert (REMEDY in one_line(error)) == turned
    assert REMEDY not in check.find_fault(file, (40, 70)).text


@pytest.mark.parametrize("damage", [b"no exif at all", b"II*\0"])
def test_damaged_exif_does_no_harm(tmp_path, damage):
    """The pixels are whole. Of an upright photo it says nothing, of another size it hints at none.

    Pillow raises SyntaxError at the one and struct.error at the other.
    """
    file = tmp_path / "x.png"
    for width, height in ((40, 40), (80, 40)):
        photo(width, height).save(file, exif=b"Exif\0\0" + damage)
        assert check.find_fault(file, (width, height)) is None
        data.load_crop(write_instance(file, size=(width, height)), 28)
    problem, text = check.find_fault(file, (40, 80))
    assert problem == "other size" and REMEDY not in text
    with pytest.raises(ValueError, match="annotated as 40 x 80: correct the annotation"):
        data.load_crop(write_instance(file, size=(40, 80)), 28)
    with pytest.raises(ValueError, match="x.png is no image that Pillow can read") as error:
        photos.open_image(file)
    one_line(error)
