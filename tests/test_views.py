"""study/views.py: points stay where their pixels go, and poses are those that photographs show."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

import data
from capellm import Codec
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


@pytest.fixture
def keep_colours(monkeypatch):
    """The dots' colours stay those of their points, in whatever light."""
    monkeypatch.setattr(views, "exchange_colours", lambda pixels, rng: pixels)


@pytest.fixture
def keep_shapes(keep_colours, monkeypatch):
    monkeypatch.setattr(views, "STRETCH", 0.0)
    monkeypatch.setattr(views, "TURN", 0.0)


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


def test_a_line_has_no_mirror_image():
    """Points on a line, annotated to a pixel: none lies mirrored beside the others."""
    generator = np.random.default_rng(2)
    along = np.linspace(-150, 150, 5)
    for _ in range(100):
        points = np.stack([along, generator.normal(size=5), np.ones(5)], 1)
        reference = np.stack([along, generator.normal(size=5), np.ones(5)], 1)
        moved = turn(points, generator.uniform(-np.pi, np.pi))
        assert not views.find_pose(moved, reference).mirrored


def test_the_reference_does_not_count_as_another(tmp_path):
    """Of two photographs one fits itself, which says nothing about what bends."""
    bent = SHAPE + [[0, 0, 0], [0, 0, 0], [0, -40, 0]]
    assert views.find_pose(bent, SHAPE).fit < views.RIGID
    instances = [draw_instance(tmp_path, n, points) for n, points in enumerate((SHAPE, bent))]
    assert views.find_poses(instances) == [views.UNKNOWN] * 2


def test_what_bends_is_not_turned(tmp_path, monkeypatch, keep_shapes):
    """Random places have no pose; every view is as the authors'."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.0, 0.0))
    generator, instances = np.random.default_rng(1), []
    for n in range(9):
        points = np.concatenate([generator.uniform(40, 160, (8, 2)), np.full((8, 1), 2)], 1)
        instances.append(draw_instance(tmp_path, n, points))
    augment = views.WideViews(instances, make_keypoints(*"abcdefgh"))
    for seed in range(20):
        _, points, _ = augment(instances[0], SIZE, random.Random(seed))
        np.testing.assert_allclose(points[:, :2] * 200, instances[0].keypoints[:, :2], atol=1e-4)


def find_dots(pixels):
    """Centres (3, 2) of the dots in pixels (3, S, S), relative to S."""
    light = pixels - pixels.amin((1, 2), keepdim=True)
    share = (light / light.sum((1, 2), keepdim=True)).numpy()
    centres = (np.arange(SIZE) + 0.5) / SIZE
    return np.stack([share.sum(1) @ centres, share.sum(2) @ centres], 1)


@pytest.mark.parametrize("angle, mirrored", [(0, False), (2.2, False), (0.7, True), (np.pi, True)])
def test_a_view_shows_an_image_as_another_lies(
    tmp_path, monkeypatch, keep_shapes, angle, mirrored
):
    """Two photographs in different poses: views of the one lie as the one or as the other does, and
    points are where their dots are."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.4, 0.0))
    first = draw_instance(tmp_path, 1, SHAPE)
    second = draw_instance(tmp_path, 2, turn(SHAPE, angle, mirrored))
    augment = views.WideViews([first, second], make_keypoints("one", "two", "three"))
    kinds = set()
    for seed in range(12):
        pixels, points, _ = augment(first, SIZE, random.Random(seed))
        assert np.abs(find_dots(pixels) - points[:, :2]).max() < 0.02
        poses = [views.find_pose(points, other.keypoints) for other in (first, second)]
        fits = [abs(np.angle(np.exp(1j * pose.angle))) < 0.01 for pose in poses]
        kinds |= {n for n in (0, 1) if fits[n] and not poses[n].mirrored}
    assert kinds == {0, 1}


