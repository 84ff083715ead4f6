"""data.py: the digit codec, crops, instructions and rounds against closed forms, properties and the published tokenizers."""
import json
import random
import re
from copy import copy
from importlib.util import find_spec
from itertools import combinations, combinations_with_replacement, groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from support import launch
from study import instructions
import data
from capellm import Codec
from support import photos
from support import check
from support.tokenizer import Tokenizer

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
MISTRAL = Path(find_spec("mistral_common").origin).parent / "data"
FILES = {"llama3": LLAMA3, "v1": MISTRAL / "tokenizer.model.v1", "v3": MISTRAL / "mistral_instruct_tokenizer_240323.model.v3"}
NOSE = data.Keypoint("nose tip", "The point between the nostrils.")


@pytest.fixture(scope="module")
def tokenizers(model_folder):
    return {name: Tokenizer(file) for name, file in FILES.items()} | {"tiny": Tokenizer.from_pretrained(model_folder / "llm")}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# Codec

@pytest.mark.parametrize("name, K", [("llama3", 3), ("llama3", 1), ("v1", 3), ("v3", 3), ("tiny", 3)])
def test_all_codes(tokenizers, name, K):
    tokenizer = tokenizers[name]
    codec = Codec(tokenizer, K)
    for n in range(1000):
        digits = codec.digits(n / 1000)
        assert digits == ([n] if K == 1 else [n // 100, n // 10 % 10, n % 10])
        assert codec.value(digits) == n / 1000
        *ids, end = codec.encode(n / 1000, 0.25)
        assert end == tokenizer.eos_id
        assert tokenizer.decode(ids).strip() == f"[0.{n:03},0.250]"


@pytest.mark.parametrize("name", ["v1", "v3", "tiny"])
def test_three_digit_tokens_are_refused_where_there_are_none(tokenizers, name):
    with pytest.raises(ValueError, match="K = 1") as error:
        Codec(tokenizers[name], 1)
    one_line(error)


@pytest.mark.parametrize("K", [1, 3])
@settings(deadline=None)
@given(y=st.floats(0, 0.9995, exclude_max=True))
def test_codec_is_exact_to_half_a_thousandth(tokenizers, K, y):
    codec = Codec(tokenizers["llama3"], K)
    for number in (y, np.float32(y)):
        if Codec.has_code(number):
            assert abs(codec.value(codec.digits(number)) - float(number)) <= 0.0005 + (1e-12 if number is y else 1e-7)


@settings(deadline=None)
@given(y=st.one_of(st.floats(max_value=-1e-300), st.floats(0.9995)))
def test_outside_has_no_code(tokenizers, y):
    codec = Codec(tokenizers["llama3"])
    assert not codec.has_code(y)
    with pytest.raises(ValueError, match="has no code"):
        codec.encode(0.5, y)


def test_ends_of_the_range(tokenizers):
    codec = Codec(tokenizers["llama3"])
    assert codec.digits(np.nextafter(0.9995, 0)) == [9, 9, 9] and codec.digits(-0.0) == [0, 0, 0]
    assert codec.digits(0.0005) == [0, 0, 1] and codec.digits(0.00049) == [0, 0, 0]
    for y in (float("nan"), float("inf"), -float("inf"), 0.9995, 1.0, -1e-9):
        assert not codec.has_code(y)


# Crops

boxes = st.tuples(st.floats(-500, 500), st.floats(-500, 500), st.floats(0.5, 900), st.floats(0.5, 900))
views = st.tuples(boxes, st.sampled_from([28, 112, 224]), st.floats(0.7, 1.3), st.floats(-3.2, 3.2))


@settings(deadline=None)
@given(view=views, seed=st.integers(0, 9))
def test_to_crop_inverts_to_image(view, seed):
    box, size, scale, angle = view
    affine = data.crop_affine(*view)
    points = np.random.default_rng(seed).uniform(-1, 2, (5, 2))
    pixels = data.to_image(points, affine, size)
    np.testing.assert_allclose(data.to_crop(pixels, affine, size), points, atol=1e-6)
    # The closed form: a rotation about the centre of the box, one crop width being the longest side times scale.
    centre, side = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2]), max(box[2:]) * scale
    turned = (points - 0.5) @ [[1, 0], [0, 1j]] @ [1, 1] * np.exp(1j * angle) * side
    np.testing.assert_allclose(pixels, centre + np.stack([turned.real, turned.imag], 1), atol=1e-6)


@settings(deadline=None)
@given(box=boxes)
def test_the_crop_is_square_and_holds_the_box(box):
    x, y, w, h = box
    (x0, y0), (x1, y1) = data.to_image([[0, 0], [1, 1]], data.crop_affine(box, 224), 224)
    assert x1 - x0 == pytest.approx(max(w, h)) and y1 - y0 == pytest.approx(max(w, h))
    assert x0 <= x + 1e-6 and y0 <= y + 1e-6 and x1 >= x + w - 1e-6 and y1 >= y + h - 1e-6
    assert (x0 + x1) / 2 == pytest.approx(x + w / 2, abs=1e-6)


def grey(pixels):
    """(3, S, S) as normalised -> the values 0 ... 255 before."""
    return (pixels * data.STD + data.MEAN) * 255


