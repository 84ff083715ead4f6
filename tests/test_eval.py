"""eval.py: the command with a tiny model; what it writes, resumes, compares and refuses."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import data
import eval as evaluation
import evaluations
import llama
from capellm import CapeLLM
from damage import check_message, damage_value
from evaluations import NAMES, TEXTS, T, list_labelled, pck_in_loops, read_json, read_lines
from study import density, metrics, paper
from support import launch, pictures
from support.descriptions import DESCRIPTIONS, Keypoint

FILES = ["instances.jsonl", "results.json", "results.md"]


@pytest.fixture
def folder(tmp_path):
    return evaluations.write_kites_and_boats(tmp_path / "data")


class Done(NamedTuple):
    """What a command has left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Run eval.py with these arguments in this process: Done."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, arguments)])
        code = 0
        try:
            launch.run("eval.py", evaluation.main)
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run


def list_arguments(model, folder):
    return ["--model", model, "--data", folder, "--descriptions", folder / "texts"]


@pytest.fixture
def evaluate(run, model_folder, folder):
    """Evaluate the model on the folder's test part, with further arguments: Done."""

    def evaluate(*more):
        return run(*list_arguments(model_folder, folder), *more)

    return evaluate


@pytest.fixture
def asked(monkeypatch):
    """What `CapeLLM.answer_together` is asked: (model, keypoints, category and listed)."""
    calls, answer = [], CapeLLM.answer_together

    def noted(self, images, *how):
        for image in images:
            of = {"category": image.category, "listed": image.listed}
            calls.append((self, image.keypoints, of))
        return answer(self, images, *how)

    monkeypatch.setattr(CapeLLM, "answer_together", noted)
    return calls


class Interruption:
    """Interrupts the command, as Ctrl-C does, after so many answers."""

    def __init__(self, monkeypatch):
        self.after, self.answers, answer = None, 0, CapeLLM.answer_together

        def counted(*arguments, **how):
            if self.answers == self.after:
                raise KeyboardInterrupt
            self.answers += 1
            return answer(*arguments, **how)

        monkeypatch.setattr(CapeLLM, "answer_together", counted)


def list_files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_command_writes_what_it_measured(evaluate, folder, tmp_path):
    out = tmp_path / "out"
    done = evaluate("--controls", "--out", out)
    assert done.code == 0 and "6 of 6 images" in done.out and "quick look" not in done.out
    assert "- other image" in done.out
    assert list_files(out) == FILES and (out / "results.md").read_text() == done.out
    results, records = read_json(out / "results.json"), read_lines(out / "instances.jsonl")
    assert (results["instances"], results["part"], results["limit"]) == (6, "test", None)
    assert results["unreadable"] == []
    instances, _ = data.read_split(folder, 1, "test")
    assert [r["id"] for r in records] == [i.id for i in instances]
    # Recomputed from the predictions, which are in the image's pixels.
    recomputed = []
    for r, i in zip(records, instances, strict=True):
        names = list_labelled(i)
        assert list(r["predictions"]) == list(r["probabilities"]) == names
        predictions = [r["predictions"].get(k, (0, 0)) for k in TEXTS[i.name]]
        truths, visible = i.keypoints[:, :2].astype(float), i.keypoints[:, 2]
        recomputed.append(pck_in_loops(predictions, truths, visible, max(i.bbox[2:])))
        assert [r[name] for name in NAMES] == pytest.approx(recomputed[-1])
    assert [results[name] for name in NAMES] == pytest.approx(np.mean(recomputed, 0))
    assert results["mPCK"] == pytest.approx(np.mean(recomputed))


# Densities that are known: of each keypoint a Gaussian around a place that its name tells.
SIGMA = 0.03


def place_of(name):
    return 0.3 + 0.02 * len(name), 0.4


@pytest.fixture
def known(monkeypatch):
    """(keypoint's name, category) of each density that is asked for."""
    asked = []

    def compute(model, pixels, keypoint, category, listed):
        assert category is None
        (of,) = [name for name, names in TEXTS.items() if [k.name for k in listed] == names]
        asked.append((keypoint.name, of))
        p = density.make_gaussian(place_of(keypoint.name), SIGMA)
        return density.Density(p, 0.25, 1000 * len(keypoint.name))

    monkeypatch.setattr(density, "compute_density", compute)
    return asked