@pytest.mark.parametrize(
    "names, description",
    [
        (("left end", "middle", "top"), "a dot"),
        (("end", "middle", "top"), "right of the middle"),
        (("LF_paw", "RF_paw", "tail"), "a dot"),
        (("earL", "earR", "nose"), "a dot"),
        (("Ohr links", "Ohr rechts", "Nase"), "a dot"),
        (("oreja izquierda", "oreja derecha", "nariz"), "a dot"),
    ],
)
def test_what_has_a_side_without_counterpart_is_not_mirrored(tmp_path, names, description):
    shapes = [SHAPE, turn(SHAPE, 0, True)]
    instances = [draw_instance(tmp_path, n, shape) for n, shape in enumerate(shapes)]
    augment = views.WideViews(instances, make_keypoints(*names, description=description))
    for seed in range(20):
        _, points, _ = augment(instances[0], SIZE, random.Random(seed))
        assert not views.find_pose(points, SHAPE).mirrored


@pytest.mark.parametrize(
    "names",
    [("left ear", "right ear", "nose"), ("Ear_L", "Ear_R", "nose"), ("leftear", "rightear", "tip")],
)
def test_a_mirror_exchanges_left_and_right(tmp_path, monkeypatch, keep_shapes, names):
    """In half of the views the dot on the other side is called left."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.2, 0.0))
    instance = draw_instance(tmp_path, 1, SHAPE)
    augment = views.WideViews([instance], make_keypoints(*names))
    mirrored = 0
    for seed in range(200):
        pixels, points, called = augment(instance, SIZE, random.Random(seed))
        dots = find_dots(pixels)
        assert np.abs(dots - points[:, :2]).max() < 0.02
        is_mirrored = dots[0, 0] > dots[1, 0]
        assert list(called) == ([1, 0, 2] if is_mirrored else [0, 1, 2])
        mirrored += is_mirrored
    assert 70 < mirrored < 130


def test_what_is_seen_from_one_side_is_asked_by_its_other_name(
    tmp_path, monkeypatch, tiny_tokenizer, keep_shapes
):
    """Only the left ear is labelled: in mirrored views the question is for the right one, and all
    views show it at half the size that the plain crop does."""
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (2.0, 0.0))
    shape = SHAPE * [1, 1, 0] + [0, 0, 2]
    shape[1, 2] = 0
    instance = draw_instance(tmp_path, 1, shape)
    described = make_keypoints("left ear", "right ear", "nose")
    codec = Codec(tiny_tokenizer)
    pairs = data.Pairs(
        [instance], described, tiny_tokenizer, codec, SIZE, k=1,
        augment=views.WideViews([instance], described),
    )
    questions = [data.write_question(tiny_tokenizer, keypoint) for keypoint in described[1]]
    asked = []
    for epoch in range(60):
        pairs.set_epoch(epoch)
        assert len(pairs) == 2
        for pair in pairs:
            ids = pair.conversation.ids
            (n,) = [n for n, q in enumerate(questions) if ids[:len(q)] == q]
            (place,) = pair.conversation.points
            # At twice the scale, the ear is half as far from the middle (100, 100).
            x = {0: 0.4, 1: 0.6, 2: 0.5}[n]
            y = 0.6 if n == 2 else 0.45
            assert place == pytest.approx((x, y), abs=1e-6)
            asked.append(n)
    assert asked.count(2) == 60 and 15 < asked.count(1) < 45


def find_counterparts(*names, description="a dot"):
    return views.find_counterparts(make_keypoints(*names, description=description)[1])


def test_counterparts_are_complete_or_none():
    assert find_counterparts("left eye", "nose", "right eye") == [2, 1, 0]
    assert find_counterparts("Left_Eye", "nose", "right eye") == [2, 1, 0]
    assert find_counterparts("left eye", "right eye", "L ear", "R ear") == [1, 0, 3, 2]
    assert find_counterparts("left eye", "nose") is None
    assert find_counterparts("eye", "nose") is None


def test_what_tells_sides_apart_in_another_way_has_no_counterparts():
    """In a mirror such a name or description would be wrong."""
    assert find_counterparts("left eye", "right eye", "L ear", "nose") is None
    names = ("left rim", "right rim", "handle")
    assert find_counterparts(*names, description="on the right") is None
    assert find_counterparts(*names, description="between left and right") == [1, 0, 2]
    assert find_counterparts("left eye", "nose", "Right Eye", "left ear") is None
    assert find_counterparts("left eye", "right eye", "LF paw", "RF paw") is None
    assert find_counterparts("left eye", "right eye", "link 1", "IR lamp") == [1, 0, 2, 3]


def test_points_stay_with_their_pixels_in_every_view(tmp_path, keep_colours):
    """Turned, mirrored, stretched and in another light."""
    shapes = [turn(SHAPE, angle, angle > 0) for angle in np.linspace(-3, 3, 6)]
    instances = [draw_instance(tmp_path, n, shape) for n, shape in enumerate(shapes)]
    augment = views.WideViews(instances, make_keypoints("one", "two", "three"))
    mirrored = 0
    for seed in range(100):
        pixels, points, _ = augment(instances[0], SIZE, random.Random(seed))
        assert points[:, 2].all()
        assert np.abs(find_dots(pixels) - points[:, :2]).max() < 0.02
        mirrored += views.find_pose(points, shapes[0]).mirrored
    assert 25 < mirrored < 75


def test_one_pose_is_turned_a_little(tmp_path, monkeypatch, keep_colours):
    monkeypatch.setattr(views, "STRETCH", 0.0)
    instances = [draw_instance(tmp_path, n, SHAPE) for n in range(3)]
    augment = views.WideViews(instances, make_keypoints("one", "two", "three"))
    angles = []
    for seed in range(100):
        _, points, _ = augment(instances[0], SIZE, random.Random(seed))
        angles.append(np.degrees(views.find_pose(points, SHAPE).angle))
    assert -15 <= min(angles) < -10 and 10 < max(angles) <= 15


def test_light_changes_and_colours_are_exchanged():
    """Each channel of a view is one of the image's, times a number, and a number for all."""
    pixels, rng = torch.rand(3, 8, 8), random.Random(0)
    orders = []
    for _ in range(200):
        view = views.exchange_colours(pixels, rng)
        orders.append([int((view[c] == pixels).all((1, 2)).nonzero()) for c in range(3)])
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    changed = sum(order != [0, 1, 2] for order in orders)
    assert 20 < changed < 80
    offsets = []
    for _ in range(20):
        view = views.change_light(pixels, rng)
        for channel, of_view in zip(pixels, view, strict=True):
            line = np.polyfit(channel.flatten(), of_view.flatten(), 1)
            np.testing.assert_allclose(np.polyval(line, channel), of_view, atol=1e-5)
            assert 0.5 < line[0] < 1.7
            offsets.append(line[1])
    offsets = np.array(offsets).reshape(20, 3)
    assert np.ptp(offsets, axis=1).max() < 1e-5 and np.ptp(offsets[:, 0]) > 0.1


