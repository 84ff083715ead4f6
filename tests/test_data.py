"""data.py: crops, conversations, rounds and pairs against closed forms and properties."""

import json
import random
from copy import copy
from itertools import combinations, groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import data
from capellm import Codec
from helpers import one_line, photo
from study.instructions import INSTRUCTIONS
from support import batches
from support.descriptions import describe_categories
from support.photos import PIXEL_MEAN, PIXEL_STD

# Crops

sides = st.floats(0.5, 900)
boxes = st.tuples(st.floats(-500, 500), st.floats(-500, 500), sides, sides)
sizes = st.sampled_from([28, 112, 224])


@settings(deadline=None)
@given(
    box=boxes,
    size=sizes,
    scale=st.floats(0.7, 1.3),
    angle=st.floats(-3.2, 3.2),
    seed=st.integers(0, 9),
)
def test_to_crop_inverts_to_image(box, size, scale, angle, seed):
    affine = data.make_affine(box, size, scale, angle)
    points = np.random.default_rng(seed).uniform(-1, 2, (5, 2))
    pixels = data.map_to_image(points, affine, size)
    np.testing.assert_allclose(data.map_to_crop(pixels, affine, size), points, atol=1e-6)
    # The closed form: a rotation about the centre of the box, one crop width being the longest
    # side times scale. In complex numbers.
    x, y, w, h = box
    turned = (points - 0.5) @ [1, 1j] * np.exp(1j * angle) * max(w, h) * scale
    expected = [x + w / 2, y + h / 2] + np.stack([turned.real, turned.imag], 1)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


@settings(deadline=None)
@given(box=boxes)
def test_the_crop_is_square_and_holds_the_box(box):
    x, y, w, h = box
    (x0, y0), (x1, y1) = data.map_to_image([[0, 0], [1, 1]], data.make_affine(box, 224), 224)
    assert x1 - x0 == pytest.approx(max(w, h)) and y1 - y0 == pytest.approx(max(w, h))
    assert x0 <= x + 1e-6 and y0 <= y + 1e-6
    assert x1 >= x + w - 1e-6 and y1 >= y + h - 1e-6
    assert (x0 + x1) / 2 == pytest.approx(x + w / 2, abs=1e-6)


