"""Points in their colours where they are, labels that hide nothing, sheets of the right images."""

import numpy as np
import pytest
import torch
from PIL import Image

import data
from support import pictures


@pytest.mark.parametrize("count", [1, pictures.NAMED, pictures.NAMED + 1, 68])
def test_a_picture_shows_each_point_in_its_colour_where_it_is(count):
    image = Image.new("RGB", (256, 192), "grey")
    points = np.stack(np.divmod(np.arange(count), 9), 1) * 20 + 16.0
    names = [f"keypoint {i}" for i in range(count)]
    picture = np.asarray(pictures.draw_keypoints(image, points, names))
    # 256 pixels are enlarged to 768.
    centres = [tuple(picture[round(3 * y), round(3 * x)]) for x, y in points]
    # Saturated, all different.
    assert len(set(centres)) == count
    assert all(max(centre) > 250 and min(centre) < 45 for centre in centres)
    # With a legend or without.
    assert picture.shape[0] == 576 and (picture.shape[1] > 768) == (count > pictures.NAMED)


@pytest.mark.parametrize("size", [(1, 1), (3000, 7), (5, 1700), (2000, 1500)])
def test_pictures_of_extreme_photos(size):
    picture = pictures.draw_keypoints(
        Image.new("RGB", size),
        [(size[0] / 2, -3.0), (0.0, size[1] + 2.0)],
        ["above", "below"],
        (0, 0, *size),
    )
    assert pictures.SMALLEST_SIDE / 2 < max(picture.size) <= pictures.LARGEST_SIDE


@pytest.mark.parametrize("count", [1, 68])
@pytest.mark.parametrize("size", [(60_000, 8), (8, 60_000), (9_000, 9_000)])
def test_answers_far_outside_of_a_wide_photo_are_drawn(size, count):
    """The model sees a square around it: answers may lie anywhere in it."""
    side = max(size)
    points = [(side / 2, size[1] / 2 - side / 2), *[(1.0, side / 2)] * (count - 1)]
    names = ["n" * 20_000] * count
    image = Image.new("RGB", size, (90, 200, 90))
    picture = pictures.draw_keypoints(image, points, names)
    assert max(picture.size) < 20_000
    # The photo is there, if only a line of it, which is averaged with what is beside it.
    shown = np.asarray(picture).reshape(-1, 3)
    assert any((shown == colour).all(1).any() for colour in ((90, 200, 90), (45, 100, 45)))


def test_what_lies_outside_of_a_photo_is_black():
    image = Image.new("RGB", (100, 80), "white")
    low, high = np.array([-50.0, -20]), np.array([150.0, 120])
    page = np.asarray(pictures.cut_out(image, low, high, 0.5)).mean(2)
    assert page.shape == (70, 100)
    inner = np.zeros(page.shape, bool)
    inner[10:50, 25:75] = True
    assert (page[inner] == 255).all() and (page[~inner] == 0).all()
    inside = pictures.cut_out(image, np.array([3.0, 4]), np.array([53.0, 44]), 2)
    assert inside.size == (100, 80)


def test_a_contact_sheet_of_many_categories_and_of_what_cannot_be_read(instances):
    """Ids may be numbers or text; a tile of what cannot be read is empty."""
    many = [instances[0]._replace(category=n) for n in range(500)]
    page, faults = pictures.draw_contact_sheet(many, data.load_crop)
    assert not faults and page.width == 20 * pictures.THUMB
    instances[1].image.unlink()
    mixed = [instances[0], instances[1]._replace(category="4")]
    far = np.array([[1e30, -3e38, 2], [20, 20, 2]], np.float32)
    mixed.append(instances[2]._replace(category=9, keypoints=far))
    page, faults = pictures.draw_contact_sheet(mixed, data.load_crop)
    assert faults == [f"{instances[1].image} is missing, needed by annotation 1"]