def test_densities_are_compared_with_the_truth(evaluate, known, folder, tmp_path):
    done = evaluate("--density", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    records = read_lines(tmp_path / "out" / "instances.jsonl")
    nll, hits, total = [], [], 0
    for r, i in zip(records, data.read_split(folder, 1, "test")[0], strict=True):
        names = list_labelled(i)
        assert list(r["density"]) == list(r["points"]["mode"]["distances"]) == names
        (x, y, w, h), side = i.bbox, max(i.bbox[2:])
        corner = np.array([x + w / 2 - side / 2, y + h / 2 - side / 2])
        truths = i.keypoints[i.keypoints[:, 2] > 0, :2].astype(float)
        answers = [corner + side * np.array(place_of(k)) for k in names]
        hits.append(pck_in_loops(answers, truths, [1] * len(names), side))
        for k, answer, truth in zip(names, answers, truths, strict=True):
            # Of a Gaussian they are the same.
            for point in ("mode", "median", "mean", "PCK-optimal"):
                found = np.array(r["points"][point]["distances"][k])
                assert found.shape == ((5,) if point == "PCK-optimal" else ())
                assert found == pytest.approx(math.dist(answer, truth), abs=0.002 * side)
            relative, numbers = (truth - corner) / side, r["density"][k]
            assert numbers["truth"] == pytest.approx(relative.tolist(), abs=1e-6)
            greedy = (np.array(r["predictions"][k]) - corner) / side
            assert numbers["greedy"] == pytest.approx(greedy.tolist(), abs=1e-4)
            inside = bool(((0 <= relative) & (relative < 0.9995)).all())
            assert ("nll" in numbers) == inside
            total += 1
            if inside:
                share = math.dist(relative, place_of(k)) ** 2 / (2 * SIGMA**2)
                nll.append(math.log(2 * math.pi * SIGMA**2) + share)
                assert numbers["nll"] == pytest.approx(nll[-1], rel=0.03, abs=0.05)
                assert numbers["level"] == pytest.approx(1 - math.exp(-share), abs=0.01)
    found = read_json(tmp_path / "out" / "results.json")["density"]
    mode = [found["points"]["mode"][name] for name in NAMES]
    assert mode == pytest.approx(np.mean(hits, 0), abs=0.02)
    assert found["nll"] == pytest.approx(np.mean(nll), rel=0.03)
    expected = math.log(2 * math.pi * math.e * SIGMA**2)
    assert found["entropy"] == pytest.approx(expected, abs=1e-3)
    assert found["truths"] == len(nll) and found["truths outside of the crop"] == total - len(nll)
    # Also of truths outside.
    assert len(known) == total
    cost = np.mean([1000 * len(name) for name, _ in known])
    assert found["prefixes"] == pytest.approx(cost)
    assert f"Read for a density: {cost:,.1f} prefixes" in done.out
    assert "PCK-optimal minus greedy" in done.out and "density minus this" in done.out
    assert "25.0% of the mass" in done.out


def test_densities_are_not_asked_again(evaluate, known, tmp_path):
    arguments = ["--out", tmp_path / "out", "--limit", 2]
    first = evaluate(*arguments, "--density")
    total = len(known)
    again = evaluate(*arguments, "--density", "--resume")
    assert again.code == 0 and again.out == first.out and len(known) == total
    assert (tmp_path / "out" / "results.md").read_text() == first.out
    done = evaluate(*arguments, "--resume")
    assert done.code == 2 and "density was True, is False" in done.err


def test_pairs_count_an_image_once_for_each_episode(run, model_folder, tmp_path):
    folder = evaluations.write_dataset(tmp_path / "pairs", [], ["boat"] * 17)
    arguments = [*list_arguments(model_folder, folder), "--out", tmp_path / "out"]
    single = run(*arguments)
    assert single.code == 0 and "17 of 17 images" in single.out and "Counted as" not in single.out
    # They were not asked before.
    done = run(*arguments, "--pairs", "--resume", "--controls")
    different = "results.json is of other settings: controls was False, is True"
    assert done.code == 2 and different in done.err
    done = run(*arguments, "--pairs", "--resume")
    assert done.code == 0 and "17 of 17 images" in done.out
    assert "Counted as 3000 support-query pairs; 0 more" in done.out
    results = read_json(tmp_path / "out" / "results.json")
    records = read_lines(tmp_path / "out" / "instances.jsonl")
    assert (results["protocol"], results["instances"]) == ("support-query pairs", 17)
    assert (results["pairs"], results["pairs left out"]) == (200 * 15, 0)
    weights = [r["pairs"]["weight"] for r in records]
    nme = np.average([r["pairs"]["NME"] for r in records], weights=weights)
    assert sum(weights) == 3000 and nme == pytest.approx(results["NME"])
    once = metrics.average_records(records)["NME"]
    assert once != results["NME"] == pytest.approx(once, rel=0.2)


def test_an_interrupted_evaluation_continues(evaluate, monkeypatch, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["--occlude", 0.4, "--decoding", "sampling", "--out"]
    assert evaluate(*arguments, whole).code == 0
    interruption = Interruption(monkeypatch)
    # Two answers an image: within the fourth.
    interruption.after = 7
    assert evaluate(*arguments, out).code == 130
    assert list_files(out) == ["instances.part0.jsonl"]
    # A crash cuts a line short.
    with open(out / "instances.part0.jsonl", "a") as file:
        file.write('{"id": 9, "file"')
    interruption.after = 9
    assert evaluate(*arguments, out, "--resume").code == 130
    assert len(read_lines(out / "instances.part1.jsonl")) == 1 + 1
    interruption.after, interruption.answers = None, 0
    done = evaluate(*arguments, out, "--resume")
    assert done.code == 0 and interruption.answers == 2 * (6 - 4)
    assert list_files(out) == FILES
    for name in FILES:
        assert (out / name).read_text() == (whole / name).read_text()
    # Nothing is asked, nothing forgotten.
    fewer = evaluate(*arguments, out, "--resume", "--limit", 2)
    assert fewer.code == 0 and "2 of 6 images" in fewer.out
    assert evaluate(*arguments, out, "--resume").out == done.out and interruption.answers == 4
    assert (out / "results.json").read_text() == (whole / "results.json").read_text()


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "holds an interrupted evaluation: --resume continues it"),
        (
            ["--resume", "--decoding", "greedy"],
            "is of other settings: decoding was sampling, is greedy",
        ),
        (
            ["--resume", "--seed", "1", "--image-size", "56"],
            "image_size was None, is 56; seed was 0, is 1",
        ),
    ],
)
def test_an_interrupted_evaluation_is_continued_as_it_was(
    evaluate, monkeypatch, tmp_path, more, message
):
    arguments = ["--decoding", "sampling", "--out", tmp_path / "out"]
    Interruption(monkeypatch).after = 2
    assert evaluate(*arguments).code == 130
    done = evaluate(*arguments, *more)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_an_interrupted_evaluation_replaces_one_of_other_settings(evaluate, monkeypatch, tmp_path):
    out = tmp_path / "out"
    arguments = ["--limit", 3, "--out", out]
    other = [*arguments, "--decoding", "top-3"]
    assert evaluate(*arguments).code == 0
    interruption = Interruption(monkeypatch)
    interruption.after = 2
    assert evaluate(*other).code == 130
    done = evaluate(*arguments, "--resume")
    message = "instances.part0.jsonl is of other settings: decoding was top-3, is greedy"
    assert done.code == 2 and message in done.err
    assert read_json(out / "results.json")["settings"]["decoding"] == "greedy"
    # The two others are known.
    interruption.after = 3
    done = evaluate(*other, "--resume")
    assert done.code == 0 and "3 of 6 images, single round, top-3" in done.out
    assert interruption.answers == 3 and list_files(out) == FILES
    assert read_json(out / "results.json")["settings"]["decoding"] == "top-3"


