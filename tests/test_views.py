"""study/views.py: points stay where their pixels go, and poses are those that photographs show."""

import random

import numpy as np
import pytest
from PIL import Image

import data
from study import views
from support.coco import Instance
from support.descriptions import Keypoint

SIZE = 112


def turn(points, angle, mirrored=False):
    """Points (K, 3) of an image turned around its middle (100, 100) from x to y, mirrored first."""
    x, y = points[:, 0] - 100, points[:, 1] - 100
    if mirrored:
        x = -x
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([100 + c * x - s * y, 100 + s * x + c * y, points[:, 2]], 1)


def draw_instance(folder, n, points):
    """A photograph of dots: red, green and blue."""
    image = np.zeros((200, 200, 3), np.uint8)
    for j, (x, y, _) in enumerate(points):
        image[round(y) - 3:round(y) + 3, round(x) - 3:round(x) + 3, j % 3] = 255
    path = folder / f"{n}.png"
    Image.fromarray(image).save(path)
    return Instance(n, path, 1, points, (0, 0, 200, 200), (200, 200), "thing")


def make_keypoints(*names, description="a dot"):
    return {1: [Keypoint(name, description) for name in names]}


SHAPE = np.array([[60.0, 80, 2], [130, 90, 2], [100, 140, 2]])


def test_a_pose_is_the_angle_by_which_points_were_turned():
    """Whatever their size and place, with noise nearly; the mirror image of a set is recognised."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        points = np.concatenate([generator.normal(size=(6, 2)), np.ones((6, 1))], 1)
        angle, scale = generator.uniform(-np.pi, np.pi), generator.uniform(0.2, 5)
        moved = turn(points, angle)
        moved[:, :2] = moved[:, :2] * scale + generator.normal(size=2) * 10
        moved[:, :2] += generator.normal(size=(6, 2)) * 0.02 * scale
        pose = views.find_pose(moved, points)
        assert not pose.mirrored
        assert abs(np.angle(np.exp(1j * (pose.angle - angle)))) < 0.15
        mirrored = moved * [-1, 1, 1]
        assert views.find_pose(mirrored, points).mirrored


def test_two_points_say_nothing_about_a_pose():
    points = SHAPE * [1, 1, 0] + [0, 0, 1]
    points[2, 2] = 0
    assert views.find_pose(turn(points, 1.0), points) == views.UNKNOWN


def test_what_bends_is_not_turned(tmp_path, monkeypatch):
    """Random places have no pose; every view is as the authors'."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.0, 0.0))
    generator, instances = np.random.default_rng(1), []
    for n in range(9):
        points = np.concatenate([generator.uniform(40, 160, (8, 2)), np.full((8, 1), 2)], 1)
        instances.append(draw_instance(tmp_path, n, points))
    augment = views.WideViews(instances, make_keypoints(*"abcdefgh"))
    for seed in range(20):
        _, points = augment(instances[0], SIZE, random.Random(seed))
        np.testing.assert_allclose(points[:, :2] * 200, instances[0].keypoints[:, :2], atol=1e-4)


def find_dots(pixels):
    """Centres (3, 2) of the dots in pixels (3, S, S), relative to S."""
    light = pixels - pixels.amin((1, 2), keepdim=True)
    share = (light / light.sum((1, 2), keepdim=True)).numpy()
    centres = (np.arange(SIZE) + 0.5) / SIZE
    return np.stack([share.sum(1) @ centres, share.sum(2) @ centres], 1)


@pytest.fixture(autouse=True)
def keep_colours_and_shapes(monkeypatch):
    monkeypatch.setattr(views, "exchange_colours", lambda pixels, rng: pixels)
    monkeypatch.setattr(views, "STRETCH", 0.0)
    monkeypatch.setattr(views, "TURN", 0.0)