def test_no_view_loses_a_keypoint_that_lies_on_the_box(tmp_path, keep_shapes):
    """However the object is turned: a box is drawn around it anew, and what comes too near goes
    back. Keypoints then come as near to the border as they did."""
    tight = (60, 80, 71, 61)
    shapes = [turn(SHAPE, angle) for angle in np.linspace(-3, 3, 9)]
    instances = [draw_instance(tmp_path, n, s) for n, s in enumerate(shapes)]
    instances[4] = instances[4]._replace(bbox=tight)
    augment = views.WideViews(instances, make_keypoints("one", "two", "three"))
    shares = []
    for seed in range(200):
        _, points, _ = augment(instances[4], SIZE, random.Random(seed))
        shares.append((points[:, 2] > 0).mean())
    assert np.mean(shares) == 1.0


def test_a_view_that_is_not_changed_is_the_plain_crop(tmp_path, monkeypatch, keep_shapes):
    monkeypatch.setattr(data, "draw_augmentation", lambda rng: (1.0, 0.0))
    monkeypatch.setattr(views, "change_light", lambda pixels, rng: pixels)
    instance = draw_instance(tmp_path, 1, SHAPE)._replace(bbox=(40, 60, 120, 110))
    augment = views.WideViews([instance], make_keypoints("one", "two", "three"))
    *found, _ = augment(instance, SIZE, random.Random(0))
    for ours, plain in zip(found, data.load_crop(instance, SIZE), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(plain), atol=1e-5)