def test_a_damaged_evaluation_is_named(evaluate, tmp_path):
    arguments = ["--limit", 1, "--out", tmp_path / "out"]
    assert evaluate(*arguments).code == 0
    (tmp_path / "out" / "instances.jsonl").write_text("no JSON\n")
    done = evaluate(*arguments, "--resume")
    assert done.code == 2 and "instances.jsonl, line 1: this is no JSON" in done.err


@pytest.mark.parametrize("name", ["results.json", "instances.jsonl", "instances.part0.jsonl"])
@pytest.mark.parametrize("more", [["--controls", "--density"], ["--cumulative", "--occlude", 0.4]])
def test_damage_is_named_and_nothing_overwritten(evaluate, tmp_path, monkeypatch, name, more):
    """Whatever is damaged in what an evaluation wrote: a line, or the same answers as before."""
    monkeypatch.setattr(metrics, "RESAMPLES", 3)
    monkeypatch.setattr(density, "DRAWS", 3)
    out, rng = tmp_path / "out", random.Random(f"{name} {more}")
    arguments = [*more, "--limit", 3, "--sheet", "--out", out]
    assert evaluate(*arguments).code == 0
    if "part" in name:
        lines = (out / "instances.jsonl").read_bytes().splitlines()
        settings = {"settings": read_json(out / "results.json")["settings"]}
        for path in out.iterdir():
            path.unlink()
        lines.insert(0, json.dumps(settings).encode())
    else:
        lines = [(out / name).read_bytes()]
        if name == "instances.jsonl":
            lines = lines[0].splitlines()
    whole = {path: path.read_bytes() for path in out.iterdir()}
    refused = 0
    for _ in range(40):
        at = rng.randrange(len(lines))
        damaged = damage_value(rng, json.loads(lines[at]))
        for path, content in whole.items():
            path.write_bytes(content)
        (out / name).write_bytes(b"\n".join([*lines[:at], damaged, *lines[at + 1 :], b""]))
        before = {path: path.read_bytes() for path in out.iterdir()}
        done = evaluate(*arguments, "--resume")
        if done.code == 2:
            refused += 1
            # The last line: before it stands a bar of progress.
            check_message(done.err.strip().splitlines()[-1], out)
            assert {path: path.read_bytes() for path in out.iterdir()} == before
        else:
            assert done.code == 0 and "3 of 6 images" in done.out
            # As long as answers are measured anew: an old part is gone.
            for path in [path for path in out.iterdir() if "part" in path.name]:
                path.unlink()
    assert refused > 5