def undo_normalisation(pixels):
    """(3, S, S), the values 0 ... 255 before."""
    return (pixels * PIXEL_STD + PIXEL_MEAN) * 255


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def ramp(width, height):
    """Three channels of 20 + 200 (x + y) / (width + height) at the pixel coordinates x, y."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    values = (20 + 200 * (x + y) / (width + height)).round().astype(np.uint8)
    return Image.fromarray(np.repeat(values[..., None], 3, 2))


@pytest.mark.parametrize(
    "box, scale, angle",
    [
        ((60, 50, 80, 40), 1, 0),
        ((60.3, 50.7, 21, 30.5), 1, 0),
        ((60, 50, 80, 60), 0.8, 0.6),
        ((150, 120, 200, 260), 1.2, -0.4),
        ((200, 60, 390, 400), 1, 0.3),
    ],
)
def test_crop_of_a_ramp(box, scale, angle):
    """A linear ramp stays linear under bilinear resampling and box averaging: all is known."""
    affine = data.make_affine(box, 56, scale, angle)
    centres = (np.arange(56) + 0.5) / 56
    grid = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
    points = data.map_to_image(grid, affine, 56).reshape(56, 56, 2)
    expected = 20 + 200 * points.sum(-1) / (800 + 640)
    inside = ((points > 5) & (points < [795, 635])).all(-1)
    assert inside.mean() > 0.8
    expected = expected[inside]
    image = ramp(800, 640)
    up = undo_normalisation(data.cut_crop(image, affine, 56)).numpy()[:, inside]
    down = undo_normalisation(data.cut_crop(ImageOps.invert(image), affine, 56)).numpy()[:, inside]
    # 8 bits, rounded or cut three times.
    assert np.abs(up - expected).max() < 1.6
    assert np.abs(down - (255 - expected)).max() < 1.6
    # What is cut off cancels, a shift of the ramp does not.
    shift = ((up - down) - (2 * expected - 255)).mean() / 2
    slope = 200 / 1440
    assert abs(shift) < 0.07 * slope * max(max(box[2:]) * scale / 56, 1)


def test_crop_at_its_own_size_copies_pixels():
    image = photo(90, 80)
    crop = undo_normalisation(data.cut_crop(image, data.make_affine((30, 20, 40, 40), 40), 40))
    expected = to_tensor(image.crop((30, 20, 70, 60)))
    torch.testing.assert_close(crop, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [40, 80, 120])
def test_a_quarter_turn_turns_the_crop(side):
    image, box = photo(200, 180), (30, 20, side, side)
    plain = data.cut_crop(image, data.make_affine(box, 40), 40)
    turned = data.cut_crop(image, data.make_affine(box, 40, angle=np.pi / 2), 40)
    # To the right in the crop is now down in the image.
    torch.testing.assert_close(turned, torch.rot90(plain, 1, (1, 2)), atol=0.05, rtol=0)


@pytest.mark.parametrize("side, size", [(80, 40), (120, 40), (160, 40)])
def test_strong_reductions_are_averages(side, size):
    image = photo(200, 200)
    n = side // size
    x, y = 3 * n, 2 * n
    crop = data.cut_crop(image, data.make_affine((x, y, side, side), size), size)
    values = to_tensor(image)[:, y : y + side, x : x + side]
    expected = torch.nn.functional.avg_pool2d(values, n)
    torch.testing.assert_close(undo_normalisation(crop), expected, atol=0.6, rtol=0)


QUARTERS = [
    (rows, columns)
    for rows in (slice(2, 28), slice(28, -2))
    for columns in (slice(2, 28), slice(28, -2))
]


@pytest.mark.parametrize(
    "width, height, box",
    [
        (1003, 1301, (100, 150, 800, 1000)),
        (2407, 601, (1700, 0, 701, 601)),
        (1207, 803, (700, 300, 503, 500)),
        (9, 1200, (0, 0, 9, 1200)),
    ],
)
def test_jpeg_draft_shows_the_same_places(tmp_path, width, height, box):
    """Large JPEGs are decoded at 1/2, 1/4 or 1/8.

    Waves of eight crop pixels must not move by more than 0.05 of one.
    """
    size, side = 56, max(box[2:])
    wave = 2 * np.pi / 8 * size / side
    x, y = np.meshgrid(wave * (np.arange(width) + 0.5), wave * (np.arange(height) + 0.5))
    waves = np.stack([np.sin(x), np.cos(x), np.sin(y)], -1)
    image = Image.fromarray((127 + 100 * waves).astype(np.uint8))
    image.save(tmp_path / "x.jpg", quality=95, subsampling=0)
    place = [box[0] + 5, box[1] + 5]
    instance = data.Instance(1, tmp_path / "x.jpg", 1, np.array([[*place, 2]], np.float32), box)
    drafted, points = data.load_crop(instance, size)
    drafted = undo_normalisation(drafted).numpy()
    affine = data.make_affine(box, size)
    plain = undo_normalisation(data.cut_crop(image, affine, size)).numpy()
    error = drafted - plain
    assert np.abs(error[:, 2:-2, 2:-2]).mean() < 3
    # Two channels change along x, the third along y.
    slope = np.stack([np.gradient(p, axis=axis) for p, axis in zip(plain, (1, 1, 0), strict=True)])
    # Each quarter on its own, so that a wrong scale shows too.
    for rows, columns in QUARTERS:
        g, e = slope[:, rows, columns], error[:, rows, columns]
        assert np.all(np.abs((g * e).sum((1, 2))) <= 0.05 * (g * g).sum((1, 2)))
    expected = data.map_to_crop([place], affine, size)
    np.testing.assert_allclose(points[:, :2], expected, atol=1e-6)


def test_load_crop_keeps_what_is_annotated(tmp_path):
    photo(60, 50).save(tmp_path / "x.png")
    labelled = [[20, 20, 2], [25, 22, 1], [25, 22, 0], [59, 49, 2], [10, 10, 2], [40, 30, 2]]
    labelled = np.array(labelled, np.float32)
    instance = data.Instance(1, tmp_path / "x.png", 1, labelled, (10, 10, 30, 20))
    pixels, points = data.load_crop(instance, 28)
    assert pixels.shape == (3, 28, 28) and pixels.dtype == torch.float32
    # The crop is the square (10, 5) to (40, 35).
    np.testing.assert_allclose(points[:, 0], (labelled[:, 0] - 10) / 30, atol=1e-6)
    np.testing.assert_allclose(points[:, 1], (labelled[:, 1] - 5) / 30, atol=1e-6)
    np.testing.assert_array_equal(points[:, 2], labelled[:, 2])
    # Its right edge has no code.
    has_code = Codec.has_code(points[:, :2]).all(1)
    assert has_code.tolist() == [True, True, True, False, True, False]


# Conversations

SPECIAL = [
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "</s>",
    "<s>",
    "<unk>",
    "[INST]",
    "{name}",
    "[0.123,0.456]",
]


def part_rounds(conversation):
    """[(question's ids, answer's ids)]: an answer is a run of tokens that carry loss."""
    ids, labels, _ = conversation
    assert len(ids) == len(labels)
    runs = []
    for labelled, run in groupby(
        zip(ids, labels, strict=True), lambda token: token[1] != data.IGNORE
    ):
        tokens = list(run)
        assert all(label in (data.IGNORE, id) for id, label in tokens)
        runs.append((labelled, [id for id, _ in tokens]))
    assert [labelled for labelled, _ in runs] == [False, True] * (len(runs) // 2)
    return [(runs[i][1], runs[i + 1][1]) for i in range(0, len(runs), 2)]


@pytest.mark.parametrize("name", ["llama3", "v1", "v3", "tiny"])
def test_labels_lie_exactly_on_the_answers(tokenizers, name):
    tokenizer = tokenizers[name]
    rng, rounds = random.Random(0), []
    for i, special in enumerate(SPECIAL):
        description = f"Near {special}, below {special}." if i % 2 else ""
        place = rng.random() * 0.99, rng.random() * 0.99
        rounds.append((data.Keypoint(f"{special} corner", description), place))
    conversation = data.write_conversation(tokenizer, Codec(tokenizer), rounds)
    found = part_rounds(conversation)
    assert sum((asked + answered for asked, answered in found), []) == conversation.ids
    for (asked, answered), (keypoint, (x, y)) in zip(found, rounds, strict=True):
        *answer, end = answered
        assert end == tokenizer.eos_id and tokenizer.eos_id not in answer
        expected = f"[0.{int(1000 * x + 0.5):03},0.{int(1000 * y + 0.5):03}]"
        assert tokenizer.decode(answer).strip() == expected
        # What users write comes back as they wrote it.
        text = tokenizer.decode(asked)
        assert keypoint.name in text and keypoint.description in text
        assert text.endswith("ASSISTANT:")
        assert tokenizer.eos_id not in asked and tokenizer.bos_id not in asked
        assert max(asked) < tokenizer.bos_id or name != "llama3"
        assert asked == tokenizer.encode(text) == data.write_question(tokenizer, keypoint)


def test_a_keypoint_without_description(tokenizers):
    tokenizer = tokenizers["llama3"]
    text = tokenizer.decode(data.write_question(tokenizer, data.Keypoint("left eye", "")))
    assert "left eye" in text and "description" not in text and "  " not in text


# Rounds


def draw_indices(n, below, seed):
    return random.Random(seed).sample(range(below), n)


@settings(deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_fixed_rounds(n, k, seed):
    indices = list(range(n))
    groups = data.group_fixed(indices, k, random.Random(seed), [10] * n, None)
    assert len(groups) == -(-n // k) and all(len(group) == min(k, n) for group in groups)
    # All are asked, nothing else is.
    asked = sum(groups, [])
    assert set(asked) == set(indices)
    # Repeats stand only where the last group is filled up.
    assert len(set(asked[:n])) == n
    if n >= k:
        own = n - (len(groups) - 1) * k
        filling = groups[-1][own:]
        assert len(set(filling)) == len(filling)
        assert not set(filling) & set(groups[-1][:own])
    assert groups == data.group_fixed(indices, k, random.Random(seed), [10] * n, None)
    # What cannot be asked falls out of its group, and nothing else changes.
    askable = draw_indices(random.Random(seed).randint(1, n), n, seed)
    kept = [[j for j in group if j in askable] for group in groups]
    found = data.group_fixed(askable, k, random.Random(seed), [10] * n, None)
    assert found == [group for group in kept if group]


def test_an_epoch_of_fixed_rounds_has_as_many_pairs_as_the_authors(tiny_tokenizer):
    """8 of 17 keypoints are visible: 17 make 5 groups of 4, 8 visible ones alone would make 2."""
    visible = [1, 2, 3, 5, 8, 11, 13, 16]
    counts = [
        len(data.group_fixed(visible, 4, random.Random(seed), [10] * 17, None))
        for seed in range(2000)
    ]
    # Four groups hold 4 of 17 in turn, the last one 1 and three that were used: it is drawn anew.
    draws = []
    for seed in range(2000):
        order = random.Random(f"own {seed}").sample(range(17), 17)
        parts = [order[i : i + 4] for i in range(0, 16, 4)]
        parts.append(order[16:] + random.Random(f"more {seed}").sample(order[:16], 3))
        draws.append(sum(any(j in visible for j in part) for part in parts))
    assert np.mean(counts) > 4.5 and abs(np.mean(counts) - np.mean(draws)) < 0.05


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=70),
    room=st.integers(80, 2000),
    seed=st.integers(0, 99),
)
def test_dynamic_rounds(lengths, room, seed):
    n = random.Random(seed).randint(1, len(lengths))
    indices = draw_indices(n, len(lengths), seed)
    groups = data.group_dynamic(indices, 4, random.Random(seed), lengths, room)
    # Each once, nothing else.
    assert sorted(sum(groups, [])) == sorted(indices)
    assert all(0 < sum(lengths[i] for i in group) <= room for group in groups)
    assert groups == data.group_dynamic(indices, 4, random.Random(seed), lengths, room)


def list_cycle_lengths(permutation):
    lengths, left = [], set(range(len(permutation)))
    while left:
        at, length = min(left), 0
        while at in left:
            left.remove(at)
            at, length = permutation[at], length + 1
        lengths.append(length)
    return lengths


def test_dynamic_groups_are_cycles_of_a_random_permutation():
    """Against the cycles themselves: n keypoints make 1/s groups of each size s on average."""
    n, draws, rng = 6, 6000, random.Random(0)
    ours, cycles = [], []
    for _ in range(draws):
        groups = data.group_dynamic(range(n), 4, rng, [10] * n, 10 * n)
        ours += [len(group) for group in groups]
        cycles += list_cycle_lengths(rng.sample(range(n), n))
    expected = 1 / np.arange(1, n + 1)
    for lengths in (ours, cycles):
        counts = np.bincount(lengths, minlength=n + 1)[1:]
        np.testing.assert_allclose(counts / draws, expected, atol=5 * (1 / draws) ** 0.5)


def test_dynamic_sizes_are_uniform_up_to_what_fits():
    firsts = []
    for seed in range(2100):
        groups = data.group_dynamic(range(40), 4, random.Random(seed), [100] * 40, 799)
        firsts.append(len(groups[0]))
    # Seven rounds of 100 tokens fit.
    assert set(firsts) == set(range(1, 8))
    counts = np.bincount(firsts)[1:]
    np.testing.assert_allclose(counts, 300, atol=5 * 300**0.5)


@settings(deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_locllm_rounds(n, k, seed):
    indices = draw_indices(n, 100, seed)
    (group,) = data.group_locllm(indices, k, random.Random(seed), None, None)
    assert len(group) == len(set(group)) == min(k, n) and set(group) <= set(indices)


def test_locllm_asks_each_keypoint_equally_often():
    asked = []
    for seed in range(3000):
        (group,) = data.group_locllm(range(12), 4, random.Random(seed), None, None)
        asked += group
    deviation = (3000 * 1 / 3 * 2 / 3) ** 0.5
    np.testing.assert_allclose(np.bincount(asked), 1000, atol=5 * deviation)


# Pairs

VISIBLE = [8, 5, 8, 1, 3]
# The third one's keypoints 3 and 4 are labelled, but outside of the box.
OUTSIDE = {2: [3, 4]}
ASKABLE = [list(range(8)), list(range(5)), [0, 1, 2, 5, 6, 7], [0], [0, 1, 2]]


@pytest.fixture(scope="module")
def skirts(tmp_path_factory):
    """Five instances of 8 keypoints: all visible, some hidden, some outside, a single one."""
    folder = tmp_path_factory.mktemp("skirts")
    rng, instances = np.random.default_rng(0), []
    for i, visible in enumerate(VISIBLE):
        file = folder / f"{i}.png"
        photo(64, 48, i).save(file)
        x, y = rng.uniform(12, 48, 8), rng.uniform(8, 40, 8)
        points = np.stack([x, y, 2.0 * (np.arange(8) < visible)], 1).astype(np.float32)
        points[OUTSIDE.get(i, []), 0] = 3
        instances.append(data.Instance(i, file, 1, points, (10, 4, 40, 40), name="skirt"))
    return instances


@pytest.fixture(scope="module")
def described(skirts):
    return describe_categories(skirts, {1: "skirt"})


@pytest.fixture
def make_pairs(skirts, described, tokenizers):
    """make(...) makes Pairs of the skirts, in Llama 3's tokens, crops 28 pixels wide."""

    def make(instances=skirts, tokenizer=tokenizers["llama3"], **options):
        return data.Pairs(instances, described, tokenizer, Codec(tokenizer), 28, **options)

    return make


