"""eval.py: PCK against loops in plain Python, its controls against direct computations, the command against a tiny model."""
import itertools
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
import eval as evaluation

NAMES = ["PCK@0.05", "PCK@0.10", "PCK@0.15", "PCK@0.20", "PCK@0.25"]
TEXTS = {"kite": ["top", "left corner", "right corner", "tail"], "boat": ["bow", "stern", "mast"]}


def pck_in_loops(predictions, truths, visible, size, thresholds):
    fractions = []
    for t in thresholds:
        hits = [math.dist(p, q) < t * size for p, q, v in zip(predictions, truths, visible) if v > 0]
        fractions.append(sum(hits) / len(hits))
    return fractions


points = st.integers(-50, 250).map(float)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(points, points, points, points, st.sampled_from([0, 1, 2])), min_size=1, max_size=20), st.integers(1, 300))
def test_pck_equals_plain_loops(rows, size):
    rows = [(*rows[0][:4], 2), *rows[1:]]           # one visible, at least
    predictions, truths, visible = [r[:2] for r in rows], [r[2:4] for r in rows], [r[4] for r in rows]
    found = evaluation.pck(predictions, truths, visible, size, evaluation.THRESHOLDS)
    assert found.tolist() == pytest.approx(pck_in_loops(predictions, truths, visible, size, evaluation.THRESHOLDS), abs=1e-12)
    assert (np.diff(found) >= 0).all()


def test_pck_moves_and_scales_with_the_image():
    rng = np.random.default_rng(0)
    truths, visible = rng.uniform(0, 200, (300, 2)), rng.integers(0, 3, 300)
    predictions = truths + rng.normal(0, 20, truths.shape)
    found = evaluation.pck(predictions, truths, visible, 200, evaluation.THRESHOLDS)
    assert 0 < found[0] < found[-1] < 1
    for scale, shift in ((1, (64.0, -32.0)), (4, (0.0, 0.0)), (0.5, (8.0, 1024.0))):
        moved = evaluation.pck(predictions * scale + shift, truths * scale + shift, visible, 200 * scale, evaluation.THRESHOLDS)
        assert moved.tolist() == found.tolist()


def test_exactly_at_the_threshold_does_not_count():
    truths = np.array([[10.0, 20.0]])
    for step in ((5, 0), (0, -5), (3, 4)):
        at = truths + step
        assert evaluation.pck(at, truths, [1], 100, (0.05,)).tolist() == [0]
        assert evaluation.pck(truths + np.array(step) * 0.999, truths, [1], 100, (0.05,)).tolist() == [1]
    with pytest.raises(ValueError, match="at least one visible"):
        evaluation.pck(truths, truths, [0], 100, (0.05,))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.text(max_size=5))
def test_derange_has_no_fixed_point(n, seed):
    to = evaluation.derange(range(n), seed)
    assert sorted(to) == sorted(to.values()) == list(range(n))
    assert all(a != b for a, b in to.items())
    assert to == evaluation.derange(range(n), seed)


@pytest.fixture
def folder(tmp_path):
    """Six test images of kites and boats, eight training images of kites; of each one keypoint is not labelled."""
    folder = tmp_path / "data"
    rng, number = np.random.default_rng(5), itertools.count(1)
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "texts").mkdir()
    for name, keypoints in TEXTS.items():
        (folder / "texts" / f"{name}.txt").write_text("".join(f"{k}: the {k} of the {name}\n" for k in keypoints))
    for part, kinds in (("train", ["kite"] * 8), ("test", ["kite", "boat"] * 3)):
        coco = {"categories": [{"id": 500 + n, "name": name} for n, name in enumerate(TEXTS)], "images": [], "annotations": []}
        for kind in kinds:
            id, w, h = next(number), *map(int, rng.integers(60, 100, 2))
            Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)).save(folder / "images" / f"{id}.png")
            xyv = np.concatenate([rng.uniform(10, 50, (len(TEXTS[kind]), 2)).round(1), np.full((len(TEXTS[kind]), 1), 2)], 1)
            xyv[id % len(xyv), 2] = 0
            coco["images"].append({"id": id, "file_name": f"{id}.png", "width": w, "height": h})
            coco["annotations"].append({"id": id, "image_id": id, "category_id": 500 + list(TEXTS).index(kind),
                                        "keypoints": xyv.ravel().tolist(), "bbox": [5, 8, w - 15, h - 12], "num_keypoints": len(xyv)})
        (folder / "annotations" / f"mp100_split1_{part}.json").write_text(json.dumps(coco))
    return folder


def command(model_folder, folder, *more):
    return ["--model", str(model_folder), "--data", str(folder), "--descriptions", str(folder / "texts"), *map(str, more)]


