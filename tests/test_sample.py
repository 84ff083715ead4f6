"""sample.py as its user meets it: table, picture and JSON agree, every mistake is one line."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import data
import sample
from capellm import CapeLLM
from study import density, figure5
from support import launch, photos, pictures

ROOT = Path(__file__).parent.parent
BASE = ["--image", "x.png", "--desc", "d.txt", "--device", "cpu"]
NAMES = ["nose tip", "left eye", "tail", "right ear"]
UNTURN = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


@pytest.fixture(scope="module")
def photo():
    """48 x 36 pixels, smooth, every corner another colour."""
    y, x = np.mgrid[:36, :48]
    return Image.fromarray(np.stack([x * 5, y * 7, 255 - 2 * x - 3 * y], 2).astype(np.uint8))


@pytest.fixture
def work(tmp_path, photo, monkeypatch):
    """A folder with photo and descriptions, the current one."""
    photo.save(tmp_path / "x.png")
    (tmp_path / "d.txt").write_text(
        "# four\n" + "\n".join(f"{n}: where the {n} is" for n in NAMES[:3]) + f"\n\n{NAMES[3]}:\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(model_folder, work, monkeypatch):
    """sample.py in this process; returns the JSON it writes."""

    def call(*arguments):
        argv = ["sample.py", *BASE, "--model", str(model_folder), "--json", "x.json"]
        monkeypatch.setattr(sys, "argv", [*argv, *arguments])
        sample.main()
        return json.loads((work / "x.json").read_text())

    return call


def xy(result):
    return np.array([[k["x"], k["y"]] for k in result["keypoints"]])


def test_table_picture_and_json_agree(call, work, model_folder, photo, capsys):
    result = call()
    expected = CapeLLM.from_pretrained(model_folder).locate(
        photo, data.read_descriptions(work / "d.txt")
    )
    rows = [line.rsplit(None, 4) for line in capsys.readouterr().out.splitlines()]
    header = next(i for i, row in enumerate(rows) if row[0] == "keypoint")
    # The rows end with two lines about radii and one that names the files.
    rows = rows[header + 1 : -3]
    for name, point, k, row in zip(NAMES, expected, result["keypoints"], rows, strict=True):
        assert k == {"name": name, **point._asdict(), "radius_of_box": point.radius / 48}
        assert 0 < k["probability"] <= 1 and 0 < k["radius"] <= 48 * 2**0.5
        share = f"{point.radius / 48:.1%}"
        assert row == [name, f"{point.x:.1f}", f"{point.y:.1f}", f"{point.radius:.1f}", share]
    assert (
        len(result["keypoints"]) == len(NAMES)
        and result["box"] == [0, 0, 48, 36]
        and result["image"] == "x.png"
    )
    assert sorted(p.relative_to(work).as_posix() for p in work.rglob("*")) == [
        "d.txt",
        "out",
        "out/x_keypoints.png",
        "x.json",
        "x.png",
    ]
    with Image.open(work / "out" / "x_keypoints.png") as picture:
        circles = [point.radius for point in expected]
        assert min(circles) > 0.15 * 48
        drawn = pictures.draw_keypoints(photo, expected, NAMES, None, circles)
        assert np.array_equal(picture, drawn)


@pytest.mark.parametrize(
    "scale, arguments, is_calibrated",
    [
        (None, [], False),
        (1.5, [], True),
        (1.5, ["--decoding", "sampling"], False),
        (1.5, ["--cumulative"], False),
    ],
)
def test_only_the_usual_answers_of_a_calibrated_model_are_calibrated(
    call, work, model_folder, capsys, scale, arguments, is_calibrated
):
    """Its factor makes circles larger, all the same."""
    folder = shutil.copytree(model_folder, work / "model")
    config = json.loads((folder / "config.json").read_text())
    radii = []
    for factor in (None, scale):
        (folder / "config.json").write_text(json.dumps(config | {"radius_scale": factor}))
        capsys.readouterr()
        result = call("--model", str(folder), *arguments)
        radii.append([keypoint["radius"] for keypoint in result["keypoints"]])
    assert radii[1] == pytest.approx([r * (scale or 1) for r in radii[0]])
    assert ("not calibrated" in capsys.readouterr().out) != is_calibrated
    assert result["radius_is_calibrated"] == is_calibrated


def test_points_lie_in_the_square_around_the_box(call):
    everywhere = xy(call())
    for x, y, w, h in ((0, 0, 48, 36), (30, 5, 8, 14), (10, 20, 20, 4), (40, 30, 8, 6)):
        points, side = xy(call(f"--box={x},{y},{w},{h}")), max(w, h)
        low = np.array([x + w / 2, y + h / 2]) - side / 2
        assert (points >= low - 1e-6).all() and (points < low + side).all()
        # Three decimals.
        thousandths = (points - low) / side * 1000
        assert np.allclose(thousandths, np.round(thousandths), atol=1e-4)
        assert np.array_equal(points, everywhere) == (w == 48)


def test_a_flat_box_is_the_middle_of_its_crop(call):
    """As in the check of a data folder: the crop takes the longer side."""
    assert call("--box=10,18,20,0")["keypoints"] == call("--box=10,8,20,20")["keypoints"]


def test_a_box_is_clipped_to_the_photo(call):
    result = call("--box=-10,-4,30,20")
    assert result["box"] == [0, 0, 20, 16]
    assert np.array_equal(xy(result), xy(call("--box=0,0,20,16")))


@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_exif_orientation_is_obeyed(call, work, photo, orientation):
    upright = call("--box=4,6,24,30")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = photo.transpose(Image.Transpose[UNTURN[orientation]])
    turned.save(work / "turned.png", exif=exif)
    assert call("--box=4,6,24,30", "--image", "turned.png")["keypoints"] == upright["keypoints"]
    # Without EXIF it is turned indeed.
    turned.save(work / "turned.png")
    assert call("--box=4,6,24,30", "--image", "turned.png")["keypoints"] != upright["keypoints"]


@pytest.mark.parametrize(
    "arguments, how",
    [
        (["--decoding", "sampling", "--seed", "5"], {"decoding": "sampling", "seed": 5}),
        (["--cumulative"], {"cumulative": True}),
        (
            ["--cumulative", "confidence", "--decoding", "nucleus"],
            {"cumulative": "confidence", "decoding": "nucleus"},
        ),
    ],
)
def test_decoding_and_cumulative_reasoning_reach_the_model(
    call, work, model_folder, photo, arguments, how
):
    model, keypoints = CapeLLM.from_pretrained(model_folder), data.read_descriptions(work / "d.txt")
    expected = model.locate(photo, keypoints, (4, 6, 24, 30), **how)
    assert call("--box=4,6,24,30", *arguments)["keypoints"] == [
        {"name": n, **p._asdict(), "radius_of_box": p.radius / 30}
        for n, p in zip(NAMES, expected, strict=True)
    ]
    assert expected != model.locate(photo, keypoints, (4, 6, 24, 30))


def test_density_in_table_picture_and_json(call, work, model_folder, photo, capsys):
    box = (4.0, 6.0, 24.0, 30.0)
    result = call("--density", "tail", "--box=4,6,24,30")
    model = CapeLLM.from_pretrained(model_folder)
    keypoint = data.read_descriptions(work / "d.txt")[2]
    found = model.density(photo, keypoint, box)
    corner = [16 - 15, 21 - 15]  # of the square around the box
    best, expected = density.find_best_point(found.p, 0.05)
    places = {
        "mode": density.find_mode(found.p),
        "median": density.find_median(found.p),
        "mean": density.find_mean(found.p),
        "best for PCK@0.05": best,
    }
    for name, place in places.items():
        assert np.allclose(result[name], np.array(place) * 30 + corner)
    places["greedy"] = model.locate(photo, [keypoint], box)[0][:2]
    assert result["greedy"] == pytest.approx(places["greedy"])
    assert result["keypoint"] == "tail" and result["box"] == list(box)
    assert result["expected PCK@0.05"] == pytest.approx(expected) and result[
        "entropy"
    ] == pytest.approx(-sum(found.p[found.p > 0] * (1e6 * found.p[found.p > 0]).log()))
    assert result["spread"] == pytest.approx(found.spread) and result["prefixes"] == found.prefixes
    out = capsys.readouterr().out
    rows = [line.rsplit(None, 2) for line in out.splitlines()]
    assert sorted(row for row in rows if row[0] in places) == sorted(
        [n, *(f"{v:.1f}" for v in result[n])] for n in places
    )
    assert (
        f"in nats per unit of area, where the crop's is 1: entropy {result['entropy']:.2f}\n" in out
    )
    assert sorted(p.name for p in (work / "out").iterdir()) == ["x_density.png"]
    with Image.open(work / "out" / "x_density.png") as picture:
        assert np.array_equal(picture, figure5.draw_density(photo, box, "tail", found.p))


@pytest.mark.parametrize(
    "box, low, side", [((4.0, 6.0, 24.0, 30.0), (1, 6), 30), (None, (0, -6), 48)]
)
@pytest.mark.parametrize("place", [(0.31, 0.63), (0.004, 0.98)])
def test_the_truth_beside_the_density(
    call, work, model_folder, photo, capsys, box, low, side, place
):
    truth = [low[n] + side * place[n] for n in (0, 1)]
    arguments = ["--density", "tail", *(["--box=4,6,24,30"] if box else [])]
    result = call(*arguments, f"--truth={truth[0]!r},{truth[1]!r}")
    printed = capsys.readouterr().out.splitlines()
    keypoint = data.read_descriptions(work / "d.txt")[2]
    p = CapeLLM.from_pretrained(model_folder).density(photo, keypoint, box).p
    at, answer = tuple(round(1000 * v) for v in place), (np.array(result["greedy"]) - low) / side
    assert result["truth"] == truth
    assert result["NLL of the truth"] == pytest.approx(-math.log(1e6 * p[at]), rel=1e-5)
    rival = result["NLL of the truth, Gaussian around the greedy answer"]
    # A Gaussian around the answer, x and y, cut off at the crop.
    expected = 0
    for c, t in zip(answer, place, strict=True):
        mass = np.exp(-(((np.arange(1000) / 1000 - c) / figure5.SIGMA) ** 2) / 2).mean()
        expected += ((t - c) / figure5.SIGMA) ** 2 / 2 + math.log(mass)
    assert rival == pytest.approx(expected, abs=0.01)
    (line,) = (line for line in printed if "log-likelihood" in line)
    assert (
        f"of the truth {result['NLL of the truth']:.2f}; {rival:.2f} under a Gaussian" in line
        and "nats per unit of area" in line
    )
    with Image.open(work / "out" / "x_density.png") as picture:
        assert np.array_equal(
            picture, figure5.draw_density(photo, box or (0, 0, 48, 36), "tail", p, tuple(place))
        )
    without = call(*arguments)
    assert (
        not any("NLL" in n or n == "truth" for n in without) and without.items() <= result.items()
    )
    assert "log-likelihood" not in capsys.readouterr().out


@pytest.mark.parametrize("instruction", ["list", "steps"])
def test_a_density_is_of_the_question_that_is_answered(call, work, model_folder, instruction):
    """The greedy answer's likelihood under the density is its probability among the answers."""
    own = str(shutil.copytree(model_folder, work / "own"))
    config = json.loads((model_folder / "config.json").read_text())
    (work / "own" / "config.json").write_text(json.dumps(config | {"instruction": instruction}))
    answers = {k["name"]: k for k in call("--model", own)["keypoints"]}
    # Each digit of the surest is read: none is below the cut.
    surest = max(answers.values(), key=lambda k: k["probability"])
    assert surest["probability"] > 1e-4
    found = call(
        "--model", own, "--density", surest["name"], f"--truth={surest['x']!r},{surest['y']!r}"
    )
    assert found["greedy"] == pytest.approx([surest["x"], surest["y"]])
    assert found["NLL of the truth"] == pytest.approx(
        -math.log(1e6 * surest["probability"]), rel=1e-3
    )