def list_asked(pairs):
    """[(instance, [keypoint, ...])] of an epoch, the keypoints as the token ids tell."""
    described = pairs.described[1]
    questions = [data.write_question(pairs.tokenizer, keypoint) for keypoint in described]
    asked = []
    for plan, pair in zip(pairs.plans, pairs, strict=True):
        group = [questions.index(question) for question, _ in part_rounds(pair.conversation)]
        asked.append((plan.position, group))
    return asked


def list_groups(asked, instance):
    return [group for n, group in asked if n == instance]


def same_pair(a, b):
    return torch.equal(a.pixels, b.pixels) and a.conversation == b.conversation


def test_every_askable_keypoint_is_asked_once_an_epoch(make_pairs):
    pairs = make_pairs(k=4, augment=False)
    for epoch in range(3):
        pairs.set_epoch(epoch)
        asked = list_asked(pairs)
        for n, expected in enumerate(ASKABLE):
            groups = list_groups(asked, n)
            # 8 keypoints are two groups of 4, of which some or all can be asked.
            assert 1 <= len(groups) <= 2 and all(len(group) <= 4 for group in groups)
            assert sorted(sum(groups, [])) == expected


# A round takes some 70 tokens: of 200, two fit.
@pytest.mark.parametrize(
    "rounds, trunk, most",
    [("dynamic", 257, 8), ("dynamic", 2048 - 200, 2), ("locllm", 257, 3)],
)
def test_dynamic_and_locllm_pairs(make_pairs, rounds, trunk, most):
    pairs = make_pairs(k=3, augment=False, rounds=rounds, trunk=trunk)
    sizes = set()
    for epoch in range(12):
        pairs.set_epoch(epoch)
        for pair in pairs:
            assert trunk + len(pair.conversation.ids) <= 2048
            assert pair.pixels.shape == (3, 28, 28)
        asked = list_asked(pairs)
        sizes |= {len(group) for _, group in asked}
        for n, expected in enumerate(ASKABLE):
            groups = list_groups(asked, n)
            if rounds == "dynamic":
                assert sorted(sum(groups, [])) == expected
            else:
                (group,) = groups
                assert len(group) == len(set(group)) == min(3, len(expected))
                assert set(group) <= set(expected)
    assert {1, most} <= sizes and max(sizes) == most