def run(monkeypatch, capsys, arguments):
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
    code = 0
    try:
        data.run("eval.py", evaluation.main)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
        if isinstance(e.code, str):                 # the interpreter prints it
            print(e.code, file=sys.stderr)
    return code, *capsys.readouterr()


def prepared(folder):
    instances, names = data.read_split(folder, 1, "test")
    described = data.describe(instances, names, folder / "texts")
    return instances, described, *evaluation.controls(SimpleNamespace(data=folder, split=1, part="test"), instances, names, described)


def test_mean_is_the_mean_over_training_or_says_that_it_is_not(folder):
    instances, _, found, untrained = prepared(folder)
    assert untrained == ["boat"]
    sources = {500: data.read_split(folder, 1, "train")[0], 501: [i for i in instances if i.category == 501]}
    for instance, (mean, _, _) in zip(instances, found):
        for j in range(len(instance.keypoints)):
            places = []
            for i in sources[instance.category]:
                (x, y, v), (bx, by, w, h) = i.keypoints[j], i.bbox
                if v > 0:                           # relative to the square around the box's centre
                    side = max(w, h)
                    places.append(((x - (bx + w / 2)) / side + 0.5, (y - (by + h / 2)) / side + 0.5))
            assert mean[j] == pytest.approx(np.mean(places, 0), abs=1e-6)


def test_a_keypoint_never_labelled_in_training_has_the_mean_of_the_next_part():
    box = (0.0, 0.0, 10.0, 10.0)
    first = data.Instance(1, None, 1, np.array([[2, 4, 1], [9, 9, 0]], np.float32), box)
    second = data.Instance(2, None, 1, np.array([[6, 6, 1], [5, 3, 1]], np.float32), box)
    assert evaluation.mean_place([[first], [], [second]]) == pytest.approx(np.array([[0.2, 0.4], [0.5, 0.3]]))


def test_controls_exchange_within_the_definition(folder):
    instances, described, found, _ = prepared(folder)
    assert {other.id for _, other, _ in found} == {i.id for i in instances}
    for instance, (_, other, exchange) in zip(instances, found):
        assert other.id != instance.id and other.category == instance.category
        assert set(exchange) == set(exchange.values()) == set(described[instance.category])
        assert all(a != b for a, b in exchange.items())


class Oracle:
    """Knows the truth by the pixels it is shown and the name it is asked: what a control exchanges, it gets wrong."""
    image_size = 28

    def __init__(self, truths):
        self.truths = truths

    def answer(self, pixels, keypoints):
        return [self.truths[pixels][k.name] for k in keypoints], [1.0] * len(keypoints)


def test_who_looks_and_reads_is_right_and_falls_with_the_controls(folder):
    instances, described, found, _ = prepared(folder)
    truths = {}
    for i in instances:
        relative = data.to_crop(i.keypoints[:, :2], data.crop_affine(i.bbox, 28), 28)
        truths[i.id] = {k.name: place for k, place in zip(described[i.category], relative)}
    records = [evaluation.measure(Oracle(truths), i, described[i.category], c, lambda i: i.id) for i, c in zip(instances, found)]
    r, _ = evaluation.report(records, {500: "kite", 501: "boat"}, 1)
    assert [r[n] for n in NAMES] == [1] * 5 == [r["definitions"]["kite"][n] for n in NAMES]
    assert r["controls"]["other image"]["mPCK"] < 0.9 and r["controls"]["other text"]["mPCK"] < 0.9
    # A score per image and control, restated for the first one: another image's places, mapped into this one's box.
    (mean, other, exchange), i = found[0], instances[0]
    side, (bx, by, w, h) = max(i.bbox[2:]), i.bbox
    corner = np.array([bx + w / 2 - side / 2, by + h / 2 - side / 2])
    for name, relative in (("mean", mean), ("other image", [truths[other.id][k.name] for k in described[500]]),
                           ("other text", [truths[i.id][exchange[k].name] for k in described[500]])):
        expected = pck_in_loops(np.array(relative) * side + corner, i.keypoints[:, :2].astype(float), i.keypoints[:, 2], side, evaluation.THRESHOLDS)
        assert list(records[0]["controls"][name].values()) == pytest.approx(expected)


def test_averages_over_images_over_categories_and_by_training():
    ids = {c["name"]: c["id"] for c in data.mp100()["categories"]}
    mp100_record = lambda name, value: {"category": ids[name], "controls": {}} | dict.fromkeys(NAMES, value)
    records = [mp100_record("horse_body", 1.0), mp100_record("horse_body", 0.5), mp100_record("horse_body", 0.0), mp100_record("bed", 0.1)]
    r, table = evaluation.report(records, {ids[n]: n for n in ("horse_body", "bed")}, 1)
    assert r["mPCK"] == pytest.approx(1.6 / 4) and r["mPCK over categories"] == pytest.approx((0.5 + 0.1) / 2)
    facts = data.mp100()
    trained = {c["definition"] for c in facts["categories"] if c["id"] in facts["splits"]["1"]["train"]}
    assert "animal_body" in trained and "bed" not in trained
    assert r["groups"]["definition seen in training"]["instances"] == 3 and r["groups"]["definition new"]["mPCK"] == pytest.approx(0.1)
    assert r["categories"][ids["bed"]]["name"] == "bed" and r["definitions"]["animal_body"]["mPCK"] == pytest.approx(0.5)
    assert "definition new (1 category)" in table and " 40.0 |" in table


