"""eval.py: the command with a tiny model; what it writes, resumes, compares and refuses."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import data
import decode
import eval as evaluation
import llama
from capellm import CapeLLM
from study import density, metrics, pairs, paper
from support import descriptions, launch
from support.descriptions import Keypoint
from test_metrics import pck_in_loops

NAMES = ["PCK@0.05", "PCK@0.10", "PCK@0.15", "PCK@0.20", "PCK@0.25"]
TEXTS = {
    "kite": ["top", "left corner", "right corner", "tail"],
    "boat": ["bow", "stern", "mast"],
}


def dataset(folder, train, test):
    """Images of kites and boats; of each one keypoint is not labelled."""
    rng, number = np.random.default_rng(5), itertools.count(1)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "texts").mkdir()
    for name, keypoints in TEXTS.items():
        (folder / "texts" / f"{name}.txt").write_text(
            "".join(f"{k}: the {k} of the {name}\n" for k in keypoints)
        )
    for part, kinds in (("train", train), ("test", test)):
        coco = {
            "categories": [{"id": 500 + n, "name": name} for n, name in enumerate(TEXTS)],
            "images": [],
            "annotations": [],
        }
        for kind in kinds:
            id, w, h = next(number), *map(int, rng.integers(60, 100, 2))
            Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)).save(
                folder / "images" / f"{id}.png"
            )
            xyv = np.concatenate(
                [
                    rng.uniform(10, 50, (len(TEXTS[kind]), 2)).round(1),
                    np.full((len(TEXTS[kind]), 1), 2),
                ],
                1,
            )
            xyv[id % len(xyv), 2] = 0
            coco["images"].append({"id": id, "file_name": f"{id}.png", "width": w, "height": h})
            coco["annotations"].append(
                {
                    "id": id,
                    "image_id": id,
                    "category_id": 500 + list(TEXTS).index(kind),
                    "keypoints": xyv.ravel().tolist(),
                    "bbox": [5, 8, w - 15, h - 12],
                }
            )
        (folder / "annotations" / f"mp100_split1_{part}.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Six test images of kites and boats, eight training images of kites."""
    return dataset(tmp_path / "data", ["kite"] * 8, ["kite", "boat"] * 3)


def command(model_folder, folder, *more):
    return [
        "--model",
        str(model_folder),
        "--data",
        str(folder),
        "--descriptions",
        str(folder / "texts"),
        *map(str, more),
    ]


def run(monkeypatch, capsys, arguments):
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    code = 0
    try:
        launch.run("eval.py", evaluation.main)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
        if isinstance(e.code, str):  # the interpreter prints it
            print(e.code, file=sys.stderr)
    return code, *capsys.readouterr()


def test_command_writes_what_it_measured(monkeypatch, capsys, model_folder, folder, tmp_path):
    code, out, _ = run(
        monkeypatch, capsys, command(model_folder, folder, "--controls", "--out", tmp_path / "a")
    )
    assert (
        code == 0 and "6 of 6 images" in out and "quick look" not in out and "- other image" in out
    )
    r = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (r["instances"], r["part"], r["limit"], r["unreadable"]) == (6, "test", None, [])
    assert (tmp_path / "a" / "results.md").read_text() == out
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "instances.jsonl",
        "results.json",
        "results.md",
    ]
    lines = [
        json.loads(line) for line in (tmp_path / "a" / "instances.jsonl").read_text().splitlines()
    ]
    instances, _ = data.read_split(folder, 1, "test")
    assert [m["id"] for m in lines] == [i.id for i in instances]
    recomputed = []  # from the predictions, which are in the image's pixels
    for m, i in zip(lines, instances):
        texts = TEXTS["kite" if i.category == 500 else "boat"]
        assert (
            list(m["predictions"])
            == [k for k, v in zip(texts, i.keypoints[:, 2]) if v > 0]
            == list(m["probabilities"])
        )
        predictions = [m["predictions"].get(k, (0, 0)) for k in texts]
        recomputed.append(
            pck_in_loops(
                predictions, i.keypoints[:, :2].astype(float), i.keypoints[:, 2], max(i.bbox[2:])
            )
        )
        assert [m[n] for n in NAMES] == pytest.approx(recomputed[-1])
    assert [r[n] for n in NAMES] == pytest.approx(np.mean(recomputed, 0)) and r[
        "mPCK"
    ] == pytest.approx(np.mean(recomputed))