def ramp(width, height):
    """An image whose value is 20 + 200 (x + y) / (width + height) at the pixel coordinates x, y, in three channels."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return Image.fromarray(np.repeat((20 + 200 * (x + y) / (width + height)).round().astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("box, scale, angle", [
    ((60, 50, 80, 40), 1, 0), ((60.3, 50.7, 21, 30.5), 1, 0), ((60, 50, 80, 60), 0.8, 0.6),
    ((150, 120, 200, 260), 1.2, -0.4), ((200, 60, 390, 400), 1, 0.3)])
def test_crop_of_a_ramp(box, scale, angle):
    """A linear ramp stays linear under bilinear resampling and box averaging, so every pixel of the crop is known."""
    affine = data.crop_affine(box, 56, scale, angle)
    u = (np.arange(56) + 0.5) / 56
    points = data.to_image(np.stack(np.meshgrid(u, u), -1).reshape(-1, 2), affine, 56).reshape(56, 56, 2)
    expected = 20 + 200 * points.sum(-1) / (800 + 640)
    inside = ((points > 5) & (points < [795, 635])).all(-1)
    assert inside.mean() > 0.8
    up, down = (grey(data.crop(image, affine, 56)).numpy()[:, inside] for image in (ramp(800, 640), ImageOps.invert(ramp(800, 640))))
    for error in (up - expected[inside], down - (255 - expected[inside])):
        assert np.abs(error).max() < 1.6                                 # 8 bits, rounded or cut three times
    shift = ((up - down) - (2 * expected[inside] - 255)).mean() / 2      # what is cut off cancels, a shift of the ramp does not
    assert abs(shift) < 0.07 * 200 / 1440 * max(max(box[2:]) * scale / 56, 1)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_crop_at_its_own_size_copies_pixels():
    image = noise(90, 80)
    crop = grey(data.crop(image, data.crop_affine((30, 20, 40, 40), 40), 40))
    expected = torch.from_numpy(np.array(image.crop((30, 20, 70, 60)))).permute(2, 0, 1).float()
    torch.testing.assert_close(crop, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [40, 80, 120])
def test_a_quarter_turn_turns_the_crop(side):
    image, box = noise(200, 180), (30, 20, side, side)
    plain = data.crop(image, data.crop_affine(box, 40), 40)
    turned = data.crop(image, data.crop_affine(box, 40, angle=np.pi / 2), 40)
    # to the right in the crop is now down in the image
    torch.testing.assert_close(turned, torch.rot90(plain, 1, (1, 2)), atol=0.05, rtol=0)


@pytest.mark.parametrize("side, size", [(80, 40), (120, 40), (160, 40)])
def test_strong_reductions_are_averages(side, size):
    image = noise(200, 200)
    n = side // size
    got = grey(data.crop(image, data.crop_affine((n * 3, n * 2, side, side), size), size))
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[:, n * 2:n * 2 + side, n * 3:n * 3 + side]
    torch.testing.assert_close(got, torch.nn.functional.avg_pool2d(values, n), atol=0.6, rtol=0)


@pytest.mark.parametrize("width, height, box", [
    (1003, 1301, (100, 150, 800, 1000)), (2407, 601, (1700, 0, 701, 601)), (1207, 803, (700, 300, 503, 500)), (9, 1200, (0, 0, 9, 1200))])
def test_jpeg_draft_shows_the_same_places(tmp_path, width, height, box):
    """Large JPEGs are decoded at 1/2, 1/4 or 1/8: waves of eight crop pixels must not move by more than 0.05 of one."""
    size, side = 56, max(box[2:])
    x, y = np.meshgrid(2 * np.pi / 8 * size / side * (np.arange(width) + 0.5), 2 * np.pi / 8 * size / side * (np.arange(height) + 0.5))
    image = Image.fromarray((127 + 100 * np.stack([np.sin(x), np.cos(x), np.sin(y)], -1)).astype(np.uint8))
    image.save(tmp_path / "x.jpg", quality=95, subsampling=0)
    instance = data.Instance(1, tmp_path / "x.jpg", 1, np.array([[box[0] + 5, box[1] + 5, 2]], np.float32), box)
    drafted, points = data.load_crop(instance, size)
    affine = data.crop_affine(box, size)
    plain, drafted = grey(data.crop(image, affine, size)).numpy(), grey(drafted).numpy()
    slope, error = np.stack([np.gradient(p, axis=a) for p, a in zip(plain, (1, 1, 0))]), drafted - plain
    assert np.abs(error[:, 2:-2, 2:-2]).mean() < 3
    for rows in (slice(2, 28), slice(28, -2)):                           # the quarters, so that a wrong scale shows too
        for columns in (slice(2, 28), slice(28, -2)):
            g, e = slope[:, rows, columns], error[:, rows, columns]
            assert np.all(np.abs((g * e).sum((1, 2))) <= 0.05 * (g * g).sum((1, 2)))
    np.testing.assert_allclose(points[0, :2], data.to_crop([[box[0] + 5, box[1] + 5]], affine, size)[0], atol=1e-6)


def test_load_crop_marks_what_can_be_asked(tmp_path):
    noise(60, 50).save(tmp_path / "x.png")
    labelled = np.array([[20, 20, 2], [25, 22, 1], [25, 22, 0], [59, 49, 2], [10, 10, 2], [40, 30, 2]], np.float32)
    pixels, points = data.load_crop(data.Instance(1, tmp_path / "x.png", 1, labelled, (10, 10, 30, 20)), 28)
    assert pixels.shape == (3, 28, 28) and pixels.dtype == torch.float32
    # the crop is the square (10, 5) to (40, 35); its right edge has no code
    np.testing.assert_allclose(points[:, 0], (labelled[:, 0] - 10) / 30, atol=1e-6)
    np.testing.assert_allclose(points[:, 1], (labelled[:, 1] - 5) / 30, atol=1e-6)
    assert (points[:, 2] > 0).tolist() == [True, True, False, False, True, False]


def test_exif_is_ignored_in_the_data_set_and_obeyed_in_a_photo(tmp_path):
    image, exif = noise(40, 20), Image.Exif()
    exif[0x112] = 6                                                      # shown turned by a quarter clockwise
    image.save(tmp_path / "x.png", exif=exif)
    instance = data.Instance(1, tmp_path / "x.png", 1, np.array([[5, 5, 2]], np.float32), (0, 0, 20, 20))
    torch.testing.assert_close(data.load_crop(instance, 20)[0], data.crop(image, data.crop_affine((0, 0, 20, 20), 20), 20))
    assert np.array_equal(np.array(photos.open_image(tmp_path / "x.png")), np.rot90(np.array(image), -1))


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    noise(600, 600).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:5000])
    for name, kind in (("broken.jpg", ValueError), ("cut.jpg", ValueError), ("gone.jpg", FileNotFoundError)):
        instance = data.Instance(7, tmp_path / name, 1, np.ones((1, 3), np.float32), (0, 0, 600, 600))
        with pytest.raises(kind, match=name) as error:
            data.load_crop(instance, 28)
        assert "annotation 7" in one_line(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_that_only_decoding_shows_is_one_line(tmp_path, capsys, workers):
    """Bytes zeroed in the middle of a PNG: its header and its end are whole."""
    file = tmp_path / "x.png"
    noise(90, 90).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:len(whole) // 2] + bytes(500) + whole[len(whole) // 2 + 500:])
    assert data.fault(file, (90, 90)) == (None, None)
    instance = data.Instance(7, file, 1, np.ones((1, 3), np.float32), (0, 0, 90, 90), (90, 90))
    crops = torch.utils.data.StackDataset([instance])
    load = lambda batch: data.load_crop(batch[0][0], 28)
    with pytest.raises(SystemExit):
        launch.run("train.py", lambda: list(torch.utils.data.DataLoader(crops, collate_fn=load, num_workers=workers)))
    said = capsys.readouterr().err
    assert said.startswith(f"train.py: {file} is no image that Pillow can read") and said.count("\n") == 1 and "Traceback" not in said
    assert "replace the file and go on with --resume, or remove annotation 7 and start anew" in said


@pytest.mark.parametrize("orientation", range(9))
def test_photos_annotated_upright_and_stored_turned(tmp_path, orientation):
    """EXIF's orientations 5 to 8 exchange width and height, as ImageOps.exif_transpose does."""
    exif, file = Image.Exif(), tmp_path / "x.jpg"
    exif[0x112] = orientation
    noise(80, 40).save(file, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(file)).size
    assert (upright == (40, 80)) == (5 <= orientation <= 8)
    remedy = "annotated upright, stored turned: apply the EXIF rotation to the files"
    for size in ((40, 80), (20, 40)):                                    # stored as large as annotated, or twice as large
        problem, text = data.fault(file, size)
        assert problem == "other size" and (remedy in text) == (upright == (40, 80))
        with pytest.raises(ValueError, match="x.jpg is 80 x 40 pixels, annotated as") as error:
            data.load_crop(data.Instance(7, file, 1, np.ones((1, 3), np.float32), (0, 0, 9, 9), size), 28)
        assert (remedy in one_line(error)) == (upright == (40, 80))
    assert remedy not in data.fault(file, (40, 70))[1]


# Rounds and conversations

@settings(deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_fixed_rounds(n, k, seed):
    indices = random.Random(seed).sample(range(100), n)
    groups = data.group_fixed(indices, k, random.Random(seed), None, None)
    assert len(groups) == -(-n // k) and all(len(g) == k for g in groups)
    assert {i for g in groups for i in g} == set(indices)                # all are asked, nothing else is
    once = [i for g in groups for i in g][:n]
    assert len(set(once)) == n                                           # repeats only where the last group is filled up
    if n >= k:
        filling = groups[-1][n - (len(groups) - 1) * k:]
        assert len(set(filling)) == len(filling) and not set(filling) & set(groups[-1][:k - len(filling)])
    assert groups == data.group_fixed(indices, k, random.Random(seed), None, None)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=70), room=st.integers(80, 2000), seed=st.integers(0, 99))
def test_dynamic_rounds(lengths, room, seed):
    indices = random.Random(seed).sample(range(len(lengths)), random.Random(seed).randint(1, len(lengths)))
    groups = data.group_dynamic(indices, 4, random.Random(seed), lengths, room)
    assert sorted(i for g in groups for i in g) == sorted(indices)       # each once, nothing else
    assert all(0 < sum(lengths[i] for i in g) <= room for g in groups)
    assert groups == data.group_dynamic(indices, 4, random.Random(seed), lengths, room)


def test_dynamic_groups_are_cycles_of_a_random_permutation():
    """Against the cycles themselves: n keypoints make 1/s groups of each size s on average, as long as all fit."""
    n, draws, rng = 6, 6000, random.Random(0)
    ours, cycles = np.zeros(n + 1), np.zeros(n + 1)
    for _ in range(draws):
        for group in data.group_dynamic(range(n), 4, rng, [10] * n, 10 * n):
            ours[len(group)] += 1
        following = rng.sample(range(n), n)
        while left := {i for i, j in enumerate(following) if j is not None}:
            at, size = left.pop(), 0
            while following[at] is not None:
                following[at], at, size = None, following[at], size + 1
            cycles[size] += 1
    sizes = np.arange(1, n + 1)
    for counts in (ours, cycles):
        np.testing.assert_allclose(counts[1:] / draws, 1 / sizes, atol=5 * (1 / draws) ** 0.5)