@pytest.mark.parametrize(
    "changed",
    ["adapter.safetensors", "config.json", "vision/model.safetensors", "llm/tokenizer.model"],
)
def test_another_model_is_another_evaluation(run, model_folder, folder, tmp_path, changed):
    model = shutil.copytree(model_folder, tmp_path / "model")
    arguments = [*list_arguments(model, folder), "--out", tmp_path / "out"]
    assert run(*arguments, "--limit", 1).code == 0
    content = (model / changed).read_bytes()
    if changed.startswith("adapter"):
        content = content[:-1] + bytes([content[-1] ^ 1])
    if "/" in changed:
        content += b"\n"
    (model / changed).write_bytes(content.replace(b'"base"', b'"list"'))
    done = run(*arguments, "--resume")
    assert done.code == 2 and "weights, words, annotations was" in done.err


@pytest.mark.parametrize(
    "more, how",
    [
        (["--cumulative"], "cumulative (fixed), greedy"),
        (["--cumulative", "confidence"], "cumulative (confidence)"),
        (["--decoding", "contrastive"], "single round, contrastive"),
        (["--image-size", "56"], "greedy, 56 pixels"),
    ],
)
def test_other_ways_to_answer(evaluate, more, how):
    done = evaluate("--limit", 2, *more)
    assert done.code == 0 and how in done.out and "2 of 6 images" in done.out, done.err


@pytest.mark.parametrize("order", ["fixed", "confidence"])
def test_chains_that_begin_anew_are_counted(evaluate, monkeypatch, tmp_path, order):
    arguments = ["--cumulative", order, "--images-per-pass", 1, "--out"]
    assert evaluate(*arguments, tmp_path / "whole").code == 0
    records = read_lines(tmp_path / "whole" / "instances.jsonl")
    # Of kites and of boats.
    short, long = sorted({r["tokens"] for r in records})
    answer, truncate = CapeLLM.answer_together, llama.KVCache.truncate
    cuts, anew = [], []

    def noted_truncate(cache, n):
        cuts.append(n)
        truncate(cache, n)

    def noted_answer(*arguments, **how):
        cuts.clear()
        found = answer(*arguments, **how)
        # Behind the image, behind single rounds, which confidence needs, and before each chain.
        anew.append(len(cuts) > (3 if order == "confidence" else 2))
        return found

    monkeypatch.setattr(llama.KVCache, "truncate", noted_truncate)
    monkeypatch.setattr(CapeLLM, "answer_together", noted_answer)
    for limit, images in ((short - 1, 6), (short, 3), (long - 1, 3), (long, 0)):
        anew.clear()
        monkeypatch.setattr(data, "MAX_TOKENS", limit)
        done = evaluate(*arguments, tmp_path / f"{limit}")
        results = read_json(tmp_path / f"{limit}" / "results.json")
        assert done.code == 0 and f"in {images} images" in done.out
        assert results["chained anew"] == sum(anew) == images