def read(folder, name="results.json"):
    return json.loads((folder / name).read_text())


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_densities_are_compared_with_the_truth(monkeypatch, capsys, model_folder, folder, tmp_path):
    """Densities that are known: of each keypoint a Gaussian around a place that its name tells."""
    sigma, asked = 0.03, []
    place = lambda name: (0.3 + 0.02 * len(name), 0.4)

    def known(model, pixels, keypoint, category, listed):
        asked.append((keypoint.name, category))
        assert [k.name for k in listed] == TEXTS[category]
        return density.Density(
            density.gaussian(place(keypoint.name), sigma), 0.25, 1000 * len(keypoint.name)
        )

    monkeypatch.setattr(density, "compute_density", known)
    arguments = command(model_folder, folder, "--out", tmp_path / "out")
    code, text, err = run(monkeypatch, capsys, [*arguments, "--density"])
    assert (
        code == 0
        and "PCK-optimal minus greedy" in text
        and "exact density" in text
        and "25.0% of the mass" in text
    ), err
    assert (tmp_path / "out" / "results.md").read_text() == text
    r, records = read(tmp_path / "out")["density"], lines(tmp_path / "out" / "instances.jsonl")
    nll, hits, total = [], [], 0
    for m, i in zip(records, data.read_split(folder, 1, "test")[0]):
        names = [k for k, v in zip(TEXTS[i.name], i.keypoints[:, 2]) if v > 0]
        assert list(m["density"]) == list(m["points"]["mode"]["distances"]) == names
        (x, y, w, h), side = i.bbox, max(i.bbox[2:])
        corner = np.array([x + w / 2 - side / 2, y + h / 2 - side / 2])
        truths = i.keypoints[i.keypoints[:, 2] > 0, :2].astype(float)
        answers = [corner + side * np.array(place(k)) for k in names]
        for point in ("mode", "median", "mean", "PCK-optimal"):  # of a Gaussian they are the same
            for k, a, t in zip(names, answers, truths):
                assert m["points"][point]["distances"][k] == pytest.approx(
                    np.full(5, math.dist(a, t)) if "PCK" in point else math.dist(a, t),
                    abs=0.002 * side,
                )
        hits.append(pck_in_loops(answers, truths, [1] * len(names), side))
        for k, t in zip(names, (truths - corner) / side):
            total += 1
            d = math.dist(t, place(k))
            assert m["density"][k]["truth"] == pytest.approx(t.tolist(), abs=1e-6)
            assert m["density"][k]["greedy"] == pytest.approx(
                ((m["predictions"][k] - corner) / side).tolist(), abs=1e-4
            )
            assert ("nll" in m["density"][k]) == bool(((0 <= t) & (t < 0.9995)).all())
            if "nll" in m["density"][k]:
                nll.append(math.log(2 * math.pi * sigma**2) + d**2 / (2 * sigma**2))
                assert m["density"][k]["nll"] == pytest.approx(nll[-1], rel=0.03, abs=0.05)
                assert m["density"][k]["level"] == pytest.approx(
                    1 - math.exp(-(d**2) / (2 * sigma**2)), abs=0.01
                )
    assert [r["points"]["mode"][n] for n in NAMES] == pytest.approx(np.mean(hits, 0), abs=0.02)
    assert r["nll"] == pytest.approx(np.mean(nll), rel=0.03)
    assert r["entropy"] == pytest.approx(math.log(2 * math.pi * math.e * sigma**2), abs=1e-3)
    assert (r["truths"], r["truths outside of the crop"]) == (len(nll), total - len(nll)) and len(
        asked
    ) == total
    cost = np.mean([1000 * len(k) for k, _ in asked])  # also of truths outside
    assert (
        r["prefixes"] == pytest.approx(cost) and f"Read for a density: {cost:,.1f} prefixes" in text
    )
    code, again, _ = run(monkeypatch, capsys, [*arguments, "--density", "--resume"])
    assert code == 0 and again == text and len(asked) == total  # nothing is asked again
    code, _, err = run(monkeypatch, capsys, [*arguments, "--resume"])
    assert code == 2 and "density was True, is False" in err