def test_dynamic_sizes_are_uniform_up_to_what_fits():
    firsts = [len(data.group_dynamic(range(40), 4, random.Random(i), [100] * 40, 799)[0]) for i in range(2100)]
    counts = np.bincount(firsts, minlength=9)
    assert counts[0] == 0 and len(counts) == 9 and counts[8] == 0        # seven rounds of 100 tokens fit
    np.testing.assert_allclose(counts[1:8], 300, atol=5 * 300 ** 0.5)


@settings(deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_locllm_rounds(n, k, seed):
    indices = random.Random(seed).sample(range(100), n)
    (group,) = data.group_locllm(indices, k, random.Random(seed), None, None)
    assert len(group) == len(set(group)) == min(k, n) and set(group) <= set(indices)


def test_locllm_asks_each_keypoint_equally_often():
    groups = [data.group_locllm(range(12), 4, random.Random(seed), None, None)[0] for seed in range(3000)]
    np.testing.assert_allclose(np.bincount(np.ravel(groups)), 1000, atol=5 * (3000 * 1 / 3 * 2 / 3) ** 0.5)


SPECIAL = ["<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>", "</s>", "<s>", "<unk>", "[INST]", "{name}", "[0.123,0.456]"]


@pytest.mark.parametrize("name", ["llama3", "v1", "v3", "tiny"])
def test_labels_lie_exactly_on_the_answers(tokenizers, name):
    tokenizer = tokenizers[name]
    codec, rng = Codec(tokenizer), random.Random(0)
    rounds = [(data.Keypoint(f"{s} corner", f"Near {s}, below {s}." * (i % 2)), (rng.random() * 0.99, rng.random() * 0.99))
              for i, s in enumerate(SPECIAL)]
    ids, labels = data.write_conversation(tokenizer, codec, rounds)
    assert len(ids) == len(labels) and all(label in (data.IGNORE, token) for token, label in zip(ids, labels))
    runs, previous = [], data.IGNORE                                     # of labelled tokens, and the text between them
    for token, label in zip(ids, labels):
        if label == data.IGNORE and (not runs or previous != data.IGNORE):
            runs.append(([], []))
        runs[-1][label != data.IGNORE].append(token)
        previous = label
    assert len(runs) == len(rounds)
    for (asked, answered), (keypoint, (x, y)) in zip(runs, rounds):
        assert answered[-1] == tokenizer.eos_id and tokenizer.eos_id not in answered[:-1]
        assert tokenizer.decode(answered[:-1]).strip() == f"[0.{int(1000 * x + 0.5):03},0.{int(1000 * y + 0.5):03}]"
        text = tokenizer.decode(asked)                                   # what users write comes back as they wrote it
        assert keypoint.name in text and keypoint.description in text and text.endswith("ASSISTANT:")
        assert tokenizer.eos_id not in asked and tokenizer.bos_id not in asked
        assert max(asked) < tokenizer.bos_id or name != "llama3"
        assert asked == tokenizer.encode(text)
    assert ids == [t for asked, answered in runs for t in asked + answered]


def test_a_keypoint_without_description(tokenizers):
    text = tokenizers["llama3"].decode(data.write_question(tokenizers["llama3"], data.Keypoint("left eye", "")))
    assert "left eye" in text and "description" not in text and "  " not in text


# Files

@pytest.fixture
def desc(tmp_path):
    def write(content):
        (tmp_path / "desc.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "desc.txt"
    return write


def test_description_files(desc):
    expected = [data.Keypoint("left eye", "The eye: round."), data.Keypoint("nez", "\u00e9t\u00e9"), data.Keypoint("tail", "")]
    lines = "# a comment\n\nleft eye: The eye: round.\n  # another\nnez :\u00e9t\u00e9  \ntail:\n"
    assert data.read_descriptions(desc(lines)) == expected
    assert data.read_descriptions(desc(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())) == expected
    assert data.read_descriptions(desc(lines.rstrip())) == expected
    assert data.read_descriptions(desc(lines.replace(" eye:", "\u00a0eye:\t").replace(" round", "\u202f \tround"))) == expected


@pytest.mark.parametrize("content, message", [
    ("nose: x\n\nno colon here\n", "line 3: expected 'name: description', found 'no colon here'"),
    ("nose: x\n: nameless\n", "line 2: expected 'name: description'"),
    ("# c\nnose: x\neye: y\r\nnose: z", "line 4: 'nose' stands on line 2 already"),
    (b"nose: x\neye: \xff\xfe\n", "line 2: not UTF-8"),
    (b"\xef\xbb\xbfnose: x\n\neye: \xff", "line 3: not UTF-8"),
    ("nose: x\neye: a\x00b", r"line 2: control characters .U\+0000.; keep"), ("a: b\u202ec\x1b", r"line 1: .*.U\+202E, U\+001B."),
    ("Left  eye: x\neye: y\nleft_Eye: z", "line 3: 'left_Eye' stands on line 1 already"),
    ("n\u00e9z: x\nNE\u0301Z: y", "line 2: .* stands on line 1 already"), ("stra\u00dfe: x\nSTRASSE: y", "line 2: .* stands on line 1"),
    ("", "describes no keypoint"), ("# only\n\n", "describes no keypoint"),
])
def test_description_files_that_are_refused(desc, content, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_descriptions(desc(content))
    assert "desc.txt" in one_line(error)


def test_a_missing_description_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="desc.txt is missing") as error:
        data.read_descriptions(tmp_path / "desc.txt")
    one_line(error)


def coco(instances=3, **changes):
    """A small annotation of category 1 (skirt, 8 keypoints); changes go to the second annotation."""
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 30, 20],
                    "keypoints": [15 + i, 15, 2, 20, 20, 2] + [18, 22, 1] * 6}
                   for i in range(instances)]
    annotations[1] |= changes
    return {"images": [{"id": i, "file_name": f"skirt/{i}.jpg", "width": 60, "height": 50} for i in range(instances)],
            "annotations": annotations, "categories": [{"id": 1, "name": "skirt"}, {"id": 5, "name": "bed"}]}


@pytest.fixture
def split(tmp_path):
    def write(content):
        path = tmp_path / "annotations" / "mp100_split1_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path
    return write


def test_read_split(split):
    folder = split(coco(bbox=[-5, 40, 100, 30]))
    instances, names = data.read_split(folder)
    assert [i.id for i in instances] == [0, 1, 2] and names == {1: "skirt"}
    assert instances[1].bbox == (0, 40, 60, 10)                          # clipped to the image
    assert instances[0].image == folder / "images" / "skirt" / "0.jpg"
    np.testing.assert_array_equal(instances[2].keypoints[:2], [[17, 15, 2], [20, 20, 2]])
    described = data.describe(instances, names)
    assert len(described[1]) == 8
    for left_out in ({"keypoints": [0] * 24}, {"bbox": [10, 10, 0, 20]}, {"bbox": [70, 10, 5, 5]}):
        assert [i.id for i in data.read_split(split(coco(**left_out)))[0]] == [0, 2]
    assert [i.id for i in data.read_split(split(coco(id=0)))[0]] == [0, 0, 2]           # of another image


@pytest.mark.parametrize("change, message", [
    ({"image_id": 77}, "annotation 1 "), ({"keypoints": [1, 2]}, "annotation 1 "), ({"keypoints": [1, 2, 2]}, "annotation 1 .*8"),
    ({"bbox": [1, 2, 3]}, "annotation 1 "), ({"bbox": None}, "annotation 1 "), ({"bbox": [0, 0, float("nan"), 9]}, "annotation 1 .*finite"),
    ({"keypoints": [float("inf"), 1, 2] * 8}, "annotation 1 .*finite"), ({"category_id": 9}, "annotation 1 "), ({"id": None}, None),
    ({"bbox": [0, 0, float("inf"), 9]}, "annotation 1 .*finite"), ({"bbox": "5540"}, "annotation 1 .*other than numbers"),
    ({"bbox": [5, 5, "40", 40]}, "annotation 1 .*other than numbers"), ({"keypoints": ["1", 2, 2] * 8}, "annotation 1 .*other than numbers"),
    ({"keypoints": [10**400, 2, 2] * 8}, "annotation 1 .*other than numbers"), ({"id": 0, "image_id": 0}, "annotation 0 .*another one .*this id"),
    ({"id": "a\x1b[2Jb"}, r"annotation 'a\\x1b.2Jb' .*U\+001B")])