def test_average_of_results(run, evaluate, folder, tmp_path):
    for part in ("train", "test"):
        first = folder / "annotations" / f"mp100_split1_{part}.json"
        shutil.copy(first, first.with_name(f"mp100_split2_{part}.json"))
    for split, limit in ((1, 2), (2, 2), (1, 3)):
        out = tmp_path / f"{split}{limit}"
        assert evaluate("--split", split, "--limit", limit, "--out", out).code == 0
    out = tmp_path / "mean"
    done = run("--out", out, "--average", tmp_path / "12", tmp_path / "22")
    assert done.code == 0 and "split 2" in done.out and "average of 2" in done.out
    assert "A quick look" in done.out and (out / "average.md").read_text() == done.out
    split = read_json(tmp_path / "12" / "results.json")
    assert read_json(out / "average.json")["NME"] == split["NME"]
    done = run("--out", out, "--average", tmp_path / "22", tmp_path / "13")
    assert done.code == 2 and done.out == ""
    assert "13 was measured in another way than" in done.err
    assert "limit is 3, elsewhere 2" in done.err


def test_ways_to_answer_compared_on_the_same_images(run, evaluate, folder, tmp_path):
    ways = {
        "base": [],
        "sure": ["--cumulative", "confidence"],
        "names": ["--instruction", "names", "--occlude", 0.3],
    }
    for name, more in ways.items():
        done = evaluate(*more, "--limit", 5, "--out", tmp_path / name)
        instruction = "names" if name == "names" else "base"
        assert done.code == 0 and f"instruction {instruction}" in done.out
    done = run("--out", tmp_path / "c", "--compare", *(tmp_path / name for name in ways))
    assert done.code == 0 and "the same 5 images" in done.out and "A quick look" in done.out
    assert (tmp_path / "c" / "compare.md").read_text() == done.out
    sizes = [max(i.bbox[2:]) for i in data.read_split(folder, 1, "test")[0][:5]]
    each = {}
    for name in ways:
        records = read_lines(tmp_path / name / "instances.jsonl")
        for r, size in zip(records, sizes, strict=True):
            for label, scores in {"": r, **r["controls"]}.items():
                hits = [d < t * size for d in scores["distances"].values() for t in T]
                each.setdefault(f"{name}, {label}" if label else name, []).append(np.mean(hits))
    numbers = read_json(tmp_path / "c" / "compare.json")
    assert numbers.keys() == each.keys() and "names, 30% covered" in each
    for name, mpcks in each.items():
        assert numbers[name]["mPCK"] == pytest.approx(np.mean(mpcks))
        if "difference" in numbers[name]:
            difference = np.mean(mpcks) - numbers["base"]["mPCK"]
            assert numbers[name]["difference"] == pytest.approx(difference)
    for name in ("sure", "names", "names, 30% covered"):
        assert "difference" in numbers[name]
    assert evaluate("--limit", 4, "--out", tmp_path / "four").code == 0
    done = run("--compare", tmp_path / "base", tmp_path / "four")
    assert done.code == 2 and done.out == ""
    assert "four was measured in another way than" in done.err
    assert "limit is 4, elsewhere 5" in done.err


def rename(keypoints):
    return [Keypoint(k.name.upper(), k.description) for k in keypoints]


@pytest.fixture
def names(tmp_path):
    """A folder of description files with other names and other texts."""
    (tmp_path / "names").mkdir()
    for name, keypoints in TEXTS.items():
        lines = [f"{k.upper()}: another text\n" for k in keypoints]
        (tmp_path / "names" / f"{name}.txt").write_text("".join(lines))
    return tmp_path / "names"


def test_names_and_descriptions_of_two_folders(run, evaluate, asked, folder, names, tmp_path):
    out, named = tmp_path / "out", tmp_path / "named"
    assert evaluate("--limit", 2, "--out", out).code == 0
    _, detailed, how = asked[0]
    asked.clear()
    done = evaluate("--limit", 2, "--out", out, "--resume", "--names", names)
    assert done.code == 2 and f"names was None, is {names}" in done.err and not asked
    done = evaluate("--limit", 2, "--out", named, "--names", names)
    assert done.code == 0 and asked[0][1] == rename(detailed) != detailed
    assert asked[0][2]["listed"] == rename(how["listed"])
    assert asked[0][2]["category"] == how["category"]
    assert done.out.splitlines()[0].endswith(f"{folder / 'texts'}, names of {names}.")
    predictions = read_lines(named / "instances.jsonl")[0]["predictions"]
    assert list(predictions) == [k.name.upper() for k in detailed]
    settings = [read_json(path / "results.json")["settings"] for path in (out, named)]
    assert [s["names"] for s in settings] == [None, str(names)]
    # Names may differ in a comparison, but not in an average.
    done = run("--compare", out, named)
    assert done.code == 0 and "the same 2 images" in done.out
    results = read_json(named / "results.json") | {"split": 2}
    (named / "results.json").write_text(json.dumps(results))
    done = run("--average", out, named)
    assert done.code == 2 and f"names is {names}, elsewhere None" in done.err