def list_possible_groups(rounds, k, askable):
    """The longest groups that can be drawn, of 8 keypoints of which some can be asked."""
    size = 1 if rounds == "dynamic" else min(k, len(askable))
    return list(combinations(askable, size))


@pytest.mark.parametrize(
    "rounds, k, remedy",
    [
        ("fixed", 3, "lower --k or shorten its descriptions"),
        ("fixed", 8, "lower --k or shorten its descriptions"),
        ("fixed", 10, "lower --k or shorten its descriptions"),
        ("locllm", 4, "lower --k or shorten its descriptions"),
        ("locllm", 20, "lower --k or shorten its descriptions"),
        ("dynamic", 99, "shorten its descriptions"),
    ],
)
def test_the_token_limit_is_kept_before_training(
    make_pairs, described, tokenizers, rounds, k, remedy
):
    """The longest pair that can occur just fits; one token more is refused."""
    tokenizer, lengths = tokenizers["llama3"], []
    for keypoint in described[1]:
        rounds_of_one = [(keypoint, (0, 0))]
        written = data.write_conversation(tokenizer, Codec(tokenizer), rounds_of_one)
        lengths.append(len(written.ids))
    worst = 0
    for askable in ASKABLE:
        for group in list_possible_groups(rounds, k, askable):
            worst = max(worst, sum(lengths[j] for j in group))
    assert len(make_pairs(k=k, rounds=rounds, trunk=2048 - worst))
    message = f"category 1 .skirt. .* 2049 tokens, more than 2048: {remedy}"
    with pytest.raises(ValueError, match=message) as error:
        make_pairs(k=k, rounds=rounds, trunk=2049 - worst)
    one_line(error)


