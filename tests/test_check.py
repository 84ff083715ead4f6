"""support/check.py: a data folder against the disk, before training and as a command."""

import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import data
from capellm import Codec
from helpers import one_line, photo, read_cells
from support import check
from support.descriptions import describe_categories

NO_PROBLEM = dict.fromkeys((*check.OF_IMAGES, *check.OF_ANNOTATIONS), 0)


def name_file(i):
    return f"{i:02}.png" if i % 2 else f"{i:02}.jpg"


@pytest.fixture
def texts(tmp_path):
    """A folder of descriptions: of boats."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "boat.txt").write_text("bow: the pointed front end\nstern: the broad rear end\n")
    return folder


@pytest.fixture
def boats(tmp_path):
    """write(...) makes a data folder: n photos of 60 x 50 pixels, one annotation each.

    changes: {number of the annotation: entries that are other}.
    """

    def write(n=12, category=(7, "boat"), name="own", changes=None):
        changes = changes or {}
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").mkdir()
        id, title = category
        images, annotations = [], []
        for i in range(n):
            photo(60, 50, i).save(folder / "images" / name_file(i))
            images.append({"id": i, "file_name": name_file(i), "width": 60, "height": 50})
            annotation = {"id": i, "image_id": i, "category_id": id, "bbox": [5, 5, 40, 40]}
            annotation["keypoints"] = [10, 10, 2, 30, 40, 1]
            annotations.append(annotation | changes.get(i, {}))
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": id, "name": title}]
        (folder / "annotations" / "train.json").write_text(json.dumps(content))
        return folder

    return write


def check_folders(*folders, texts, **options):
    """What training does: (usable instances, table), and the descriptions that were read."""
    instances, described = check.read_folders(folders, descriptions=texts)
    return check.check_images(instances, **options), described


def test_sound_data(boats, texts):
    folder = boats()
    (instances, table), described = check_folders(folder, texts=texts)
    plain, names = data.read_split(folder)
    assert [i.id for i in instances] == list(range(12)) == [i.id for i in plain]
    assert names == {7: "boat"}
    assert described == describe_categories(plain, names, texts)
    assert read_cells(table) == {"all": {"instances": 12, "usable": 12} | NO_PROBLEM}


def test_what_is_left_out_is_counted(boats, texts):
    """Without an error: keypoints outside of the image or box, empty boxes, nothing labelled."""
    changes = {
        1: {"keypoints": [60.5, 10, 2, 30, 40, 1]},
        2: {"keypoints": [10, 10, 2, -1, 40, 1]},
        3: {"keypoints": [0] * 6},
        4: {"bbox": [5, 5, 0, 0]},
        5: {"bbox": [70, 5, 9, 9], "keypoints": [-5, -5, 0, 9, 0, 0]},
        6: {"keypoints": [0, 0, 2, 60, 50, 2]},
        7: {"keypoints": [-9, 0, 0, 30, 30, 2]},
    }
    folder = boats(changes=changes)
    (instances, table), _ = check_folders(folder, texts=texts)
    kept = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert [i.id for i in instances] == kept == [i.id for i in data.read_split(folder)[0]]
    expected = {"instances": 12, "usable": 9} | NO_PROBLEM
    expected |= {"empty box": 2, "no keypoint": 2, "keypoint outside": 2, "outside the box": 3}
    assert read_cells(table) == {"all": expected, "boat (7)": expected}
    assert [line for line in table.split("\n") if not line.startswith("|")] == [
        "empty box: annotations 4, 5",
        "no keypoint: annotations 3, 5",
        "keypoint outside: annotations 1, 2",
        "outside the box: annotations 1, 2, 6",
    ]


@pytest.fixture
def damaged(boats):
    """Every kind of damage, and images that only look like it."""
    folder = boats()
    files = [folder / "images" / name_file(i) for i in range(12)]
    for i in (0, 1):
        files[i].unlink()
    # Cut short: the header is whole.
    for i in (2, 3):
        files[i].write_bytes(files[i].read_bytes()[:-100])
    files[4].write_bytes(b"")
    files[5].unlink()
    files[5].mkdir()
    photo(50, 60).save(files[6])
    # Whatever its name, Pillow reads it.
    photo(60, 50).save(files[7], format="GIF")
    # What cameras append does no harm.
    files[8].write_bytes(files[8].read_bytes() + bytes(5000))
    photo(60, 50).convert("L").save(files[9])
    return folder


def test_images_that_cannot_be_used_are_named(damaged, texts, capsys):
    with pytest.raises(ValueError) as error:
        check_folders(damaged, texts=texts)
    shown = capsys.readouterr().out
    text, images = one_line(error), damaged / "images"
    assert f"2 of 12 images missing: {images}/00.jpg, {images}/01.png;" in text
    unreadable = ", ".join(str(images / name_file(i)) for i in (2, 3, 4, 5))
    assert f"4 of 12 images unreadable: {unreadable};" in text
    other = f"1 of 12 images other size: {images}/06.jpg (50 x 60, annotated 60 x 50). "
    assert other in text and "--skip-missing" in text
    (instances, table), _ = check_folders(damaged, texts=texts, skip_missing=True)
    assert shown == f"{table}\n" and capsys.readouterr().out == ""
    assert [i.id for i in instances] == [7, 8, 9, 10, 11]
    expected = {"instances": 12, "usable": 5} | NO_PROBLEM
    expected |= {"missing": 2, "unreadable": 4, "other size": 1}
    assert read_cells(table) == {"all": expected, "boat (7)": expected}


def test_one_process_shows_the_table(damaged, texts, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError):
        check_folders(damaged, texts=texts)
    assert capsys.readouterr().out == ""


def test_found_is_what_training_would_have_met(damaged):
    """And nothing else."""
    for instance in data.read_split(damaged)[0]:
        if instance.id in range(7):
            with pytest.raises((ValueError, OSError)):
                data.load_crop(instance, 28)
        else:
            data.load_crop(instance, 28)


def test_five_images_are_named_and_all_are_counted(boats, texts):
    folder = boats()
    for file in (folder / "images").iterdir():
        file.unlink()
    message = "12 of 12 images missing: .*04.jpg and 7 more. Correct"
    with pytest.raises(ValueError, match=message) as error:
        check_folders(folder, texts=texts)
    assert "05.png" not in one_line(error)
    (instances, table), _ = check_folders(folder, texts=texts, skip_missing=True)
    assert instances == [] and read_cells(table)["all"]["missing"] == 12


def can_be_decoded(path):
    try:
        with Image.open(path) as image:
            image.load()
    except Exception:
        return False
    return True


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP"]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    cut=st.floats(0, 1, exclude_max=True),
)
def test_an_image_cut_anywhere_is_found(tmp_path_factory, kind, size, cut):
    """Unless Pillow decodes it all the same."""
    path = tmp_path_factory.mktemp("cut") / "image"
    photo(*size).save(path, format=kind)
    assert check.examine_image(path, size) == check.Finding()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    damage = check.Finding("unreadable", str(path))
    expected = check.Finding() if can_be_decoded(path) else damage
    assert check.examine_image(path, size) == expected


def test_several_folders(boats, texts):
    """Rows by category, only of those with something to report; an id stands for one category."""
    (texts / "kite.txt").write_text("tip:\ntail:\n")
    first = boats(3)
    second = boats(4, (8, "kite"), "kites", {0: {"bbox": [5, 5, 0, 0]}})
    (instances, table), described = check_folders(first, second, texts=texts)
    found = [(i.category, i.id) for i in instances]
    assert found == [(7, 0), (7, 1), (7, 2), (8, 1), (8, 2), (8, 3)]
    assert set(described) == {7, 8}
    cells = read_cells(table)
    assert list(cells) == ["all", "kite (8)"] and cells["all"]["instances"] == 7
    third = boats(1, (7, "kite"), "clash")
    message = "category 7 is kite in .*clash, boat elsewhere"
    with pytest.raises(ValueError, match=message) as error:
        check.read_folders([first, third], descriptions=texts)
    one_line(error)
    (texts / "kite.txt").unlink()
    with pytest.raises(FileNotFoundError, match="kite.txt is missing") as error:
        check.read_folders([first, second], descriptions=texts)
    one_line(error)


def test_a_category_without_usable_instances_needs_no_description(boats, texts):
    nothing = {"keypoints": []}
    folder = boats(2, (9, "cloud"), changes={0: nothing, 1: nothing})
    (instances, table), described = check_folders(folder, texts=texts)
    assert (instances, described) == ([], {})
    assert read_cells(table)["cloud (9)"]["no keypoint"] == 2


@pytest.fixture
def smooth(boats):
    """A folder of three photos; the second one changes so slowly that resampling shows little."""
    folder = boats(3)
    y, x = np.mgrid[:50, :60]
    pixels = np.stack([4 * x, 5 * y, 2 * x + 2 * y], 2).astype(np.uint8)
    image, file = Image.fromarray(pixels), folder / "images" / "01.png"
    image.save(file)
    return folder, image, file


@pytest.mark.parametrize("factor", [2, 3])
def test_images_stored_larger_than_annotated(smooth, texts, factor):
    """One factor both ways: points and pixels are those of the image as annotated."""
    folder, image, file = smooth
    plain_pixels, plain_points = data.load_crop(data.read_split(folder)[0][1], 28)
    image.resize((60 * factor, 50 * factor), Image.Resampling.NEAREST).save(file)
    (instances, table), _ = check_folders(folder, texts=texts)
    said = f"boat (7): stored images are the annotated ones x {factor} (1); annotations follow"
    assert said in table
    pixels, points = data.load_crop(instances[1], 28)
    np.testing.assert_array_equal(points, plain_points)
    assert (pixels - plain_pixels).abs().max() < 0.2 < plain_pixels.std()


def test_images_stored_narrower_than_annotated(smooth, texts):
    folder, image, file = smooth
    image.resize((60, 25)).save(file)
    message = "1 of 3 images other size: .*01.png .60 x 25, annotated 60 x 50"
    with pytest.raises(ValueError, match=message):
        check_folders(folder, texts=texts)
    instance = data.read_split(folder)[0][1]
    message = "01.png is 60 x 25 pixels, annotated as 60 x 50"
    with pytest.raises(ValueError, match=message) as error:
        data.load_crop(instance, 28)
    one_line(error)


def test_an_image_annotated_with_two_sizes_is_judged_by_each(boats, texts):
    folder = boats(3)
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"] += [{"id": 7, "file_name": name_file(1), "width": 30, "height": 50}]
    content["images"] += [{"id": 8, "file_name": name_file(2), "width": 30, "height": 25}]
    for id in (7, 8):
        content["annotations"].append(content["annotations"][0] | {"id": id, "image_id": id})
    for entries in (content["annotations"], content["annotations"][::-1]):
        path.write_text(json.dumps(content | {"annotations": entries}))
        message = "^1 of 3 images other size: .*01.png .60 x 50, annotated 30 x 50"
        with pytest.raises(ValueError, match=message):
            check_folders(folder, texts=texts)
        (instances, _), _ = check_folders(folder, texts=texts, skip_missing=True)
        assert sorted(i.id for i in instances) == [0, 1, 2, 8]
        for instance in instances:
            data.load_crop(instance, 28)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(60, 50), (50, 50)])
def test_images_that_viewers_turn_are_counted_and_named(boats, texts, orientation, size):
    """Also if their size fits."""
    folder = boats(2)
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"][1] |= {"width": size[0], "height": size[1]}
    path.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x112] = orientation
    file = folder / "images" / "01.png"
    photo(*size).save(file, exif=exif)
    (instances, table), _ = check_folders(folder, texts=texts)
    assert len(instances) == 2
    said = f"turned: 1 images have an EXIF rotation ({file}), which training ignores"
    assert (said in table) == (orientation > 1)


@settings(deadline=None)
@given(
    box=st.tuples(*[st.floats(0, 40)] * 2, *[st.floats(0, 20)] * 2),
    points=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 50)), min_size=1, max_size=4),
)
def test_points_outside_the_box_are_those_that_have_no_code(box, points):
    """But for the last 0.0005 of a crop."""
    assume(max(box[2:]) >= 1)
    relative = data.map_to_crop(points, data.make_affine(box, 1), 1)
    assume((np.abs(relative) > 1e-9).all() and (np.abs(relative - 1) > 0.001).all())
    outside = check.is_outside_box(np.array(points), box)
    assert outside.tolist() == [not inside for inside in Codec.has_code(relative).all(1)]


@pytest.mark.parametrize("bad", ["pipe", "header", "pixels", "EXIF", "none"])
def test_the_contact_sheet_never_loses_what_was_found(boats, command, tmp_path, capsys, bad):
    """The first image of a category is the one that it shows."""
    folder = boats()
    (folder / "images" / "05.png").unlink()
    file = folder / "images" / "01.png"
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": content["annotations"][1:]}))
    whole = file.read_bytes()
    if bad == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif bad == "header":
        # A second one before the end, cut short.
        end = whole.index(b"IEND") - 4
        header = bytes(4) + b"IHDR" + struct.pack(">I", zlib.crc32(b"IHDR"))
        file.write_bytes(whole[:end] + header + whole[end:])
    elif bad == "pixels":
        file.write_bytes(whole[:900] + bytes(50) + whole[950:])
    elif bad == "EXIF":
        photo(60, 50).save(file, exif=b"Exif\0\0II*\0")
    with pytest.raises(ValueError, match="1 of 11 images missing: .*05.png") as error:
        command(folder)
    assert ("01.png" in one_line(error)) == (bad in ("pipe", "header", "pixels"))
    assert (tmp_path / "x.png").exists()


def test_a_contact_sheet_that_cannot_be_written_is_said_last(boats, command, tmp_path):
    folder = boats()
    (folder / "images" / "05.png").unlink()
    (tmp_path / "taken.png").mkdir()
    message = "^1 of 12 images missing: .*05.png; .*taken.png: the contact sheet cannot be written"
    with pytest.raises(ValueError, match=message) as error:
        command(folder, "taken.png")
    one_line(error)


@pytest.fixture
def command(texts, tmp_path, monkeypatch):
    """call(folder, out) runs `python data.py --check`."""

    def call(folder, out="x.png"):
        options = ["--check", folder, "--descriptions", texts, "--out", tmp_path / out]
        monkeypatch.setattr("sys.argv", ["data.py", *map(str, options)])
        check.main(data.load_crop)

    return call


def test_the_command(boats, command, tmp_path, capsys):
    folder = boats()
    command(folder, "out/sheet.png")
    shown = capsys.readouterr().out
    assert "boat" not in shown and "sheet.png" in shown and "val" not in shown
    assert Image.open(tmp_path / "out" / "sheet.png").size == (160, 174)
    (folder / "images" / "00.jpg").unlink()
    with pytest.raises(ValueError, match="1 of 12 images missing: .*00.jpg$"):
        command(folder, "out/sheet.png")
    assert "boat (7)" in capsys.readouterr().out


def test_the_command_names_thin_descriptions(boats, command, texts, capsys):
    (texts / "boat.txt").write_text("bow:\nstern:\n")
    command(boats())
    lines = ["thin: 2 descriptions may not do to tell keypoints apart:"]
    lines += [f"  boat: {name!r} has no description" for name in ("bow", "stern")]
    assert "\n{}\n\n".format("\n".join(lines)) in capsys.readouterr().out


def test_the_command_refuses_other_pictures_before_it_reads(boats, command, capsys):
    message = "--out .*x.txt: no picture format is called '.txt'; use .png or .jpg"
    with pytest.raises(ValueError, match=message):
        command(boats(), "x.txt")
    assert capsys.readouterr().out == ""


def test_the_command_takes_the_parts_that_are_there(boats, command, capsys):
    folder = boats(2)
    train, val = (folder / "annotations" / f"{part}.json" for part in ("train", "val"))
    train.rename(val)
    command(folder)
    assert capsys.readouterr().out.startswith("val\n")
    train.write_text(json.dumps(json.loads(val.read_text()) | {"annotations": []}))
    message = "annotations/train.json holds no usable instance$"
    with pytest.raises(ValueError, match=message) as error:
        command(folder)
    one_line(error)
    _, *tables = re.split("train\n|val\n", capsys.readouterr().out)
    assert [read_cells(table)["all"]["instances"] for table in tables] == [0, 2]
    train.unlink()
    val.unlink()
    with pytest.raises(FileNotFoundError, match="train.json"):
        command(folder)