def test_names_that_do_not_fit_are_refused(evaluate, names):
    (names / "boat.txt").write_text("bow: a\nstern: b\n")
    done = evaluate("--names", names)
    message = f"{names / 'boat.txt'} describes 2 keypoints, category 501 (boat) has 3"
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    "more, words, how",
    [
        ([], "instruction base", {"texts": "detailed"}),
        (["--instruction", "names"], "instruction names", {"asked": "names"}),
        (["--descriptions", "SIMPLE"], "instruction base, SIMPLE", {"texts": "simple"}),
        (["--names", "SIMPLE"], "instruction base, names of SIMPLE", {"texts": "simple names"}),
        (
            ["--descriptions", "SIMPLE", "--names", "HOME", "--image-size", "56"],
            "56 pixels, instruction base, SIMPLE, names of HOME",
            {"texts": "simple descriptions", "image_size": 56},
        ),
        (["--names", "TEXTS"], "instruction base, names of TEXTS", {"texts": None}),
    ],
)
def test_the_papers_number_is_of_the_same_way(
    run, model_folder, folder, tmp_path, monkeypatch, more, words, how
):
    home = tmp_path / "descriptions"
    folders = {"HOME": home, "SIMPLE": home / "simple", "TEXTS": folder / "texts"}
    for path in (home, home / "simple"):
        shutil.copytree(folder / "texts", path)
    shutil.copy(DESCRIPTIONS / "mp100.json", home)
    monkeypatch.setattr("support.descriptions.DESCRIPTIONS", home)
    asked, find_published = [], paper.find_published
    monkeypatch.setattr(paper, "find_published", lambda **how: asked.append(how) or {})
    monkeypatch.setattr(paper, "is_of_paper", lambda *_: True)
    arguments = ["--model", model_folder, "--data", folder, "--descriptions", home, "--limit", 1]
    done = run(*arguments, *[folders.get(word, word) for word in more])
    assert done.code == 0, done.err
    default = {"decoding": "greedy", "cumulative": None, "image_size": 224, "texts": "detailed"}
    default |= {"protocol": "only query images", "split": 1, "trained": "base", "asked": "base"}
    default |= {"vision": "dinov2", "output": "text"}
    assert asked == [default | how] and find_published(**default)["PCK@0.20"] == 0.9698
    for name, path in folders.items():
        words = words.replace(name, str(path))
    assert done.out.splitlines()[0].endswith(f"{words}.")


@pytest.mark.parametrize(
    "trained, more, score",
    [
        # An older folder, or nano
        (None, [], "97.0"),
        ({}, [], "97.0"),
        ({"rounds": "dynamic", "k": None}, [], "96.0"),
        ({"rounds": "dynamic", "k": None}, ["--cumulative"], "97.3"),
        ({"k": 2}, [], "95.3"),
        ({"tune": "frozen"}, [], "95.1"),
        ({"tune": "frozen", "k": 2}, [], None),
        ({"tune": "everything"}, [], None),
        ({"first": "steps-qa"}, [], "96.2"),
        ({}, ["--instruction", "replaced"], "95.3"),
        # Table 13, whoever says what the object is
        ({"instruction": "steps"}, [], "96.5"),
        ({"instruction": "steps"}, ["--true-category"], "96.5"),
        ({"instruction": "diverse-outline"}, [], "95.9"),
        ({"split": 2}, [], None),
    ],
)
def test_the_papers_row_is_of_the_same_training(
    run, model_folder, folder, tmp_path, monkeypatch, trained, more, score
):
    """As config.json remembers it. PCK@0.20; kites stand for the paper's categories."""
    model = shutil.copytree(model_folder, tmp_path / "model")
    config = read_json(model / "config.json")
    if trained is not None:
        options = {"split": 1, "rounds": "fixed", "k": 4, "tune": "lora", "first": None}
        texts = {"instruction": "base", "descriptions": "descriptions"}
        config["trained"] = options | texts | trained
        config["instruction"] = config["trained"]["instruction"]
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(paper, "is_of_paper", lambda *_: True)
    monkeypatch.setattr("support.descriptions.DESCRIPTIONS", folder / "texts")
    monkeypatch.setattr(paper, "ROOT", link_texts(tmp_path / "project", folder / "texts"))
    shutil.copy(DESCRIPTIONS / "mp100.json", folder / "texts")
    done = run(*list_arguments(model, folder), "--limit", 1, *more)
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("| - paper, on MP-100")]
    if score is None:
        assert rows == []
    else:
        (row,) = rows
        assert row.split("|")[6].strip() == score