@pytest.mark.parametrize("rounds", data.GROUPINGS)
def test_groups_do_not_depend_on_workers(make_pairs, rounds):
    pairs = make_pairs(k=3, rounds=rounds)
    epochs = {}
    for epoch in (3, 4):
        pairs.set_epoch(epoch)
        alone = list(torch.utils.data.DataLoader(pairs, batch_size=None))
        of_workers = list(torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=2))
        assert len(alone) == len(of_workers) == len(pairs)
        assert all(map(same_pair, alone, of_workers))
        epochs[epoch] = pairs.plans
    assert epochs[3] != epochs[4]
    again = make_pairs(k=3, rounds=rounds)
    again.set_epoch(3)
    assert again.plans == epochs[3]


SHARED = dict(seed=st.integers(0, 2**32), epoch=st.integers(0, 9), k=st.integers(1, 4))


@pytest.fixture(scope="module")
def make_shared(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]

    def make(epoch, **options):
        pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, **options)
        pairs.set_epoch(epoch)
        return pairs

    return make


@pytest.mark.parametrize("rounds", data.GROUPINGS)
@settings(deadline=None, max_examples=25)
@given(**SHARED)
def test_pairs_that_share_an_image_stand_side_by_side(make_shared, rounds, seed, epoch, k):
    """They are the same pairs as else."""
    alone = make_shared(epoch, rounds=rounds, share=False, seed=seed, k=k)
    shared = make_shared(epoch, rounds=rounds, share=True, seed=seed, k=k)
    expected = sorted((plan.position, plan.group) for plan in alone.plans)
    assert sorted((plan.position, plan.group) for plan in shared.plans) == expected
    images = [n for n, _ in groupby(plan.position for plan in shared.plans)]
    assert sorted(images) == list(range(len(shared.instances)))