def test_pairs_count_an_image_once_for_each_episode(monkeypatch, capsys, model_folder, tmp_path):
    folder = dataset(tmp_path / "data", [], ["boat"] * 17)
    for more in ([], ["--pairs", "--resume", "--controls"], ["--pairs", "--resume"]):
        code, out, err = run(
            monkeypatch, capsys, command(model_folder, folder, *more, "--out", tmp_path / "out")
        )
        if "--controls" in more:  # they were not asked before
            assert (
                code == 2
                and "results.json is of other settings: controls was False, is True" in err
            )
            continue
        assert code == 0 and "17 of 17 images" in out
        assert ("Counted as 3000 support-query pairs; 0 more" in out) == ("--pairs" in more)
    r, single = (
        read(tmp_path / "out"),
        metrics.average_records(lines(tmp_path / "out" / "instances.jsonl")),
    )
    assert (r["protocol"], r["pairs"], r["pairs left out"], r["instances"]) == (
        "support-query pairs",
        200 * 15,
        0,
        17,
    )
    each = [m["pairs"] for m in lines(tmp_path / "out" / "instances.jsonl")]
    assert sum(p["weight"] for p in each) == 3000
    assert np.average(
        [p["NME"] for p in each], weights=[p["weight"] for p in each]
    ) == pytest.approx(r["NME"])
    assert single["NME"] != r["NME"] == pytest.approx(single["NME"], rel=0.2)