def test_command_writes_what_it_measured(monkeypatch, capsys, model_folder, folder, tmp_path):
    code, out, _ = run(monkeypatch, capsys, command(model_folder, folder, "--controls", "--out", tmp_path / "a"))
    assert code == 0 and "6 of 6 images" in out and "quick look" not in out and "- other image" in out
    r = json.loads((tmp_path / "a" / "results.json").read_text())
    assert (r["instances"], r["part"], r["limit"], r["unreadable"]) == (6, "test", None, 0)
    assert (tmp_path / "a" / "results.md").read_text() == out
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["instances.jsonl", "results.json", "results.md"]
    lines = [json.loads(line) for line in (tmp_path / "a" / "instances.jsonl").read_text().splitlines()]
    instances, _ = data.read_split(folder, 1, "test")
    assert [m["id"] for m in lines] == [i.id for i in instances]
    recomputed = []                                 # from the predictions, which are in the image's pixels
    for m, i in zip(lines, instances):
        texts = TEXTS["kite" if i.category == 500 else "boat"]
        assert list(m["predictions"]) == [k for k, v in zip(texts, i.keypoints[:, 2]) if v > 0] == list(m["probabilities"])
        predictions = [m["predictions"].get(k, (0, 0)) for k in texts]
        recomputed.append(pck_in_loops(predictions, i.keypoints[:, :2].astype(float), i.keypoints[:, 2], max(i.bbox[2:]), evaluation.THRESHOLDS))
        assert [m[n] for n in NAMES] == pytest.approx(recomputed[-1])
    assert [r[n] for n in NAMES] == pytest.approx(np.mean(recomputed, 0)) and r["mPCK"] == pytest.approx(np.mean(recomputed))


def test_two_processes_give_the_same_numbers(monkeypatch, capsys, model_folder, folder, tmp_path):
    arguments = command(model_folder, folder, "--controls", "--limit", 5, "--out")
    code, out, _ = run(monkeypatch, capsys, [*arguments, str(tmp_path / "one")])
    assert code == 0 and "A quick look" in out and "5 of 6 images" in out
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(data.HERE / "eval.py"),
                           *arguments, str(tmp_path / "two")], capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == out
    assert (tmp_path / "two" / "results.json").read_text() == (tmp_path / "one" / "results.json").read_text()
    one, two = ([json.loads(line) for line in (tmp_path / n / "instances.jsonl").open()] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):         # probabilities to rounding: one thread does not sum as two do
        assert b.pop("probabilities") == pytest.approx(a.pop("probabilities"), abs=1e-5)
        assert a == b


def test_unreadable_images_are_named_and_the_others_measured(monkeypatch, capsys, model_folder, folder):
    instances, _ = data.read_split(folder, 1, "test")
    instances[1].image.write_bytes(b"no image")
    instances[4].image.unlink()
    code, out, err = run(monkeypatch, capsys, command(model_folder, folder, "--controls"))
    assert code == 1 and "4 of 6 images" in out
    left_out = [line for line in err.splitlines() if line.startswith("eval.py: left out: ")]
    assert len(left_out) == 2 and str(instances[1].image) in "".join(left_out) and str(instances[4].image) in "".join(left_out)
    for i in instances:
        if i.image.exists():
            i.image.write_bytes(b"")
    code, _, err = run(monkeypatch, capsys, command(model_folder, folder))
    assert code == 2 and "none of the 6 images can be read" in err


@pytest.mark.parametrize("change, message", [
    (["--data", "nowhere"], "nowhere/annotations/mp100_split1_test.json is missing"),
    (["--model", "nowhere"], "nowhere is no model folder"),
    (["--split", "3"], "mp100_split3_test.json is missing"),
    (["--descriptions", "nowhere"], "nowhere/boat.txt, nowhere/kite.txt are missing"),
    (["--limit", "0"], "--limit 0"),
    (["--limit", "-3"], "--limit -3"),
])
def test_wrong_input_is_one_line_and_exit_code_2(monkeypatch, capsys, model_folder, folder, change, message):
    code, out, err = run(monkeypatch, capsys, [*command(model_folder, folder), *change])
    assert code == 2 and out == ""
    assert err.startswith("eval.py: ") and err.count("\n") == 1 and message in err