@pytest.mark.parametrize("rounds", data.GROUPINGS)
@settings(deadline=None, max_examples=25)
@given(**SHARED)
def test_pairs_that_share_an_image_have_one_view(make_shared, rounds, seed, epoch, k):
    """And each of them is left a keypoint. What was loaded before does not count."""
    shared = make_shared(epoch, rounds=rounds, share=True, seed=seed, k=k)
    crops, forwards = {}, []
    for i, plan in enumerate(shared.plans):
        pair = shared[i]
        assert pair.view == plan.view
        assert torch.equal(crops.setdefault(plan.position, pair.pixels), pair.pixels)
        assert any(label != data.IGNORE for label in pair.conversation.labels)
        assert len(pair.conversation.ids) <= shared.count_tokens(i)
        forwards.append(pair)
    assert len({pair.view for pair in forwards}) == len(crops)
    for i in reversed(range(len(forwards))):
        assert same_pair(shared[i], forwards[i])
    fresh = copy(shared)
    fresh.loaded_view = None
    for i in random.Random(seed).sample(range(len(forwards)), 3):
        assert same_pair(fresh[i], forwards[i])


@pytest.mark.parametrize("instruction", ["base", "list", "steps"])
def test_tokens_are_counted_before_loading(make_pairs, instruction):
    """To the token where nothing is drawn and nothing leaves the crop."""
    pairs = make_pairs(augment=False, rounds="dynamic", instruction=instruction)
    counted = [pairs.count_tokens(i) for i in range(len(pairs))]
    assert counted == [len(pair.conversation.ids) for pair in pairs]