def test_an_interrupted_evaluation_continues(monkeypatch, capsys, model_folder, folder, tmp_path):
    out, asked, answer = tmp_path / "out", [], CapeLLM.answer
    arguments = command(model_folder, folder, "--occlude", 0.4, "--decoding", "sampling", "--out")
    assert run(monkeypatch, capsys, [*arguments, str(tmp_path / "whole")])[0] == 0

    def interrupted(*more, **inference):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(1)
        return answer(*more, **inference)

    monkeypatch.setattr(CapeLLM, "answer", interrupted)
    stop = 7  # two answers an image: within the fourth
    assert run(monkeypatch, capsys, [*arguments, str(out)])[0] == 130
    assert [p.name for p in out.iterdir()] == ["instances.part0.jsonl"]
    with open(out / "instances.part0.jsonl", "a") as file:
        file.write('{"id": 9, "file"')  # a crash cuts a line short
    for more, message in (
        ([], "holds an interrupted evaluation: --resume continues it"),
        (
            ["--resume", "--decoding", "greedy"],
            "is of other settings: decoding was sampling, is greedy",
        ),
        (
            ["--resume", "--seed", "1", "--image-size", "56"],
            "image_size was None, is 56; seed was 0, is 1",
        ),
    ):
        code, _, err = run(monkeypatch, capsys, [*arguments, str(out), *more])
        assert code == 2 and message in err and err.count("\n") == 1
    stop = 9
    assert run(monkeypatch, capsys, [*arguments, str(out), "--resume"])[0] == 130
    assert len(lines(out / "instances.part1.jsonl")) == 1 + 1
    stop, asked[:] = None, []
    code, text, _ = run(monkeypatch, capsys, [*arguments, str(out), "--resume"])
    assert code == 0 and len(asked) == 2 * (6 - 4)
    assert sorted(p.name for p in out.iterdir()) == [
        "instances.jsonl",
        "results.json",
        "results.md",
    ]
    for name in ("instances.jsonl", "results.json", "results.md"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    for more in (["--limit", "2"], []):  # nothing is asked, nothing forgotten
        code, again, _ = run(monkeypatch, capsys, [*arguments, str(out), "--resume", *more])
        assert code == 0 and len(asked) == 4 and ("2 of 6 images" in again) == bool(more)
    assert (
        again == text
        and (out / "results.json").read_text() == (tmp_path / "whole" / "results.json").read_text()
    )
    (out / "instances.jsonl").write_text("no JSON\n")
    code, _, err = run(monkeypatch, capsys, [*arguments, str(out), "--resume"])
    assert code == 2 and "instances.jsonl is damaged" in err


def test_an_interrupted_evaluation_replaces_one_of_other_settings(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    asked, answer, arguments = (
        [],
        CapeLLM.answer,
        command(model_folder, folder, "--limit", 3, "--out", tmp_path / "out"),
    )
    other = [*arguments, "--decoding", "top-3"]
    assert run(monkeypatch, capsys, arguments)[0] == 0

    def interrupted(*more, **inference):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(1)
        return answer(*more, **inference)

    monkeypatch.setattr(CapeLLM, "answer", interrupted)
    assert run(monkeypatch, capsys, other)[0] == 130
    code, _, err = run(monkeypatch, capsys, [*arguments, "--resume"])
    assert (
        code == 2
        and "instances.part0.jsonl is of other settings: decoding was top-3, is greedy" in err
    )
    assert read(tmp_path / "out")["settings"]["decoding"] == "greedy"
    asked.pop()
    code, text, _ = run(monkeypatch, capsys, [*other, "--resume"])
    assert (
        code == 0 and "3 of 6 images, single round, top-3" in text and len(asked) == 2
    )  # the two others are known
    assert read(tmp_path / "out")["settings"]["decoding"] == "top-3" and not list(
        (tmp_path / "out").glob("*part*")
    )


@pytest.mark.parametrize(
    "changed",
    ["adapter.safetensors", "config.json", "vision/model.safetensors", "llm/tokenizer.model"],
)
def test_another_model_is_another_evaluation(
    monkeypatch, capsys, model_folder, folder, tmp_path, changed
):
    model = shutil.copytree(model_folder, tmp_path / "model")
    assert (
        run(monkeypatch, capsys, command(model, folder, "--limit", 1, "--out", tmp_path / "out"))[0]
        == 0
    )
    content = (model / changed).read_bytes()
    if changed.startswith("adapter"):
        content = content[:-1] + bytes([content[-1] ^ 1])
    (model / changed).write_bytes(content.replace(b'"base"', b'"list"') + b"\n" * ("/" in changed))
    code, _, err = run(
        monkeypatch, capsys, command(model, folder, "--resume", "--out", tmp_path / "out")
    )
    assert code == 2 and "weights, words, annotations was" in err


@pytest.mark.parametrize(
    "more, how",
    [
        (["--cumulative"], "cumulative (fixed), greedy"),
        (["--cumulative", "confidence"], "cumulative (confidence)"),
        (["--decoding", "contrastive"], "single round, contrastive"),
        (["--image-size", "56"], "greedy, 56 pixels"),
    ],
)
def test_other_ways_to_answer(monkeypatch, capsys, model_folder, folder, more, how):
    code, out, err = run(monkeypatch, capsys, command(model_folder, folder, "--limit", 2, *more))
    assert code == 0 and how in out and "2 of 6 images" in out, err


@pytest.mark.parametrize("order", ["fixed", "confidence"])
def test_chains_that_begin_anew_are_counted(
    monkeypatch, capsys, model_folder, folder, tmp_path, order
):
    arguments = command(model_folder, folder, "--cumulative", order, "--out")
    assert run(monkeypatch, capsys, [*arguments, str(tmp_path / "whole")])[0] == 0
    tokens = sorted({m["tokens"] for m in lines(tmp_path / "whole" / "instances.jsonl")})
    assert len(tokens) == 2  # of kites and boats
    before, truncate, answer = [], llama.KVCache.truncate, CapeLLM.answer
    monkeypatch.setattr(
        llama.KVCache, "truncate", lambda cache, n: before.append(1) or truncate(cache, n)
    )

    def noted(*more, **inference):
        before.clear()
        found = answer(*more, **inference)
        anew.append(
            len(before) > 2 * (order == "confidence")
        )  # which decodes in single rounds first, and forgets these
        return found

    monkeypatch.setattr(CapeLLM, "answer", noted)
    for limit in (tokens[0] - 1, tokens[0], tokens[1] - 1, tokens[1]):
        anew = []
        monkeypatch.setattr(data, "MAX_TOKENS", limit)
        code, text, _ = run(monkeypatch, capsys, [*arguments, str(tmp_path / f"{limit}")])
        assert (
            code == 0
            and f"in {sum(anew)} images" in text
            and read(tmp_path / f"{limit}")["chained anew"] == sum(anew)
        )
        assert sum(anew) == {tokens[0] - 1: 6, tokens[1]: 0}.get(limit, 3)


def test_average_of_results(monkeypatch, capsys, model_folder, folder, tmp_path):
    for part in ("train", "test"):
        shutil.copy(
            folder / "annotations" / f"mp100_split1_{part}.json",
            folder / "annotations" / f"mp100_split2_{part}.json",
        )
    for split, limit in ((1, 2), (2, 2), (1, 3)):
        arguments = command(
            model_folder,
            folder,
            "--split",
            split,
            "--limit",
            limit,
            "--out",
            tmp_path / f"{split}{limit}",
        )
        assert run(monkeypatch, capsys, arguments)[0] == 0
    mean = ["--out", str(tmp_path / "mean"), "--average"]
    average = lambda *names: run(monkeypatch, capsys, [*mean, *(str(tmp_path / n) for n in names)])
    code, out, _ = average("12", "22")
    assert code == 0 and "split 2" in out and "average of 2" in out and "A quick look" in out
    assert (tmp_path / "mean" / "average.md").read_text() == out
    assert read(tmp_path / "mean", "average.json")["NME"] == read(tmp_path / "12")["NME"]
    code, out, err = average("22", "13")
    assert (
        code == 2
        and out == ""
        and "13 was measured in another way than" in err
        and "limit is 3, elsewhere 2" in err
    )


def test_ways_to_answer_compared_on_the_same_images(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    for name, more in (
        ("base", []),
        ("sure", ["--cumulative", "confidence"]),
        ("names", ["--instruction", "names", "--occlude", 0.3]),
    ):
        code, text, _ = run(
            monkeypatch,
            capsys,
            command(model_folder, folder, *more, "--limit", 5, "--out", tmp_path / name),
        )
        assert code == 0 and f"instruction {'names' if name == 'names' else 'base'}" in text
    into = ["--out", str(tmp_path / "c"), "--compare"]
    compare = lambda *names: run(monkeypatch, capsys, [*into, *(str(tmp_path / n) for n in names)])
    code, text, _ = compare("base", "sure", "names")
    assert code == 0 and "the same 5 images" in text and "A quick look" in text
    assert (tmp_path / "c" / "compare.md").read_text() == text
    numbers, sizes = (
        read(tmp_path / "c", "compare.json"),
        [max(i.bbox[2:]) for i in data.read_split(folder, 1, "test")[0][:5]],
    )
    means = {}
    for name in ("base", "sure", "names"):
        for n, (m, size) in enumerate(zip(lines(tmp_path / name / "instances.jsonl"), sizes)):
            for label, r in {"": m, **m["controls"]}.items():
                hits = [d < t * size for d in r["distances"].values() for t in metrics.THRESHOLDS]
                means.setdefault(f"{name}, {label}" if label else name, {})[n] = np.mean(hits)
    assert numbers.keys() == means.keys() and "names, 30% covered" in means
    for name, each in means.items():
        assert numbers[name]["mPCK"] == pytest.approx(np.mean(list(each.values())))
        if "difference" in numbers[name]:
            assert numbers[name]["difference"] == pytest.approx(
                np.mean(list(each.values())) - numbers["base"]["mPCK"]
            )
    assert all("difference" in numbers[name] for name in ("sure", "names", "names, 30% covered"))
    assert (
        run(
            monkeypatch,
            capsys,
            command(model_folder, folder, "--limit", 4, "--out", tmp_path / "four"),
        )[0]
        == 0
    )
    code, out, err = compare("base", "four")
    assert (
        code == 2
        and out == ""
        and "four was measured in another way than" in err
        and "limit is 4, elsewhere 5" in err
    )


def test_names_and_descriptions_of_two_folders(monkeypatch, capsys, model_folder, folder, tmp_path):
    asked, answer = [], CapeLLM.answer

    def noted(self, pixels, keypoints, **inference):
        asked.append((inference["category"], keypoints, inference["listed"]))
        return answer(self, pixels, keypoints, **inference)

    monkeypatch.setattr(CapeLLM, "answer", noted)
    for name, keypoints in TEXTS.items():
        (tmp_path / f"{name}.txt").write_text(
            "".join(f"{k.upper()}: another text\n" for k in keypoints)
        )
    arguments = command(model_folder, folder, "--limit", 2, "--out", tmp_path / "out")
    assert run(monkeypatch, capsys, arguments)[0] == 0
    (category, detailed, listed), *_ = [*asked]
    asked.clear()
    code, _, err = run(monkeypatch, capsys, [*arguments, "--resume", "--names", str(tmp_path)])
    assert code == 2 and f"names was None, is {tmp_path}" in err and not asked
    code, text, _ = run(
        monkeypatch, capsys, [*arguments[:-1], str(tmp_path / "named"), "--names", str(tmp_path)]
    )
    renamed = lambda keypoints: [data.Keypoint(k.name.upper(), k.description) for k in keypoints]
    assert (
        code == 0
        and asked[0] == (category, renamed(detailed), renamed(listed))
        and renamed(detailed) != detailed
    )
    assert text.splitlines()[0].endswith(f"{folder / 'texts'}, names of {tmp_path}.")
    predictions = lines(tmp_path / "named" / "instances.jsonl")[0]["predictions"]
    assert list(predictions) == [k.name.upper() for k in detailed]
    settings = [read(tmp_path / n)["settings"] for n in ("out", "named")]
    assert [s["names"] for s in settings] == [None, str(tmp_path)]
    code, table, _ = run(
        monkeypatch, capsys, ["--compare", *(str(tmp_path / n) for n in ("out", "named"))]
    )
    assert (
        code == 0 and "the same 2 images" in table
    )  # names may differ in a comparison, not in an average:
    (tmp_path / "named" / "results.json").write_text(
        json.dumps(read(tmp_path / "named") | {"split": 2})
    )
    code, _, err = run(
        monkeypatch, capsys, ["--average", *(str(tmp_path / n) for n in ("out", "named"))]
    )
    assert code == 2 and f"names is {tmp_path}, elsewhere None" in err
    (tmp_path / "boat.txt").write_text("bow: a\nstern: b\n")
    code, _, err = run(monkeypatch, capsys, [*arguments[:-2], "--names", str(tmp_path)])
    assert (
        code == 2
        and f"{tmp_path / 'boat.txt'} describes 2 keypoints, category 501 (boat) has 3" in err
        and err.count("\n") == 1
    )


def test_the_papers_number_is_of_the_same_words(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    asked, published = [], metrics.published
    monkeypatch.setattr(metrics, "published", lambda *how: asked.append(how) or published(*how))
    monkeypatch.setattr(data, "HERE", tmp_path)
    for name in ("descriptions", "descriptions/simple"):
        shutil.copytree(folder / "texts", tmp_path / name)
    shutil.copy(
        evaluation.__file__.replace("eval.py", "descriptions/mp100.json"), tmp_path / "descriptions"
    )
    ways = [
        ([], ("base", "base")),
        (["--instruction", "names"], ("base", "names")),
        (["--descriptions", tmp_path / "descriptions" / "simple"], ("base", "simple")),
        (
            ["--descriptions", tmp_path / "descriptions" / "simple", "--instruction", "list"],
            ("base", None),
        ),
        (["--names", tmp_path / "descriptions" / "simple"], ("base", "simple names")),
        (
            [
                "--descriptions",
                tmp_path / "descriptions" / "simple",
                "--names",
                tmp_path / "descriptions",
            ],
            ("base", "simple descriptions"),
        ),
        (["--names", tmp_path / "descriptions"], ("base", "base")),
        (["--names", folder / "texts"], ("base", None)),
        (
            ["--names", tmp_path / "descriptions" / "simple", "--instruction", "list"],
            ("base", None),
        ),
        (["--descriptions", folder / "texts"], ("base", None)),
    ]
    for more, words in ways:
        arguments = command(
            model_folder, folder, "--limit", 1, "--descriptions", tmp_path / "descriptions", *more
        )
        code, text, _ = run(monkeypatch, capsys, arguments)
        assert code == 0 and asked.pop() == (pairs.QUERY_IMAGES, 1, "greedy", None, None, words)
        asked_by = [w for o, w in zip(more, more[1:]) if o == "--instruction"] or ["base"]
        assert text.splitlines()[0].endswith(
            "greedy"
            + "".join(
                f", {word}"
                for word in (
                    *(f"instruction {w}" for w in asked_by),
                    *(w for o, w in zip(more, more[1:]) if o == "--descriptions"),
                    *(f"names of {w}" for o, w in zip(more, more[1:]) if o == "--names"),
                )
            )
            + "."
        )


def test_sheet_shows_truth_and_answer_where_they_are(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    assert (
        run(
            monkeypatch, capsys, command(model_folder, folder, "--sheet", "--out", tmp_path / "out")
        )[0]
        == 0
    )
    with Image.open(tmp_path / "out" / "sheet.png") as page:
        assert (
            page.mode == "RGB" and page.width == 2 * (metrics.TILE + metrics.GAP) + metrics.GAP
        )  # of six, in three rows
    i = data.read_split(folder, 1, "test")[0][0]
    truths = i.keypoints[i.keypoints[:, 2] > 0, :2]
    side, corner = (
        1.1 * max(i.bbox[2:]),
        np.array(i.bbox[:2]) + np.array(i.bbox[2:]) / 2 - 0.55 * max(i.bbox[2:]),
    )
    relative = np.array([(0.2, 0.9), (0.5, 0.9), (0.9, 0.9)])[
        : len(truths)
    ]  # apart from the truths
    record = {
        "NME": 0.1,
        "PCK@0.20": 0,
        "predictions": dict(zip("abc", (corner + relative * side).tolist())),
    }
    page, missing = metrics.sheet([(i, record)])
    assert not missing
    for points, colour in ((relative, metrics.ANSWER), ((truths - corner) / side, metrics.TRUTH)):
        for x, y in (points * metrics.TILE).astype(int).tolist():
            assert page.getpixel((metrics.GAP + x, 64 + y)) == colour
    i.image.unlink()  # answered before: its numbers count, its tile is empty
    arguments = command(model_folder, folder, "--sheet", "--resume", "--out", tmp_path / "out")
    before = read(tmp_path / "out")
    (tmp_path / "out" / "sheet.png").unlink()
    code, text, err = run(monkeypatch, capsys, arguments)
    assert code == 1 and "6 of 6 images" in text and read(tmp_path / "out") == before
    assert (
        f"eval.py: left empty in sheet.png: {i.image} is missing" in err
        and (tmp_path / "out" / "sheet.png").exists()
    )


def test_two_processes_give_the_same_numbers(monkeypatch, capsys, model_folder, folder, tmp_path):
    arguments = command(model_folder, folder, "--controls", "--limit", 5, "--resume", "--out")
    code, out, _ = run(monkeypatch, capsys, [*arguments, str(tmp_path / "one")])
    assert code == 0 and "A quick look" in out and "5 of 6 images" in out
    (tmp_path / "two").mkdir()  # as if one process had been interrupted after two images
    first = [
        {"settings": read(tmp_path / "one")["settings"]},
        *lines(tmp_path / "one" / "instances.jsonl")[:2],
    ]
    (tmp_path / "two" / "instances.part0.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in first)
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(data.HERE / "eval.py"),
            *arguments,
            str(tmp_path / "two"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == out and "2 answered before, the first of 2 processes" in done.stderr
    assert (tmp_path / "two" / "results.json").read_text() == (
        tmp_path / "one" / "results.json"
    ).read_text()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "instances.jsonl",
        "results.json",
        "results.md",
    ]
    one, two = (lines(tmp_path / n / "instances.jsonl") for n in ("one", "two"))
    for a, b in zip(
        one, two, strict=True
    ):  # probabilities to rounding: one thread does not sum as two do
        assert b.pop("probabilities") == pytest.approx(a.pop("probabilities"), abs=1e-5)
        assert a == b


def test_unreadable_images_are_named_and_the_others_measured(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    instances, _ = data.read_split(folder, 1, "test")
    instances[1].image.write_bytes(b"no image")
    instances[4].image.unlink()
    code, out, err = run(
        monkeypatch, capsys, command(model_folder, folder, "--controls", "--out", tmp_path / "out")
    )
    assert code == 1 and "4 of 6 images" in out
    report, named = (
        (tmp_path / "out" / "results.md").read_text(),
        read(tmp_path / "out")["unreadable"],
    )
    assert report.startswith(out) and all(f"\n- left out: {fault}\n" in report for fault in named)
    assert [
        str(i.image) in fault for i, fault in zip((instances[1], instances[4]), sorted(named))
    ] == [True, True]
    left_out = [line for line in err.splitlines() if line.startswith("eval.py: left out: ")]
    assert (
        len(left_out) == 2
        and str(instances[1].image) in "".join(left_out)
        and str(instances[4].image) in "".join(left_out)
    )
    for i in instances:
        if i.image.exists():
            i.image.write_bytes(b"")
    code, _, err = run(monkeypatch, capsys, command(model_folder, folder))
    assert code == 2 and "none of the 6 images can be read" in err


@pytest.mark.parametrize(
    "change, message",
    [
        (["--data", "nowhere"], "nowhere/annotations/mp100_split1_test.json is missing"),
        (["--model", "nowhere", "--out", "out"], "nowhere is no model folder"),
        (["--split", "3"], "mp100_split3_test.json is missing"),
        (["--descriptions", "nowhere"], "nowhere/boat.txt, nowhere/kite.txt are missing"),
        (["--names", "nowhere"], "nowhere/boat.txt, nowhere/kite.txt are missing"),
        (["--limit", "0"], "--limit 0"),
        (["--limit", "-3"], "--limit -3"),
        (
            ["--image-size", "60"],
            "--image-size 60: the vision encoder reads patches of 14; 56 or 70 fits",
        ),
        (["--image-size", "-14"], "--image-size -14"),
        (["--occlude", "0.3", "1"], "--occlude 0.3 1.0: shares of the box lie between 0 and 1"),
        (
            ["--density", "--decoding", "top-3"],
            "--density covers every answer to its question: leave --decoding",
        ),
        (["--density", "--cumulative"], "--density covers every answer"),
        (["--sheet"], "need --out"),
        (["--resume"], "need --out"),
        (["--pairs"], "--pairs draws 16 instances of a category, category 500 has 3"),
        (["--average", "nowhere"], "nowhere/results.json is missing"),
        (["--compare", "nowhere"], "nowhere/results.json is missing"),
        (
            ["--compare", "nowhere", "--average", "nowhere"],
            "--average and --compare are two tables",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    monkeypatch, capsys, model_folder, folder, tmp_path, change, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capsys, [*command(model_folder, folder), *change])
    assert code == 2 and out == ""
    assert err.startswith("eval.py: ") and err.count("\n") == 1 and message in err
    assert not list(tmp_path.glob("out/*"))  # nothing that --resume would have to continue


def test_the_instruction_is_the_models_unless_another_is_asked_for(
    monkeypatch, capsys, model_folder, folder, tmp_path
):
    own, asked, answer = shutil.copytree(model_folder, tmp_path / "model"), [], CapeLLM.answer
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"instruction": "list"}))

    def noted(self, *more, **inference):
        asked.append((self.instruction, inference["category"]))
        return answer(self, *more, **inference)

    monkeypatch.setattr(CapeLLM, "answer", noted)
    for more, expected in (([], "list"), (["--instruction", "replaced"], "replaced")):
        asked.clear()
        code, text, _ = run(monkeypatch, capsys, command(own, folder, *more))
        assert code == 0 and f"greedy, instruction {expected}, " in text.splitlines()[0]
        assert set(asked) == {(expected, "kite"), (expected, "boat")}
    (own / "config.json").write_text(json.dumps(config | {"instruction": "sing"}))
    code, _, err = run(monkeypatch, capsys, command(own, folder))
    assert (
        code == 2
        and "config.json cannot be read (ValueError: instruction 'sing' is not one of base, " in err
    )