def test_annotations_that_are_refused(split, change, message):
    content = coco(**change)
    if message is None:
        del content["annotations"][1]["id"]
        message = "annotation None"
    with pytest.raises(ValueError, match=message) as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"images": [], "categories": [], "annotations": null}',
                                     '{"images": [{}], "categories": [], "annotations": []}', "[" * 10**6])
def test_files_that_are_no_annotation(split, content):
    with pytest.raises(ValueError, match="is no COCO keypoint annotation") as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize("what", ["images", "categories"])
def test_ids_that_stand_for_two_things_are_refused(split, what):
    """Merged exports that each count from 1. The same entry twice does no harm."""
    content = coco()
    content[what].append(dict(content[what][1]))
    assert len(data.read_split(split(content))[0]) == 3
    content[what][-1]["name" if what == "categories" else "file_name"] = "other"
    with pytest.raises(ValueError, match=f"two {what} have the id {content[what][1]['id']}: give each its own") as error:
        data.read_split(split(content))
    assert "mp100_split1_train.json" in one_line(error)


@pytest.mark.parametrize("character", ["\x1b[31m", "\u202e", "\n", "\u2028", "\ud800"])
def test_names_that_would_garble_a_terminal_are_refused(split, character):
    for what, key in (("categories", "name"), ("images", "file_name")):
        content = coco()
        content[what][1][key] += character
        with pytest.raises(ValueError) as error:
            data.read_split(split(content))
        assert one_line(error).isprintable()
    content["images"][1]["file_name"] = "Foto\u202fvon\u00a0\u00e9t\u00e9.png"      # as macOS names them
    assert len(data.read_split(split(content))[0]) == 3


def test_a_missing_part(split):
    with pytest.raises(FileNotFoundError, match="mp100_split1_val.json") as error:
        data.read_split(split(coco()), part="val")
    one_line(error)


def test_ones_own_annotations(split, tmp_path):
    """annotations/train.json is read where there is nothing of MP-100's, and only there."""
    folder = split(coco())
    (folder / "annotations" / "train.json").write_text(json.dumps(coco(5)))
    assert len(data.read_split(folder)[0]) == 3
    with pytest.raises(FileNotFoundError, match="mp100_split2_train.json is missing.* or annotations/train.json") as error:
        data.read_split(folder, 2)
    one_line(error)
    (folder / "annotations" / "mp100_split1_train.json").unlink()
    for number in (1, 2):
        assert len(data.read_split(folder, number)[0]) == 5
    with pytest.raises(FileNotFoundError, match="mp100_split1_val.json is missing.* or annotations/val.json") as error:
        data.read_split(folder, part="val")
    one_line(error)
    (folder / "annotations" / "train.json").write_text(json.dumps(coco(bbox=None)))
    with pytest.raises(ValueError, match="annotations/train.json: annotation 1 "):
        data.read_split(folder)


@pytest.mark.parametrize("change", [{"width": None}, {"height": 0}, {"width": "60"}, {"width": 10**400}, {"width": True},
                                    {"height": float("inf")}, {"height": float("nan")}, {"width": 0.5}, {"width": 2e9}])
def test_images_must_state_their_size(split, change):
    content = coco()
    content["images"][1] |= change
    with pytest.raises(ValueError, match="annotation 1 .*its image states no width and height") as error:
        data.read_split(split(content))
    one_line(error)
    del content["images"][1]["height"]
    with pytest.raises(ValueError, match="annotation 1 .*its image states no width and height"):
        data.read_split(split(content))


def test_all_missing_description_files_are_named(tmp_path):
    """Five of them, and the number of the others; one definition of several categories is one file."""
    cat = data.Keypoint("nose", "")
    (tmp_path / "c0.txt").write_text("nose:\n")
    for n, message in ((1, None), (2, "c1.txt is missing"), (9, "c1.txt, .*c5.txt and 3 more are missing")):
        instances = [data.Instance(900 + i, Path("x"), 900 + i, np.ones((1, 3)), (0, 0, 1, 1)) for i in range(n)]
        names = {900 + i: f"c{i}" for i in range(n)}
        if message is None:
            assert data.describe(instances, names, tmp_path) == {900: [cat]}
            continue
        with pytest.raises(FileNotFoundError, match=message) as error:
            data.describe(instances, names, tmp_path)
        assert "c6.txt" not in one_line(error)


def test_descriptions_must_fit_the_category(split, desc):
    instances, names = data.read_split(split(coco()))
    folder = desc("a: b\n").rename(split(coco()) / "skirt.txt").parent
    with pytest.raises(ValueError, match="skirt.txt describes 1 keypoints, category 1 .skirt. has 8") as error:
        data.describe(instances, names, folder)
    one_line(error)


@pytest.mark.parametrize("lines, message", [("bow:\nstern: at the back\nmast top:\n", None), ("stern:\nbow:\nmast top:\n", "keypoint 1 is 'stern'.* name it 'Bow'"),
                                            ("bow:\nstern:\ntop:\n", "keypoint 3 is 'top'.* name it 'mast_top'")])
def test_ones_own_keypoints_have_the_annotations_names(desc, lines, message):
    """In the same order, but for case and underscores; MP-100's own names are the authors' and are not compared."""
    folder = (path := desc(lines)).rename(path.with_name("boat.txt")).parent
    labels = ("Bow", "stern", "mast_top")
    boat = data.Instance(1, Path("x"), 700, np.ones((3, 3)), (0, 0, 1, 1), (9, 9), "boat", labels)
    if message is None:
        assert [k.name for k in data.describe([boat], {700: "boat"}, folder)[700]] == ["bow", "stern", "mast top"]
    else:
        with pytest.raises(ValueError, match=message) as error:
            data.describe([boat], {700: "boat"}, folder)
        assert "boat.txt" in one_line(error)
    assert len(data.describe([boat._replace(labels=("0", "1", "2"))], {700: "boat"}, folder)[700]) == 3
    for labels in (("bow",), ("0", "1"), (*labels, "keel")):
        with pytest.raises(ValueError, match=rf"category 700 .boat. name {len(labels)} keypoints and hold 3") as error:
            data.describe([boat._replace(labels=labels)], {700: "boat"}, folder)
        one_line(error)
    skirt = data.Instance(1, Path("x"), 1, np.ones((8, 3)), (0, 0, 1, 1), (9, 9), "skirt", ("1",) * 8)
    assert len(data.describe([skirt], {1: "skirt"})[1]) == 8


def test_two_categories_named_face():
    """Ids tell them apart: 18 has 19 points, 40 has 68."""
    instances = [data.Instance(n, Path("x"), n, np.ones((size, 3)), (0, 0, 1, 1)) for n, size in ((18, 19), (40, 68))]
    described = data.describe(instances, {18: "face", 40: "face"})
    assert {n: len(d) for n, d in described.items()} == {18: 19, 40: 68}


# Checks before training