def test_labels_hide_neither_points_nor_each_other():
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 900, (15, 2))
    rectangles = pictures.place_labels(points, [(96, 22)] * 15, (1000, 1000), 5)
    assert (rectangles >= 0).all() and (rectangles <= 1000).all()
    for i, a in enumerate(rectangles):
        assert not ((points > a[:2]) & (points < a[2:])).all(1).any()
        assert not any(
            (np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all() for b in rectangles[:i]
        )


@pytest.fixture
def instances(tmp_path):
    """Two kites and a boat in noise; the second keypoint of each is not labelled."""
    rng = np.random.default_rng(3)
    made = []
    for n, (category, name) in enumerate([(7, "kite"), (4, "boat"), (7, "kite")]):
        path = tmp_path / f"{n}.png"
        Image.fromarray(rng.integers(100, 156, (80, 90, 3), np.uint8)).save(path)
        points = np.array([[20, 30, 2], [40, 40, 0], [50 + n, 60, 1]], np.float32)
        made.append(data.Instance(n, path, category, points, (10, 12, 60, 56), (90, 80), name))
    return made


def draw_sheet(measured):
    return pictures.draw_sheet(measured, data.load_crop)


def record(error, *answers):
    names = "abc"[: len(answers)]
    return {"NME": error, "PCK@0.20": 0.5, "predictions": dict(zip(names, answers, strict=True))}


def test_a_sheet_shows_truth_and_answer_where_they_are(instances):
    page, faults = draw_sheet([(instances[0], record(0.1, (60, 20), (30, 60)))])
    assert not faults and page.mode == "RGB"
    # Never narrower than two tiles: the key needs the space.
    assert page.width == 2 * (pictures.TILE + pictures.GAP) + pictures.GAP
    # The crop is the box made square, 1.1 times as wide, around its centre (40, 40).
    corner, side = 40 - 33, 66
    top = pictures.KEY + pictures.TITLE
    truths, answers = [(20, 30), (50, 60)], [(60, 20), (30, 60)]
    for places, colour in ((truths, pictures.TRUTH_COLOUR), (answers, pictures.ANSWER_COLOUR)):
        for place in places:
            x, y = (np.array(place) - corner) / side * pictures.TILE
            assert page.getpixel((pictures.GAP + int(x), top + int(y))) == colour
    # White lines join them, half-way.
    for truth, answer in zip(truths, answers, strict=True):
        x, y = (np.add(truth, answer) / 2 - corner) / side * pictures.TILE
        assert min(page.getpixel((pictures.GAP + int(x), top + int(y)))) > 200


def test_rows_of_a_sheet_are_the_best_the_middle_and_the_worst():
    for count in (1, 2, 3, 7, 12, 30):
        errors = np.random.default_rng(count).permutation(count)
        rows = pictures.choose_rows([(None, {"NME": error}) for error in errors.tolist()])
        shown = {title: [record["NME"] for _, record in row] for title, row in rows.items()}
        n = min(pictures.TILES_IN_ROW, max(1, count // 3))
        assert shown["best"] == list(range(n))
        assert shown["worst"] == list(range(count - n, count))
        assert len(shown["median"]) == n
        # As many are better than the middle row as are worse, or one fewer.
        assert 0 <= (count - n - shown["median"][0]) - shown["median"][0] <= 1
        if count >= 3:
            assert len({*shown["best"], *shown["median"], *shown["worst"]}) == 3 * n


def test_an_unreadable_image_leaves_its_tile_empty(instances):
    answers = (20, 30), (50, 60)
    measured = [(i, record(0.1 * i.id, *answers)) for i in instances]
    whole = np.asarray(draw_sheet(measured).page)
    instances[1].image.unlink()
    page, faults = draw_sheet(measured)
    assert faults == [f"{instances[1].image} is missing, needed by annotation 1"]
    changed = np.argwhere((np.asarray(page) != whole).any(2))
    # The second row, its caption included.
    row = pictures.TITLE + pictures.TILE + pictures.CAPTION
    top = pictures.KEY + row
    assert changed[:, 0].min() == top + pictures.TITLE and changed[:, 0].max() < top + row
    empty = np.asarray(page)[top + pictures.TITLE : top + row, pictures.GAP :]
    assert (empty == 255).all()


def test_a_contact_sheet_holds_one_image_of_each_category_and_its_labelled_keypoints(instances):
    page, faults = pictures.draw_contact_sheet(instances, data.load_crop)
    assert not faults
    assert page.size == (2 * pictures.THUMB, pictures.LINE + pictures.THUMB)
    pixels = np.asarray(page)
    red = (pixels == (255, 0, 0)).all(2)
    # By category: the boat, whose third keypoint is one pixel further to the right, then a kite.
    # The crop is the box made square around its centre (40, 40): its corner is (10, 10).
    for n, points in enumerate([[(20, 30), (51, 60)], [(20, 30), (50, 60)]]):
        tile = slice(n * pictures.THUMB, (n + 1) * pictures.THUMB)
        found = np.argwhere(red[pictures.LINE :, tile])[:, ::-1]
        expected = [(np.array(point) - 10) / 60 * pictures.THUMB for point in points]
        distances = np.stack([np.hypot(*(found - point).T) for point in expected])
        assert (distances.min(0) <= 3).all() and (distances.min(1) < 1).all()


def test_pixels_become_the_colours_they_were(instances):
    """Undoing data.cut_crop gives the image back, to the bit, where nothing is resampled."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))
    pixels = data.cut_crop(image, data.make_affine((0, 0, 28, 28), 28), 28)
    again = pictures.make_picture(pixels)
    assert np.array_equal(np.asarray(again), np.asarray(image))
    beyond = pictures.make_picture(torch.tensor([-9.0, 0, 9]).view(3, 1, 1))
    assert beyond.getpixel((0, 0)) == (0, 116, 255)


def test_a_picture_is_refused_before_the_work_or_written(tmp_path):
    Image.init()
    page, refused = Image.new("RGB", (9, 9)), []
    for suffix in [*Image.registered_extensions(), "", ".", ".x", ".PNG"]:
        path = tmp_path / f"page{suffix}"
        try:
            pictures.check_picture_name("--out", path)
        except ValueError as error:
            assert f"--out {path}: no picture format" in str(error)
            refused.append(suffix)
        else:
            page.save(path)
    assert {"", ".x", ".xbm", ".psd"} <= set(refused)
    assert not {".png", ".PNG", ".jpg", ".webp", ".gif", ".pdf"} & set(refused)