def photographs(photo):
    """name -> (image, options of save, what it looks like, tolerance a pixel)"""
    grey = photo.convert("L")
    values, alpha = np.asarray(grey), Image.new("L", photo.size)
    alpha.paste(255, (0, 0, 24, 36))
    clear, white = photo.copy(), Image.new("RGB", photo.size, "white")
    clear.putalpha(alpha)
    on_white, dark = Image.composite(photo, white, alpha), Image.new("RGB", photo.size)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    frames = dict(save_all=True, append_images=[dark, white], duration=50)
    return {
        "rgb.jpg": (photo, {"quality": 95}, photo, 3),
        "grey.png": (grey, {}, grey, 0),
        "bits.png": (photo.convert("1"), {}, photo.convert("1"), 0),
        "16bit.png": (Image.fromarray(values.astype(np.uint16) * 257), {}, grey, 1),
        "16bit-big-endian.tif": (Image.fromarray(values.astype(">u2") * 257), {}, grey, 1),
        "32bit.tif": (Image.fromarray(values.astype(np.int32) * 257), {}, grey, 1),
        "float255.tif": (Image.fromarray(values.astype(np.float32)), {}, grey, 1),
        "float1.tif": (Image.fromarray(values.astype(np.float32) / 255), {}, grey, 1),
        "alpha.png": (clear, {}, on_white, 0),
        "grey-alpha.png": (clear.convert("LA"), {}, on_white.convert("L"), 1),
        "alpha.webp": (clear, {"lossless": True}, on_white, 0.5),
        "key.png": (photo, {"transparency": photo.getpixel((0, 0))}, photo, 1),
        "palette.png": (photo.quantize(256), {}, photo, 4),
        "palette-alpha.png": (clear.quantize(256, method=2), {}, on_white, 4),
        "cmyk.jpg": (photo.convert("CMYK"), {"quality": 98}, photo, 3),
        "ycbcr.tif": (photo.convert("YCbCr"), {}, photo, 2),
        "lab.tif": (
            ImageCms.applyTransform(photo, ImageCms.buildTransform(srgb, lab, "RGB", "LAB")),
            {},
            photo,
            3,
        ),
        "animated.gif": (photo, frames, photo, 6),
        "animated.png": (photo, frames, photo, 0),
        "animated.webp": (photo, frames | {"lossless": True}, photo, 0),
        "pages.tif": (photo, frames, photo, 0),
    }