@pytest.fixture
def boats(tmp_path):
    """write(n, category, changes) makes a folder of one's own with n photos of 60 x 50 pixels, one annotation each."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "boat.txt").write_text("bow:\nstern:\n")

    def write(n=12, category=(7, "boat"), name="own", **changes):
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").mkdir()
        content = {"images": [], "annotations": [], "categories": [{"id": category[0], "name": category[1]}]}
        for i in range(n):
            noise(60, 50, i).save(folder / "images" / f"{i:02}.{'png' if i % 2 else 'jpg'}")
            content["images"].append({"id": i, "file_name": f"{i:02}.{'png' if i % 2 else 'jpg'}", "width": 60, "height": 50})
            content["annotations"].append({"id": i, "image_id": i, "category_id": category[0], "bbox": [5, 5, 40, 40],
                                           "keypoints": [10, 10, 2, 30, 40, 1]} | changes.get(f"at{i}", {}))
        (folder / "annotations" / "train.json").write_text(json.dumps(content))
        return folder
    write.texts = tmp_path / "texts"
    return write


def cells(table):
    """{row: {column: number}} of a Markdown table."""
    head, _, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.split("\n") if line.startswith("|")]
    return {label: dict(zip(head[1:], map(int, numbers))) for label, *numbers in rows}


def test_check_of_sound_data(boats):
    folder = boats()
    instances, described, table = check.check_images([folder], descriptions=boats.texts)
    plain, names = data.read_split(folder)
    assert [i.id for i in instances] == list(range(12)) == [i.id for i in plain] and names == {7: "boat"}
    assert described == data.describe(plain, names, boats.texts)
    assert cells(table) == {"all": {"instances": 12, "usable": 12} | dict.fromkeys(data.PROBLEMS, 0)}


def test_check_counts_what_it_leaves_out(boats):
    """Without an error: keypoints outside of the image, empty boxes, nothing labelled."""
    folder = boats(at1={"keypoints": [60.5, 10, 2, 30, 40, 1]}, at2={"keypoints": [10, 10, 2, -1, 40, 1]},
                   at3={"keypoints": [0] * 6}, at4={"bbox": [5, 5, 0, 40]}, at5={"bbox": [70, 5, 9, 9], "keypoints": [-5, -5, 0, 9, 0, 0]},
                   at6={"keypoints": [0, 0, 2, 60, 50, 2]}, at7={"keypoints": [-9, 0, 0, 30, 30, 2]})
    instances, _, table = check.check_images([folder], descriptions=boats.texts)
    assert [i.id for i in instances] == [i.id for i in data.read_split(folder)[0]] == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    expected = dict.fromkeys(data.PROBLEMS, 0) | {"empty box": 2, "no keypoint": 2, "keypoint outside": 2}
    assert cells(table) == dict.fromkeys(("all", "boat (7)"), {"instances": 12, "usable": 9} | expected)
    assert [line for line in table.split("\n") if not line.startswith("|")] == [
        "empty box: annotations 4, 5", "no keypoint: annotations 3, 5", "keypoint outside: annotations 1, 2"]


@pytest.fixture
def damaged(boats):
    """Every kind of damage, and images that only look like it."""
    folder = boats()
    file = lambda i: folder / "images" / f"{i:02}.{'png' if i % 2 else 'jpg'}"
    for i in (0, 1):
        file(i).unlink()
    for i in (2, 3):
        file(i).write_bytes(file(i).read_bytes()[:-100])                 # cut short: the header is whole
    file(4).write_bytes(b"")
    file(5).unlink()
    (folder / "images" / "05.png").mkdir()
    noise(50, 60).save(file(6))
    noise(60, 50).save(file(7), format="GIF")                            # whatever its name, Pillow reads it
    file(8).write_bytes(file(8).read_bytes() + bytes(5000))              # what cameras append does no harm
    noise(60, 50).convert("L").save(file(9))
    return folder


def test_check_names_images_that_cannot_be_used(boats, damaged, capsys, monkeypatch):
    with pytest.raises(ValueError) as error:
        check.check_images([damaged], descriptions=boats.texts)
    shown = capsys.readouterr().out
    with monkeypatch.context() as other_rank, pytest.raises(ValueError):
        other_rank.setenv("RANK", "1")
        check.check_images([damaged], descriptions=boats.texts)
    assert capsys.readouterr().out == ""
    text, images = one_line(error), damaged / "images"
    assert f"2 of 12 images missing: {images}/00.jpg, {images}/01.png;" in text
    assert f"4 of 12 images unreadable: {images}/02.jpg, {images}/03.png, {images}/04.jpg, {images}/05.png;" in text
    assert f"1 of 12 images other size: {images}/06.jpg (50 x 60, annotated 60 x 50). " in text and "--skip-missing" in text
    instances, _, table = check.check_images([damaged], descriptions=boats.texts, skip_missing=True)
    assert shown == f"{table}\n" and capsys.readouterr().out == ""
    assert [i.id for i in instances] == [7, 8, 9, 10, 11]
    expected = dict.fromkeys(data.PROBLEMS, 0) | {"instances": 12, "usable": 5, "missing": 2, "unreadable": 4, "other size": 1}
    assert cells(table) == dict.fromkeys(("all", "boat (7)"), expected)
    for i in data.read_split(damaged)[0]:                                # what training would have met, and nothing else
        if i.id in range(7):
            with pytest.raises((ValueError, OSError)):
                data.load_crop(i, 28)
        else:
            data.load_crop(i, 28)


def test_check_names_five_and_the_number_of_all(boats):
    folder = boats()
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="12 of 12 images missing: .*04.jpg and 7 more. Correct") as error:
        check.check_images([folder], descriptions=boats.texts)
    assert "05.png" not in one_line(error)
    instances, _, table = check.check_images([folder], descriptions=boats.texts, skip_missing=True)
    assert instances == [] and cells(table)["all"]["missing"] == 12


@settings(deadline=None, max_examples=25)
@given(kind=st.sampled_from(["JPEG", "PNG", "BMP"]), size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
       cut=st.floats(0, 1, exclude_max=True))
def test_an_image_cut_anywhere_is_found(tmp_path_factory, kind, size, cut):
    """Unless Pillow decodes it all the same."""
    path = tmp_path_factory.mktemp("cut") / "image"
    noise(*size).save(path, format=kind)
    assert data.fault(path, size) == (None, None)
    path.write_bytes((whole := path.read_bytes())[:int(cut * len(whole))])
    try:
        with Image.open(path) as image:
            image.load()
        expected = None
    except Exception:
        expected = "unreadable"
    assert data.fault(path, size)[0] == expected


def test_check_of_several_folders(boats):
    """Rows by category, only of those with something to report; an id stands for one category."""
    (boats.texts / "kite.txt").write_text("tip:\ntail:\n")
    first, second = boats(3), boats(4, (8, "kite"), "kites", at0={"bbox": [5, 5, 0, 0]})
    instances, described, table = check.check_images([first, second], descriptions=boats.texts)
    assert [(i.category, i.id) for i in instances] == [(7, 0), (7, 1), (7, 2), (8, 1), (8, 2), (8, 3)]
    assert set(described) == {7, 8}
    assert list(cells(table)) == ["all", "kite (8)"] and cells(table)["all"]["instances"] == 7
    third = boats(1, (7, "kite"), "clash")
    with pytest.raises(ValueError, match="category 7 is kite in .*clash, boat elsewhere") as error:
        check.check_images([first, third], descriptions=boats.texts)
    one_line(error)
    (boats.texts / "kite.txt").unlink()
    with pytest.raises(FileNotFoundError, match="kite.txt is missing") as error:
        check.check_images([first, second], descriptions=boats.texts)
    one_line(error)


def test_a_category_without_usable_instances_needs_no_description(boats):
    nothing = {"keypoints": []}
    instances, described, table = check.check_images([boats(2, (9, "cloud"), at0=nothing, at1=nothing)], descriptions=boats.texts)
    assert (instances, described) == ([], {}) and cells(table)["cloud (9)"]["no keypoint"] == 2


# Pairs

@pytest.fixture(scope="module")
def skirts(tmp_path_factory):
    """Five instances of 8 keypoints: all inside, some hidden, some outside of the box, a single one."""
    folder = tmp_path_factory.mktemp("skirts")
    rng, instances = np.random.default_rng(0), []
    for i, visible in enumerate([8, 5, 8, 1, 3]):
        noise(64, 48, i).save(folder / f"{i}.png")
        points = np.c_[rng.uniform(12, 48, 8), rng.uniform(8, 40, 8), [2] * visible + [0] * (8 - visible)].astype(np.float32)
        if i == 2:
            points[3:5, 0] = 3                                           # labelled, but outside of the box
        instances.append(data.Instance(i, folder / f"{i}.png", 1, points, (10, 4, 40, 40), name="skirt"))
    return instances


@pytest.fixture(scope="module")
def described(skirts):
    return data.describe(skirts, {1: "skirt"})


def asked(pairs, tokenizer, described):
    """The items of an epoch, and each one's keypoints as its token ids tell: [(instance, [keypoint, ...])]."""
    questions = [data.write_question(tokenizer, k) for k in described[1]]
    seen = []
    for (n, _, _), (pixels, ids, labels) in zip(pairs.pairs, pairs):
        group, at = [], 0
        while at < len(ids):
            (match,) = [j for j, q in enumerate(questions) if ids[at:at + len(q)] == q]
            group.append(match)
            at += len(questions[match])
            while at < len(ids) and labels[at] != data.IGNORE:
                at += 1
        seen.append((n, group))
    return seen


ASKABLE = [list(range(8)), list(range(5)), [0, 1, 2, 5, 6, 7], [0], [0, 1, 2]]          # of the five skirts