@pytest.mark.parametrize("angle, mirrored", [(0, False), (2.2, False), (0.7, True), (np.pi, True)])
def test_a_view_shows_an_image_as_another_lies(tmp_path, monkeypatch, angle, mirrored):
    """Two photographs in different poses: views of the one lie as the one or as the other does, and
    points are where their dots are."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.4, 0.0))
    first = draw_instance(tmp_path, 1, SHAPE)
    second = draw_instance(tmp_path, 2, turn(SHAPE, angle, mirrored))
    augment = views.WideViews([first, second], make_keypoints("one", "two", "three"))
    kinds = set()
    for seed in range(12):
        pixels, points = augment(first, SIZE, random.Random(seed))
        assert np.abs(find_dots(pixels) - points[:, :2]).max() < 0.02
        poses = [views.find_pose(points, other.keypoints) for other in (first, second)]
        fits = [abs(np.angle(np.exp(1j * pose.angle))) < 0.01 for pose in poses]
        kinds |= {n for n in (0, 1) if fits[n] and not poses[n].mirrored}
    assert kinds == {0, 1}


@pytest.mark.parametrize(
    "names, description",
    [(("left end", "middle", "top"), "a dot"), (("end", "middle", "top"), "right of the middle")],
)
def test_what_has_a_side_without_counterpart_is_not_mirrored(tmp_path, names, description):
    shapes = [SHAPE, turn(SHAPE, 0, True)]
    instances = [draw_instance(tmp_path, n, shape) for n, shape in enumerate(shapes)]
    augment = views.WideViews(instances, make_keypoints(*names, description=description))
    for seed in range(20):
        _, points = augment(instances[0], SIZE, random.Random(seed))
        assert not views.find_pose(points, SHAPE).mirrored


def test_a_mirror_exchanges_left_and_right(tmp_path, monkeypatch):
    """The dot on the left keeps the name of the left one, in half of the views."""
    names = ("left ear", "right ear", "nose")
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.2, 0.0))
    instance = draw_instance(tmp_path, 1, SHAPE)
    augment = views.WideViews([instance], make_keypoints(*names))
    mirrored = 0
    for seed in range(200):
        pixels, points = augment(instance, SIZE, random.Random(seed))
        dots = find_dots(pixels)
        is_mirrored = dots[0, 0] > dots[1, 0]
        order = [1, 0, 2] if is_mirrored else [0, 1, 2]
        assert np.abs(dots[order] - points[:, :2]).max() < 0.02
        mirrored += is_mirrored
    assert 70 < mirrored < 130


def test_counterparts_are_complete_or_none():
    assert views.find_counterparts(["left eye", "nose", "right eye"]) == [2, 1, 0]
    assert views.find_counterparts(["left eye", "nose"]) is None
    assert views.find_counterparts(["eye", "nose"]) is None


def test_points_stay_with_their_pixels_when_stretched(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "STRETCH", 0.2)
    instance = draw_instance(tmp_path, 1, SHAPE)
    augment = views.WideViews([instance], make_keypoints("one", "two", "three"))
    for seed in range(40):
        pixels, points = augment(instance, SIZE, random.Random(seed))
        assert points[:, 2].all()
        assert np.abs(find_dots(pixels) - points[:, :2]).max() < 0.02


def test_no_view_loses_a_keypoint_that_lies_on_the_box(tmp_path):
    """However the object is turned: a box is drawn around it anew, and what comes too near goes
    back. Keypoints then come as near to the border as they did."""
    tight = (50, 70, 90, 80)
    shapes = [turn(SHAPE, angle) for angle in np.linspace(-3, 3, 9)]
    instances = [draw_instance(tmp_path, n, s) for n, s in enumerate(shapes)]
    instances[4] = instances[4]._replace(bbox=tight)
    augment = views.WideViews(instances, make_keypoints("one", "two", "three"))
    shares = []
    for seed in range(200):
        _, points = augment(instances[4], SIZE, random.Random(seed))
        shares.append((points[:, 2] > 0).mean())
    assert np.mean(shares) == 1.0


def test_a_view_that_is_not_changed_is_the_plain_crop(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.0, 0.0))
    monkeypatch.setattr(views, "change_light", lambda pixels, rng: pixels)
    instance = draw_instance(tmp_path, 1, SHAPE)._replace(bbox=(40, 60, 120, 110))
    augment = views.WideViews([instance], make_keypoints("one", "two", "three"))
    found = augment(instance, SIZE, random.Random(0))
    for ours, plain in zip(found, data.load_crop(instance, SIZE), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(plain), atol=1e-5)