def test_every_kind_of_photo_opens(work, photo):
    for name, (image, options, look, tolerance) in photographs(photo).items():
        image.save(work / name, **options)
        opened = photos.open_image(work / name)
        error = np.abs(np.asarray(opened, float) - np.asarray(look.convert("RGB"), float)).mean()
        assert opened.mode == "RGB" and opened.size == photo.size and error <= tolerance, (
            name,
            opened,
            error,
        )


MISTAKES = {
    "missing photo": (["--image", "none.png"], "none.png"),
    "no photo": (["--image", "bad.txt"], "bad.txt"),
    "a folder": (["--image", "."], ". is no image"),
    "cut photo": (["--image", "cut.png"], "cut.png"),
    "too large": (["--image", "large.png"], "100,000,000"),
    "box outside": (["--box", "48,0,5,5"], "48 x 36"),
    "box of no size": (["--box", "3,3,0,0"], "3,3,0,0"),
    "negative": (["--box", "9,9,-2,-2"], "9,9,-2,-2"),
    "box in words": (["--box", "1,2,three,4"], "1,2,three,4"),
    "three numbers": (["--box", "1,2,3"], "1,2,3"),
    "nan": (["--box", "nan,0,5,5"], "nan,0,5,5"),
    "no box": (["--box", ""], "--box ''"),
    "bad line": (["--desc", "bad.txt"], "bad.txt, line 3"),
    "empty": (["--desc", "empty.txt"], "empty.txt"),
    "missing descriptions": (["--desc", "none.txt"], "none.txt"),
    "no text": (["--desc", "cut.png"], "cut.png, line 1"),
    "no such keypoint": (
        ["--density", "left ear"],
        "d.txt has no keypoint of that name; the nearest: 'left eye'",
    ),
    "decoding a density": (["--density", "tail", "--decoding", "top-3"], "--decoding"),
    "a chain of densities": (["--density", "tail", "--cumulative"], "--cumulative"),
    "nothing to explain": (
        ["--explain", "left ear"],
        "--explain 'left ear': d.txt has no keypoint of that name; the nearest: 'left eye'",
    ),
    "two pictures": (["--explain", "tail", "--density", "tail"], "leave one of them out"),
    "explaining a decoding": (["--explain", "tail", "--decoding", "top-3"], "--decoding"),
    "explaining a chain": (["--explain", "tail", "--cumulative"], "--cumulative"),
    "explaining a truth": (["--explain", "tail", "--truth", "5,5"], "name it with --density"),
    "a truth alone": (["--truth", "5,5"], "name it with --density"),
    "no truth": (["--density", "tail", "--truth", ""], "--truth ''"),
    "truth in words": (["--density", "tail", "--truth", "5,five"], "--truth '5,five'"),
    "three numbers as truth": (["--density", "tail", "--truth", "1,2,3"], "--truth '1,2,3'"),
    "truth nowhere": (["--density", "tail", "--truth", "nan,5"], "--truth nan,5 lies outside"),
    "truth outside": (
        ["--density", "tail", "--box=4,6,24,30", "--truth=31,20"],
        "31,20 lies outside of the crop, where x is from 1 to 31 and y from 6 to 36",
    ),
    "truth left of all": (
        ["--density", "tail", "--truth=-0.1,20"],
        "-0.1,20 lies outside of the crop, where x is from 0 to 48 and y from -6 to 42",
    ),
    "format": (["--out", "x.abc"], "x.abc"),
    "no suffix": (["--out", "y"], "y"),
    "over the photo": (["--out", "x.png"], "--out"),
    "no model": (["--model", "."], "config.json"),
    "no adapter": (["--model", "bare"], "adapter.safetensors"),
    "cut weights": (["--model", "cut"], "cut/llm/model.safetensors"),
    "cut adapter": (["--model", "short"], "short/adapter.safetensors"),
    "out below a file": (["--out", "d.txt/x.png"], "d.txt"),
    "out is a folder": (["--out", "folder.png"], "folder.png"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, call, work, model_folder, photo, capsys):
    arguments, named = MISTAKES[mistake]
    (work / "bad.txt").write_text("nose: the nose\n\nthe left eye\n")
    (work / "empty.txt").write_text("# nothing\n\n")
    (work / "folder.png").mkdir()
    (work / "cut.png").write_bytes((work / "x.png").read_bytes()[:-60])
    if mistake == "too large":
        Image.new("1", (12_000, 9_000)).save(work / "large.png")
    for name, file in (
        ("bare", "adapter.safetensors"),
        ("short", "adapter.safetensors"),
        ("cut", "llm/model.safetensors"),
    ):
        shutil.copytree(model_folder, work / name)
        (work / name / file).unlink()
        if name != "bare":
            (work / name / file).write_bytes((model_folder / file).read_bytes()[:-100])
    before = {p: p.is_file() and p.read_bytes() for p in work.rglob("*")}
    with pytest.raises(SystemExit) as end:
        launch.run("sample.py", lambda: call(*arguments))
    error = capsys.readouterr().err
    assert (
        end.value.code == 2
        and error.startswith("sample.py: ")
        and error.count("\n") == 1
        and named in error
    )
    assert {p: p.is_file() and p.read_bytes() for p in work.rglob("*")} == before


def test_control_c_ends_quietly(capsys):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        launch.run("sample.py", stop)
    assert end.value.code == 130 and capsys.readouterr().err == ""


@pytest.mark.parametrize("image, code", [("x.png", 0), ("none.png", 2)])
def test_as_a_command(work, model_folder, image, code):
    argv = [sys.executable, ROOT / "sample.py", *BASE, "--model", model_folder, "--image", image]
    done = subprocess.run(
        argv, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == code and (work / "out" / "x_keypoints.png").is_file() == (code == 0)
    assert done.stderr == ("" if code == 0 else "sample.py: none.png is missing\n")


@pytest.mark.parametrize("more, told", [([], None), (["--category", "red panda"], "red panda")])
@pytest.mark.parametrize("asked", ["keypoints", "density", "explain"])
def test_what_the_object_is_can_be_told(call, monkeypatch, more, told, asked):
    seen = []
    original = CapeLLM.prepare_questions

    def prepare(self, pixels, keypoints, category=None, listed=None):
        seen.append(category)
        return original(self, pixels, keypoints, category, listed)

    monkeypatch.setattr(CapeLLM, "prepare_questions", prepare)
    if asked != "keypoints":
        more = [*more, f"--{asked}", "tail"]
    call(*more)
    assert set(seen) == {told}