def test_every_askable_keypoint_is_asked_once_an_epoch(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=4, augment=False)
    for epoch in range(3):
        pairs.set_epoch(epoch)
        questions = asked(pairs, tokenizer, described)
        assert all(len(group) == 4 for _, group in questions)
        for n, expected in enumerate(ASKABLE):
            groups = [group for i, group in questions if i == n]
            assert len(groups) == -(-len(expected) // 4) and {j for g in groups for j in g} == set(expected)


@pytest.mark.parametrize("rounds, trunk", [("dynamic", 257), ("dynamic", 2048 - 200), ("locllm", 257)])
def test_dynamic_and_locllm_pairs(skirts, described, tokenizers, rounds, trunk):
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=3, augment=False, rounds=rounds, trunk=trunk)
    sizes = set()
    for epoch in range(12):
        pairs.set_epoch(epoch)
        assert all(trunk + len(ids) <= 2048 and pixels.shape == (3, 28, 28) for pixels, ids, labels in pairs)
        questions = asked(pairs, tokenizer, described)
        sizes |= {len(group) for _, group in questions}
        for n, expected in enumerate(ASKABLE):
            groups = [group for i, group in questions if i == n]
            if rounds == "dynamic":
                assert sorted(j for g in groups for j in g) == expected
            else:
                (group,) = groups
                assert len(group) == len(set(group)) == min(3, len(expected)) and set(group) <= set(expected)
    most = {("dynamic", 257): 8, ("dynamic", 2048 - 200): 2}.get((rounds, trunk), 3)         # a round takes some 70 tokens
    assert {1, most} <= sizes and max(sizes) == most


@pytest.mark.parametrize("rounds, k", [("fixed", 3), ("fixed", 8), ("locllm", 4), ("locllm", 20), ("dynamic", 99)])
def test_the_token_limit_is_kept_before_training(skirts, described, tokenizers, rounds, k):
    """The longest pair that can occur, of all groups that can be drawn, just fits; one token more is refused."""
    tokenizer = tokenizers["llama3"]
    codec = Codec(tokenizer)
    length = [len(data.write_conversation(tokenizer, codec, [(keypoint, (0, 0))])[0]) for keypoint in described[1]]

    def groups(askable):
        size = {"fixed": k, "dynamic": 1, "locllm": min(k, len(askable))}[rounds]
        if size <= len(askable):
            return combinations(askable, size)
        return ((*askable, *again) for again in combinations_with_replacement(askable, size - len(askable)))

    worst = max(sum(length[j] for j in group) for askable in ASKABLE for group in groups(askable))
    make = lambda trunk: data.Pairs(skirts, described, tokenizer, codec, 28, k=k, rounds=rounds, trunk=trunk)
    assert len(make(2048 - worst))
    remedy = "shorten its descriptions" if rounds == "dynamic" else "lower --k or shorten its descriptions"
    with pytest.raises(ValueError, match=f"category 1 .skirt. .* 2049 tokens, more than 2048: {remedy}") as error:
        make(2049 - worst)
    one_line(error)


def test_pairs_need_a_round(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]
    with pytest.raises(ValueError, match="--k 0"):
        data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=0)


@pytest.mark.parametrize("rounds", data.ROUNDS)
def test_groups_do_not_depend_on_workers(skirts, described, tokenizers, rounds):
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=3, rounds=rounds)
    epochs = []
    for epoch in (3, 4):
        pairs.set_epoch(epoch)
        alone, workers = (list(torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=n)) for n in (0, 2))
        assert len(alone) == len(workers) == len(pairs)
        for (pixels, ids, labels), (other, *rest) in zip(alone, workers):
            assert torch.equal(pixels, other) and [ids, labels] == rest
        epochs.append(pairs.pairs)
    assert epochs[0] != epochs[1]
    again = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=3, rounds=rounds)
    again.set_epoch(3)
    assert again.pairs == epochs[0]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 9), k=st.integers(1, 4))
def test_pairs_that_share_an_image(skirts, described, tokenizers, seed, epoch, k):
    """The same pairs as else, those of an image side by side, and one augmentation for them, which leaves each a keypoint."""
    tokenizer = tokenizers["llama3"]
    for rounds in data.ROUNDS:
        alone, shared = (data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k, seed, rounds=rounds, share=share)
                         for share in (False, True))
        for pairs in (alone, shared):
            pairs.set_epoch(epoch)
        assert sorted((n, group) for n, group, _ in alone.pairs) == sorted((n, group) for n, group, _ in shared.pairs)
        order = [n for n, _, _ in shared.pairs]
        assert len([n for n, _ in groupby(order)]) == len(set(order)) == len(skirts)
        crops = {}
        for i, n in enumerate(order):
            pixels, ids, labels = shared[i]
            assert torch.equal(crops.setdefault(n, pixels), pixels) and any(label != data.IGNORE for label in labels)
            assert len(ids) <= shared.tokens(i)
        backwards = {i: shared[i] for i in reversed(range(len(order)))}  # whatever was loaded before
        fresh = copy(shared)
        fresh.crop = (None, None)
        for i in random.Random(seed).sample(range(len(order)), 3):
            (pixels, *rest), (other, *others) = fresh[i], backwards[i]
            assert torch.equal(pixels, other) and rest == others


def test_tokens_are_counted_before_loading(skirts, described, tokenizers):
    """To the token where nothing is drawn and nothing leaves the crop."""
    tokenizer = tokenizers["llama3"]
    for instruction in ("base", "list", "steps"):
        pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, augment=False, rounds="dynamic",
                           instruction=instruction)
        assert [pairs.tokens(i) for i in range(len(pairs))] == [len(ids) for _, ids, _ in pairs]


def test_a_pair_tells_which_sample_it_is(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=2, augment=False)
    views = {f"{i.image} (annotation {i.id}, skirt)": data.load_crop(i, 28)[0] for i in skirts}
    assert {pairs.name(i) for i in range(len(pairs))} == set(views)
    assert all(torch.equal(pixels, views[pairs.name(i)]) for i, (pixels, _, _) in enumerate(pairs))


def test_answers_are_the_keypoints_places(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts, described, tokenizer, Codec(tokenizer), 28, k=1, augment=False)
    for (n, (j,), _), (pixels, ids, labels) in zip(pairs.pairs, pairs):
        text = tokenizer.decode([t for t in labels if t != data.IGNORE][:-1])
        expected = (skirts[n].keypoints[j, :2] - [10, 4]) / 40
        np.testing.assert_allclose(json.loads(text), expected, atol=0.0005 + 1e-6)
        torch.testing.assert_close(pixels, data.load_crop(skirts[n], 28)[0])


def test_pairs_depend_on_seed_and_epoch_alone(skirts, described, tokenizers):
    tokenizer = tokenizers["llama3"]

    def epoch(seed, epoch, instances=skirts, first=()):
        pairs = data.Pairs(instances, described, tokenizer, Codec(tokenizer), 28, k=4, seed=seed)
        for e in (*first, epoch):
            pairs.set_epoch(e)
        return pairs

    reference, again = epoch(1, 2), epoch(1, 2, first=(5, 0, 1))
    assert reference.pairs == again.pairs
    for i in (4, 0, 2, 0):                                               # in any order, any number of times
        for a, b in zip(reference[i], again[i]):
            assert torch.equal(a, b) if torch.is_tensor(a) else a == b
    for other in (epoch(1, 3), epoch(2, 2)):
        assert other.pairs != reference.pairs and len(other) == len(reference)
    backwards = epoch(1, 2, skirts[::-1])                                # an instance's groups do not depend on its neighbours
    assert sorted((4 - n, group, (4 - n, seed)) for n, group, (_, seed) in backwards.pairs) == sorted(reference.pairs)


def test_augmentation_keeps_its_bounds_and_answers_follow(skirts, described, tokenizers):
    draws = [data.draw_augmentation(random.Random(i)) for i in range(2000)]
    scales, angles = np.array(draws).T
    assert scales.min() == 0.7 and scales.max() == 1.3 and abs(angles).max() <= np.deg2rad(40)
    assert 0.45 < (angles == 0).mean() < 0.55
    tokenizer = tokenizers["llama3"]
    pairs = data.Pairs(skirts[3:4], described, tokenizer, Codec(tokenizer), 28, k=1)
    image = Image.open(skirts[3].image)
    for epoch in range(20):                                              # one keypoint: where it leaves the crop, the plain crop is taken
        pairs.set_epoch(epoch)
        pixels, ids, labels = pairs[0]
        answer = json.loads(tokenizer.decode([t for t in labels if t != data.IGNORE][:-1]))
        affine = data.crop_affine(skirts[3].bbox, 28, *data.draw_augmentation(random.Random(pairs.pairs[0][2][1])))
        place = data.to_crop(skirts[3].keypoints[:1, :2], affine, 28)
        if not Codec.has_code(place).all():
            affine = data.crop_affine(skirts[3].bbox, 28)
        np.testing.assert_allclose(data.to_image([answer], affine, 28)[0], skirts[3].keypoints[0, :2], atol=0.04)
        torch.testing.assert_close(pixels, data.crop(image, affine, 28))