def link_texts(project, texts):
    """A folder of the project whose descriptions/ are these texts."""
    project.mkdir()
    (project / "descriptions").symlink_to(texts)
    return project


def test_sheet(evaluate, folder, tmp_path):
    out = tmp_path / "out"
    assert evaluate("--sheet", "--out", out).code == 0
    with Image.open(out / "sheet.png") as page:
        # Of six images, in three rows.
        assert page.mode == "RGB" and page.width == 2 * pictures.TILE + 3 * pictures.GAP
    results = read_json(out / "results.json")
    (out / "sheet.png").unlink()
    # Answered before: its numbers count, its tile is empty.
    image = data.read_split(folder, 1, "test")[0][0].image
    image.unlink()
    done = evaluate("--sheet", "--resume", "--out", out)
    assert done.code == 1 and "6 of 6 images" in done.out
    assert read_json(out / "results.json") == results
    assert f"eval.py: left empty in sheet.png: {image} is missing" in done.err
    assert (out / "sheet.png").exists()


def test_two_processes_give_the_same_numbers(evaluate, model_folder, folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["--controls", "--limit", 5, "--resume", "--out"]
    done = evaluate(*more, one)
    assert done.code == 0 and "A quick look" in done.out and "5 of 6 images" in done.out
    # As if one process had been interrupted after two images.
    settings = {"settings": read_json(one / "results.json")["settings"]}
    lines = [settings, *read_lines(one / "instances.jsonl")[:2]]
    two.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (two / "instances.part0.jsonl").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", Path(evaluation.__file__)]
    command += [*list_arguments(model_folder, folder), *more, two]
    both = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout == done.out
    assert "2 answered before, the first of 2 processes" in both.stderr
    assert (two / "results.json").read_text() == (one / "results.json").read_text()
    assert list_files(two) == FILES
    records = (read_lines(out / "instances.jsonl") for out in (one, two))
    for a, b in zip(*records, strict=True):
        # To rounding: one thread does not sum as two do.
        assert b.pop("probabilities") == pytest.approx(a.pop("probabilities"), abs=1e-5)
        assert a == b


def test_unreadable_images_are_named_and_the_others_measured(evaluate, folder, tmp_path):
    instances, _ = data.read_split(folder, 1, "test")
    damaged, missing = instances[1].image, instances[4].image
    damaged.write_bytes(b"no image")
    missing.unlink()
    done = evaluate("--controls", "--out", tmp_path / "out")
    assert done.code == 1 and "4 of 6 images" in done.out
    text = (tmp_path / "out" / "results.md").read_text()
    faults = read_json(tmp_path / "out" / "results.json")["unreadable"]
    assert len(faults) == 2 and str(damaged) in faults[0] and str(missing) in faults[1]
    assert text.startswith(done.out)
    for fault in faults:
        assert f"\n- left out: {fault}\n" in text
        assert f"eval.py: left out: {fault}\n" in done.err
    for i in instances:
        if i.image.exists():
            i.image.write_bytes(b"")
    done = evaluate()
    assert done.code == 2 and "none of the 6 images can be read" in done.err


@pytest.mark.parametrize("more", [[], ["--cumulative"], ["--controls", "--decoding", "top-3"]])
def test_images_of_one_pass_have_the_results_of_images_alone(evaluate, folder, tmp_path, more):
    """Also if one of them is broken, and if an evaluation goes on with other passes."""
    data.read_split(folder, 1, "test")[0][2].image.write_bytes(b"no image")
    for n in (1, 4):
        done = evaluate(*more, "--images-per-pass", n, "--out", tmp_path / str(n))
        assert done.code == 1 and "5 of 6 images" in done.out and "is no image" in done.err
    alone, together = (read_lines(tmp_path / name / "instances.jsonl") for name in ("1", "4"))
    for a, b in zip(alone, together, strict=True):
        # To rounding.
        assert b.pop("probabilities") == pytest.approx(a.pop("probabilities"), rel=1e-3, abs=1e-5)
        assert a == b
    again = evaluate(*more, "--images-per-pass", 3, "--out", tmp_path / "4", "--resume")
    assert again.out == done.out


def test_an_interrupted_pass_is_asked_again_as_a_whole(evaluate, monkeypatch, tmp_path):
    arguments = ["--cumulative", "--images-per-pass", 4, "--out", tmp_path / "out"]
    interruption = Interruption(monkeypatch)
    interruption.after = 1
    assert evaluate(*arguments).code == 130
    assert len(read_lines(tmp_path / "out" / "instances.part0.jsonl")) == 1 + 4
    interruption.after = None
    done = evaluate(*arguments, "--resume")
    assert done.code == 0 and "6 of 6 images" in done.out and interruption.answers == 2


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
        (["--image-size", "60"], "--image-size 60: the vision encoder reads multiples of 14; 56"),
        (["--image-size", "-14"], "--image-size -14"),
        (["--image-size", "14000000"], "--image-size 14000000: at most 4096 pixels"),
        (["--occlude", "0.3", "1"], "--occlude 0.3 1.0: shares of the box lie between 0 and 1"),
        (["--density", "--decoding", "top-3"], "--density covers every answer to its question"),
        (["--density", "--cumulative"], "--density covers every answer"),
        (["--sheet"], "need --out"),
        (["--resume"], "need --out"),
        (["--pairs"], "--pairs draws 16 instances of a category, category 500 has 3"),
        (["--average", "nowhere"], "nowhere/results.json is missing"),
        (["--compare", "nowhere"], "nowhere/results.json is missing"),
        (["--compare", "a", "--average", "b"], "--average and --compare are two tables"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(evaluate, monkeypatch, tmp_path, change, message):
    monkeypatch.chdir(tmp_path)
    done = evaluate(*change)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("eval.py: ") and done.err.count("\n") == 1 and message in done.err
    # Nothing that --resume would have to continue.
    assert not list(tmp_path.glob("out/*"))


def test_a_model_and_data_are_needed(run):
    for arguments in ([], ["--model", "nano"], ["--data", "data"]):
        done = run(*arguments)
        assert done.code == 2 and "--model and --data are needed" in done.err


def test_help_has_its_options_in_groups(run):
    done = run("--help")
    assert done.code == 0
    for group in ("what is measured", "how it is asked", "where results go"):
        assert f"\n{group}:\n" in done.out
    assert "(default: None)" not in done.out


@pytest.mark.parametrize(
    "more, expected",
    [
        ([], "list"),
        (["--instruction", "replaced"], "replaced"),
        (["--instruction", "steps", "--true-category"], "steps"),
    ],
)
def test_the_instruction_is_the_models_unless_another_is_asked_for(
    run, asked, model_folder, folder, tmp_path, more, expected
):
    own = shutil.copytree(model_folder, tmp_path / "model")
    config = read_json(own / "config.json") | {"instruction": "list"}
    (own / "config.json").write_text(json.dumps(config))
    done = run(*list_arguments(own, folder), *more)
    assert done.code == 0 and f"greedy, instruction {expected}, " in done.out.splitlines()[0]
    # Nobody tells the model what the object is, unless that is asked for.
    told = {"kite", "boat"} if "--true-category" in more else {None}
    assert {how["category"] for _, _, how in asked} == told
    assert {model.config.instruction for model, _, _ in asked} == {expected}


def test_an_unknown_instruction_of_a_model_is_refused(run, model_folder, folder, tmp_path):
    own = shutil.copytree(model_folder, tmp_path / "model")
    config = read_json(own / "config.json") | {"instruction": "sing"}
    (own / "config.json").write_text(json.dumps(config))
    done = run(*list_arguments(own, folder))
    message = 'config.json cannot be read (instruction is "sing", not "base" or '
    assert done.code == 2 and message in done.err


def test_ids_of_categories_may_be_numbers_and_text(run, model_folder, folder, tmp_path):
    """The same answers as with numbers alone."""
    lines = []
    for changed in (False, True):
        for path in (folder / "annotations").glob("*.json"):
            content = json.loads(path.read_text())
            first = content["categories"][0]["id"]
            for entry in content["annotations"] if changed else []:
                if entry["category_id"] == first:
                    entry["category_id"] = f"x{first}"
            if changed:
                content["categories"][0]["id"] = f"x{first}"
            path.write_text(json.dumps(content))
        done = run(*list_arguments(model_folder, folder), "--out", tmp_path / f"{changed}")
        assert done.code == 0, done.err
        records = (tmp_path / f"{changed}" / "instances.jsonl").read_text().splitlines()[1:]
        lines.append({r["id"]: r["predictions"] for r in map(json.loads, records)})
    assert lines[0] == lines[1] and lines[0]