def test_a_pair_tells_which_sample_it_is(make_pairs, skirts):
    pairs = make_pairs(k=2, augment=False)
    views = {}
    for i in skirts:
        views[f"{i.image} (annotation {i.id}, skirt)"] = data.load_crop(i, 28)[0]
    assert {batches.name_sample(pairs, i) for i in range(len(pairs))} == set(views)
    for i, pair in enumerate(pairs):
        assert torch.equal(pair.pixels, views[batches.name_sample(pairs, i)])


def read_answer(tokenizer, pair):
    """The coordinates in a pair's only answer."""
    ((_, answer),) = part_rounds(pair.conversation)
    return json.loads(tokenizer.decode(answer[:-1]))


def test_answers_are_the_keypoints_places(make_pairs, skirts):
    pairs = make_pairs(k=1, augment=False)
    for plan, pair in zip(pairs.plans, pairs, strict=True):
        instance, (j,) = skirts[plan.position], plan.group
        # The crop's box is (10, 4, 40, 40).
        expected = (instance.keypoints[j, :2] - [10, 4]) / 40
        answer = read_answer(pairs.tokenizer, pair)
        np.testing.assert_allclose(answer, expected, atol=0.0005 + 1e-6)
        torch.testing.assert_close(pair.pixels, data.load_crop(instance, 28)[0])


@pytest.fixture
def make_epoch(make_pairs):
    def make(seed, epoch, before=(), **options):
        pairs = make_pairs(k=4, seed=seed, **options)
        for number in (*before, epoch):
            pairs.set_epoch(number)
        return pairs

    return make


def test_pairs_depend_on_seed_and_epoch_alone(make_epoch):
    reference, again = make_epoch(1, 2), make_epoch(1, 2, before=(5, 0, 1))
    assert reference.plans == again.plans
    # In any order, any number of times.
    for i in (4, 0, 2, 0):
        assert same_pair(reference[i], again[i])
    for other in (make_epoch(1, 3), make_epoch(2, 2)):
        assert other.plans != reference.plans


def test_groups_do_not_depend_on_neighbours(make_epoch, skirts):
    reference = make_epoch(1, 2)
    backwards = make_epoch(1, 2, instances=skirts[::-1])
    counted_from_the_end = []
    for n, group, (_, seed) in backwards.plans:
        counted_from_the_end.append((4 - n, group, (4 - n, seed)))
    assert sorted(counted_from_the_end) == sorted(reference.plans)


def test_augmentation_keeps_its_bounds():
    draws = [data.draw_augmentation(random.Random(seed)) for seed in range(2000)]
    scales, angles = np.array(draws).T
    assert scales.min() == 0.7 and scales.max() == 1.3
    assert abs(angles).max() <= np.deg2rad(40)
    assert 0.45 < (angles == 0).mean() < 0.55


def test_answers_follow_the_augmentation(make_pairs, skirts):
    """One keypoint: where it leaves the crop, the plain crop is taken."""
    instance = skirts[3]
    pairs = make_pairs([instance], k=1)
    point, image = instance.keypoints[:1, :2], Image.open(instance.image)
    for epoch in range(20):
        pairs.set_epoch(epoch)
        _, seed = pairs.plans[0].view
        affine = data.make_affine(instance.bbox, 28, *data.draw_augmentation(random.Random(seed)))
        if not Codec.has_code(data.map_to_crop(point, affine, 28)).all():
            affine = data.make_affine(instance.bbox, 28)
        pair = pairs[0]
        answer = read_answer(pairs.tokenizer, pair)
        np.testing.assert_allclose(data.map_to_image([answer], affine, 28), point, atol=0.04)
        torch.testing.assert_close(pair.pixels, data.cut_crop(image, affine, 28))


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_pairs_of_every_instruction_fit(make_pairs, tokenizers, instruction):
    """What Pairs promises to fit does: no item is longer than the room computed for it."""
    pairs = make_pairs(tokenizer=tokenizers["v3"], k=4, trunk=5, instruction=instruction)
    opening = data.MAX_TOKENS - 5 - pairs.room[1]
    for epoch in range(3):
        pairs.set_epoch(epoch)
        for i, plan in enumerate(pairs.plans):
            ids, labels, _ = pairs[i].conversation
            assert any(label != data.IGNORE for label in labels)
            assert len(ids) <= opening + sum(pairs.lengths[1][j] for j in plan.group)
            # Drawn by the seed, not by chance.
            assert pairs[i].conversation.ids == ids