# Instructions

SAMPLE = data.Keypoint("left eye", "The eye on the left side.")
BARE = data.Keypoint("nose", "")
BASE = "USER: Can you identify location of left eye on the object? The eye on the left side. With this description, please provide its coordinates. ASSISTANT:[0.250,0.500]"
PLAIN = "USER: Can you identify location of nose on the object? Please provide its coordinates. ASSISTANT:[0.123,0.999]"
LIST = "Keypoint List: left eye, nose, tail."
OBJECT = "USER: What do you think is the central object in this image? ASSISTANT: The object that this image is trying to express seems to be a grey cat."


def spoken(tokenizer, ids):
    """The texts between end-of-text tokens."""
    turns, text = [], []
    for id in ids:
        if id == tokenizer.eos_id:
            turns.append(tokenizer.decode(text))
            text = []
        else:
            text.append(id)
    return turns + [tokenizer.decode(text)] * bool(text)


@pytest.mark.parametrize("instruction, expected", {
    "base": [BASE, PLAIN],
    "names": [BASE.replace("The eye on the left side. With this description, please", "Please"), PLAIN],
    "list": [LIST + BASE, PLAIN],
    "outline": [instructions.OUTLINE + BASE, PLAIN],
    "steps": [OBJECT, BASE, PLAIN],
    "replaced": [BASE.replace(SAMPLE.description, instructions.REPLACED),
                 PLAIN.replace("Please", f"{instructions.REPLACED} With this description, please")],
    "direct-qa": ["USER: What is the name of a keypoint at [0.250,0.500] in the image? Tell me the name and why. ASSISTANT: The keypoint name is "
                  "left eye, because the eye on the left side.",
                  "USER: What is the name of a keypoint at [0.123,0.999] in the image? Tell me the name and why. ASSISTANT: The keypoint name is nose."],
}.items())
def test_instructions_read_as_in_the_paper(tokenizers, instruction, expected):
    """Figures 2, 6 and 7, in Llama 3's tokens, whose decoding is exact; only what the ASSISTANT says carries a label."""
    tokenizer = tokenizers["llama3"]
    codec, rounds = Codec(tokenizer), [(SAMPLE, (0.25, 0.5)), (BARE, (0.123, 0.999))]
    ids, labels = data.write_conversation(tokenizer, codec, rounds, instruction, "grey_cat", [SAMPLE, BARE, data.Keypoint("tail", "")])
    assert spoken(tokenizer, ids) == expected
    answers = [turn.split("ASSISTANT:")[1] for turn in expected]
    assert spoken(tokenizer, [l for l in labels if l != data.IGNORE]) == answers
    assert all(l in (data.IGNORE, id) for id, l in zip(ids, labels))


def test_step_by_step_qa_names_what_is_there(tokenizers):
    """Figure 8: all names in the list, those of the conversation in the answer, then the name at each place."""
    tokenizer = tokenizers["llama3"]
    rounds = [(BARE, (0.1, 0.2)), (SAMPLE, (0.25, 0.5))]
    ids, labels = data.write_conversation(tokenizer, Codec(tokenizer), rounds, "steps-qa", "grey_cat", [SAMPLE, BARE, data.Keypoint("tail", "")])
    first, second, *names = spoken(tokenizer, ids)
    assert first == "Joint list: left eye, nose, tail." + OBJECT
    assert second.endswith("The grey cat in the image seems to have several joints in the list, named nose, left eye. "
                           "Those joints are visible in the image.")
    assert [("[0.100,0.200]" in names[0], names[0].split("is ")[-1]), ("[0.250,0.500]" in names[1], names[1].split("is ")[-1])] == [
        (True, "nose."), (True, "left eye.")]
    assert sum(l != data.IGNORE for l in labels) < len(ids) / 2


def test_digits_are_single_tokens_wherever_coordinates_stand(tokenizers):
    for tokenizer in tokenizers.values():
        codec = Codec(tokenizer)
        for instruction in ("base", "direct-qa", "steps-qa"):
            ids, _ = data.write_conversation(tokenizer, codec, [(SAMPLE, (0.123, 0.456))], instruction, "cat", [SAMPLE])
            point = codec.point(0.123, 0.456)
            assert [i for i in range(len(ids)) if ids[i:i + len(point)] == point], instruction


def test_varied_questions(tokenizers):
    """Each phrasing names the keypoint and comes up in training; at inference the first is asked; all stay apart."""
    tokenizer = tokenizers["llama3"]
    codec, rng = Codec(tokenizer), random.Random(0)
    assert len(set(instructions.ASKS)) == len(instructions.ASKS) >= 20 and all(ask.count("{name}") == 1 for ask in instructions.ASKS)
    ask = lambda rng: spoken(tokenizer, data.write_conversation(tokenizer, codec, [(SAMPLE, (0.25, 0.5))], "diverse", rng=rng)[0])[0]
    seen = {ask(rng) for _ in range(500)}
    assert len(seen) == len(instructions.ASKS) and all("left eye" in s and SAMPLE.description in s and s.endswith("[0.250,0.500]") for s in seen)
    assert ask(None) == BASE and tokenizer.decode(data.write_question(tokenizer, SAMPLE, "diverse")) == BASE.split("[")[0]


def test_random_replacement_takes_half(tokenizers):
    tokenizer, rng = tokenizers["llama3"], random.Random(1)
    codec = Codec(tokenizer)
    ask = lambda rng: tokenizer.decode(data.write_conversation(tokenizer, codec, [(SAMPLE, (0.25, 0.5))], "random", rng=rng)[0])
    texts = [ask(rng) for _ in range(1000)]
    replaced = sum(instructions.REPLACED in t and SAMPLE.description not in t for t in texts)
    assert 440 < replaced < 560 and all((instructions.REPLACED in t) != (SAMPLE.description in t) for t in texts)     # 3.8 standard deviations
    assert SAMPLE.description in ask(None)                               # not at inference


@settings(deadline=None, max_examples=60)
@given(name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30),
       description=st.sampled_from(["", "{point} {name} {0} {", "<|end_of_text|></s><s>", "[0.123,0.456]", "}{because}%s"]),
       instruction=st.sampled_from(list(instructions.INSTRUCTIONS)))
def test_words_are_data(tokenizers, name, description, instruction):
    """Whatever a name or description holds, it stands there as text: no end of text but the answers', no field filled in."""
    tokenizer = tokenizers["llama3"]
    keypoint = data.Keypoint(name, description)
    ids, labels = data.write_conversation(tokenizer, Codec(tokenizer), [(keypoint, (0.5, 0.25))], instruction, "cat", [keypoint, SAMPLE])
    text = tokenizer.decode(ids)
    turns = sum(answer != "" for _, answer in instructions.INSTRUCTIONS[instruction].opening) + 1
    assert ids.count(tokenizer.eos_id) == turns and max(ids) <= tokenizer.eos_id and tokenizer.bos_id not in ids
    assert name in text and (description in text or instruction in ("names", "replaced", "direct-qa", "steps-qa"))


@pytest.mark.parametrize("instruction", list(instructions.INSTRUCTIONS))
def test_pairs_of_every_instruction_fit(skirts, described, tokenizers, instruction):
    """What Pairs promises to fit does: no item is longer than the room computed for its category."""
    pairs = data.Pairs(skirts, described, tokenizers["v3"], Codec(tokenizers["v3"]), 28, k=4, trunk=5, instruction=instruction)
    longest = 0
    for epoch in range(3):
        pairs.set_epoch(epoch)
        for i in range(len(pairs)):
            _, ids, labels = pairs[i]
            n, group, _ = pairs.pairs[i]
            lengths = [pairs.lengths[1][j] for j in group]
            assert any(l != data.IGNORE for l in labels)
            longest = max(longest, len(ids) - (data.MAX_TOKENS - 5 - pairs.room[1]) - sum(lengths))
            assert pairs[i][1] == ids                                    # drawn by the seed, not by chance
    assert longest <= 0


# A look at the data

@pytest.mark.parametrize("instruction", list(instructions.INSTRUCTIONS))
def test_show(tokenizers, instruction):
    """Every answer between « and », its tokens counted; `random` shows a replaced description and one that is kept."""
    tokenizer, keypoints = tokenizers["llama3"], [SAMPLE, data.Keypoint("nose", "The middle of the face.")]
    text, counted = data.show(tokenizer, keypoints, instruction, "grey_cat").rsplit("\n", 1)
    answers = re.findall("«(.*)»", text)
    assert len(answers) == sum(bool(a) for _, a in instructions.INSTRUCTIONS[instruction].opening) + 2
    tokens = [answer.split("|") for answer in answers]
    assert all(answer[-1] == "<end of text>" for answer in tokens)
    assert f", {sum(map(len, tokens))} of them count" in counted
    assert text.count(instructions.REPLACED) == {"replaced": 2, "random": 1}.get(instruction, 0)
    words = text.replace("|", "")
    assert "left eye" in words and "nose" in words and ("grey cat" in words) == instruction.startswith("steps")


def test_show_marks_each_token(tokenizers):
    text = data.show(tokenizers["llama3"], [SAMPLE, BARE], "base", "cat")
    assert "«[|0|.|1|2|3|,|0|.|4|5|6|]|<end of text>»" in text and text.count("«") == 2 and SAMPLE.description in text
    asked = sum(len(data.write_question(tokenizers["llama3"], keypoint)) for keypoint in (SAMPLE, BARE))
    assert f"{asked + 28} tokens after the image, 28 of them count" in text


@pytest.mark.parametrize("asked, said", [
    ("skirt", "right waistband"), ("1", "right waistband"), ("18", "right eyebrow, outer end"), ("40", "right face edge"),
    ("human_face_68", "right face edge"), ("boat.txt", "bow"),
    ("face", "--show face: 18 .human_face_19. and 40 .human_face_68. have this name; give an id"), ("", "--show : no category"),
    ("999", "--show 999: no category")])
def test_what_can_be_shown(model_folder, tmp_path, monkeypatch, capsys, asked, said):
    monkeypatch.chdir(tmp_path)
    Path("boat.txt").write_text("bow:\nstern:\n")
    monkeypatch.setattr("sys.argv", ["data.py", "--show", asked, "--llm", str(model_folder / "llm")])
    if said.startswith("--show"):
        with pytest.raises(ValueError, match=said) as error:
            data.main()
        one_line(error)
    else:
        data.main()
        assert f"location of {said}" in capsys.readouterr().out


def test_the_check_command(boats, tmp_path, monkeypatch, capsys):
    folder = boats()
    command = ["data.py", "--check", str(folder), "--descriptions", str(boats.texts), "--out"]
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "out" / "sheet.png")])
    data.main()
    assert "boat" not in (out := capsys.readouterr().out) and "sheet.png" in out and "val" not in out
    assert Image.open(tmp_path / "out" / "sheet.png").size == (160, 174)
    (folder / "images" / "00.jpg").unlink()
    with pytest.raises(ValueError, match="1 of 12 images missing: .*00.jpg$"):
        data.main()
    assert "boat (7)" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "x.txt")])
    with pytest.raises(ValueError, match="--out .*x.txt: the contact sheet is written as .png or .jpg"):
        data.main()
    assert capsys.readouterr().out == ""                                 # said before anything is read


def test_the_check_command_takes_the_parts_that_are_there(boats, tmp_path, monkeypatch, capsys):
    folder = boats(2)
    train, val = (folder / "annotations" / f"{part}.json" for part in ("train", "val"))
    monkeypatch.setattr("sys.argv", ["data.py", "--check", str(folder), "--descriptions", str(boats.texts),
                                     "--out", str(tmp_path / "x.png")])
    train.rename(val)
    data.main()
    assert capsys.readouterr().out.startswith("val\n")
    train.write_text(json.dumps(json.loads(val.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match="annotations/train.json holds no usable instance$") as error:
        data.main()
    one_line(error)
    tables = re.split("train\n|val\n", capsys.readouterr().out)
    assert [cells(table)["all"]["instances"] for table in tables[1:]] == [0, 2]
    train.unlink()
    val.unlink()
    with pytest.raises(FileNotFoundError, match="train.json"):
        data.main()


def test_images_stored_smaller_or_larger_than_annotated(boats):
    """One factor both ways: points and pixels agree with the same image stored as annotated. Anything else is an error."""
    folder = boats(3)
    file, (y, x) = folder / "images" / "01.png", np.mgrid[:50, :60]
    image = Image.fromarray(np.stack([4 * x, 5 * y, 2 * x + 2 * y], 2).astype(np.uint8))     # smooth: resampling changes it little
    image.save(file)
    plain = data.load_crop(data.read_split(folder)[0][1], 28)
    for f in (2, 3):
        image.resize((60 * f, 50 * f), Image.Resampling.NEAREST).save(file)
        instances, _, table = check.check_images([folder], descriptions=boats.texts)
        assert f"boat (7): stored images are the annotated ones x {f} (1); annotations follow" in table
        pixels, points = data.load_crop(instances[1], 28)
        np.testing.assert_array_equal(points, plain[1])
        assert (pixels - plain[0]).abs().max() < 0.2 < plain[0].std()
    image.resize((60, 25)).save(file)
    with pytest.raises(ValueError, match="1 of 3 images other size: .*01.png .60 x 25, annotated 60 x 50"):
        check.check_images([folder], descriptions=boats.texts)
    with pytest.raises(ValueError, match="01.png is 60 x 25 pixels, annotated as 60 x 50") as error:
        data.load_crop(instances[1], 28)
    one_line(error)


# Input that lies

@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))
       | st.lists(st.tuples(st.text(max_size=8), st.text(max_size=40)), max_size=6).map(lambda rows: "\r\n".join(f"{n}: {d}" for n, d in rows).encode()))
def test_any_bytes_are_descriptions_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    path.write_bytes(content)
    try:
        keypoints = data.read_descriptions(path)
    except ValueError as e:
        assert "fuzz.txt" in str(e) and "\n" not in str(e)
    else:
        assert keypoints and len({k.name for k in keypoints}) == len(keypoints)
        assert all(k.name and (k.name + k.description).isprintable() and ":" not in k.name for k in keypoints)


def test_large_descriptions(tmp_path, tokenizers):
    """A thousand keypoints, and a line of 100 kB: read, encoded, and refused where a conversation would not hold it."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"point {n}: the {n}th point\n" for n in range(1000)))
    assert len(data.read_descriptions(path)) == 1000
    path.write_text("nose: " + "a long word " * 8500 + "\ntail:\n")
    described = {1: data.read_descriptions(path)}
    instance = data.Instance(0, tmp_path / "x.png", 1, np.array([[5, 5, 2], [6, 6, 2]], np.float32), (0, 0, 20, 20), (20, 20), "thing")
    with pytest.raises(ValueError, match="thing.* more than 2048: lower --k or shorten its descriptions") as error:
        data.Pairs([instance], described, tokenizers["v3"], Codec(tokenizers["v3"]), 28)
    one_line(error)


JSON = st.recursive(st.none() | st.booleans() | st.sampled_from([0, 1, -1, 10**20, 10**400]) | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


def places(value, path=()):
    """The paths of all values inside of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), JSON), min_size=1, max_size=3))
def test_any_change_to_annotations_is_read_or_one_line(tmp_path_factory, changes):
    content, folder = coco(), tmp_path_factory.getbasetemp() / "fuzz"
    for number, value in changes:
        if not (found := list(places(content))):
            break
        *way, last = found[number % len(found)]
        inner = content
        for key in way:
            inner = inner[key]
        inner[last] = value
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / "mp100_split1_train.json").write_text(json.dumps(content))
    try:
        instances, names = data.read_split(folder)
        described = data.describe(instances, names)
        everything, _, faults = data.inspect([folder])
        table = data.summary(everything, faults)
    except (ValueError, FileNotFoundError) as e:
        assert "\n" not in str(e) and (str(folder) in str(e) or ".txt" in str(e))
        return
    for i in instances:
        assert np.isfinite(i.keypoints).all() and min(i.bbox[2:]) > 0 and len(described[i.category]) == len(i.keypoints)
    assert cells(table)["all"] | {"instances": len(everything), "usable": 0, "missing": len(everything)} == cells(table)["all"]
    assert table.replace("\n", "").isprintable()
