"""scripts/own.py: what a user with so many photographs would have."""

import json
from pathlib import Path

import pytest

import data
from scripts import document, own
from support.checkpoints import append_to_log
from support.descriptions import describe_categories


@pytest.fixture
def source(tmp_path):
    """A set of 23 photographs of one kind, two of them with two objects, and 3 to test."""
    folder = tmp_path / "kettle"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for part, numbers in (("train", range(1, 24)), ("test", range(90, 93))):
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 50, "height": 40} for n in numbers]
        annotations = []
        for n in [*numbers, *[n for n in numbers if n in (3, 7)]]:
            annotations.append({
                "id": len(annotations) + 1, "image_id": n, "category_id": 1, "area": 100,
                "bbox": [0, 0, 40, 30], "keypoints": [5, 6, 2, 20, 21, 2], "num_keypoints": 2,
            })
        category = {"id": 1, "name": "kettle", "keypoints": ["lid", "spout"]}
        coco = {"images": images, "annotations": annotations, "categories": [category]}
        (folder / "annotations" / f"{part}.json").write_text(json.dumps(coco))
    (folder / "kettle.txt").write_text("lid: where it opens\nspout: where it pours\n")
    return folder


@pytest.mark.parametrize("count, expected, trained", [(10, 10, 8), (None, 23, 19), (100, 23, 19)])
def test_every_fifth_photograph_validates(source, tmp_path, count, expected, trained):
    folder = tmp_path / "drawn"
    assert own.draw_photographs(source, count, 0, folder) == expected
    parts = {part: data.read_split(folder, 1, part)[0] for part in ("train", "val", "test")}
    files = {part: {i.image.name for i in instances} for part, instances in parts.items()}
    assert len(files["train"]) == trained and len(files["val"]) == expected - trained
    assert not files["train"] & files["val"] and files["test"] == {"90.jpg", "91.jpg", "92.jpg"}
    # Each object of a photograph goes with it.
    both = parts["train"] + parts["val"]
    assert len(both) == expected + len({"3.jpg", "7.jpg"} & (files["train"] | files["val"]))
    described = describe_categories(both, {1: "kettle"}, folder)
    assert [k.name for k in described[1]] == ["lid", "spout"]


def test_draws_differ_and_can_be_repeated(source, tmp_path):
    chosen = []
    for n, draw in enumerate((0, 0, 1)):
        own.draw_photographs(source, 10, draw, tmp_path / str(n))
        chosen.append((tmp_path / str(n) / "annotations/train.json").read_text())
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_plan_has_each_training_once(source):
    plan = list(own.plan([source, source.parent / "pan"]))
    # Draws of 40 and of 10 photographs, all of them once, and adapters once.
    assert len(plan) == len(set(plan)) == 2 * (own.DRAWS * 2 + 1 + 1)
    # Whoever interrupts it has the first draw of each set first, adapters among them.
    first = plan[: 2 * (len(own.PHOTOGRAPHS) + 1)]
    assert {draw for _, _, draw, _ in first} == {0}
    adapters = [asked for asked in plan if asked[-1] == "adapters"]
    assert len(adapters) == 2 and set(adapters) < set(first)


def test_sets_that_are_good_enough_are_counted(monkeypatch):
    def row(name, of, draw, tuned, pck):
        return {"set": name, "of": of, "draw": draw, "tuned": tuned, "PCK@0.10": pck}

    rows = [
        row("kettle", 40, 0, "everything", 80.0),
        row("kettle", 40, 1, "everything", 91.0),
        row("pan", 40, 0, "everything", 90.0),
        row("pan", 40, 1, "everything", 60.0),
        row("kettle", "all", 0, "everything", 99.0),
        row("kettle", 40, 0, "adapters", 71.0),
    ]
    monkeypatch.setattr(document, "read_results", lambda name: {"rows": rows})
    shown = [line.split(" | ") for line in document.own_answer().splitlines()[2:]]
    assert [[cell.strip("| ") for cell in line] for line in shown] == [
        ["40", "everything", "2", "80.2", "1"],
        ["all", "everything", "1", "99.0", "1"],
        ["40, first draw", "everything", "2", "85.0", "1"],
        ["40, first draw", "adapters", "1", "71.0", "0"],
    ]


def test_draws_are_shown_as_mean_and_range():
    assert document.average([{"a": 80.0}, {"a": 90.0}, {"a": 88.0}], "a") == "86 (80 to 90)"
    assert document.average([{"a": 2.26}], "a", 1) == "2.3"


def test_each_training_is_asked_at_its_best_and_only_once(source, tmp_path, monkeypatch):
    asked = []

    def run(command, *words):
        words = [str(word) for word in words]
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True)
        if command == "train.py":
            assert ("lora" in words) == out.parent.name.endswith("adapters")
            for step, pck in ((25, 0.75), (50, 0.75), (75, 0.625)):
                means = {"PCK@0.05": pck, "PCK@0.20": pck, "mPCK": pck, "standard_error": 0.1}
                numbers = {"step": step, "loss": 1.0, "lr": 1e-4, "pairs_per_s": 8.0, "val": means}
                append_to_log(out, numbers)
        else:
            asked.append(words[words.index("--model") + 1])
            scores = dict.fromkeys(own.COLUMNS, 0.875)
            mean = dict.fromkeys(own.COLUMNS, 0.25)
            found = scores | {"instances": 3, "controls": {"mean": mean}}
            (out / "results.json").write_text(json.dumps(found))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own.recipe, "run", run)
    monkeypatch.setattr(own, "DRAWS", 1)
    monkeypatch.setattr("sys.argv", ["own", str(source)])
    own.main()
    assert len(asked) == 4 and all(model.endswith("run/step-0000050") for model in asked)
    rows = json.loads((own.OUT / "results.json").read_text())
    assert [row["photographs"] for row in rows] == [23, 10, 23, 23]
    assert rows[0]["PCK@0.10"] == 87.5 and rows[0]["mean place PCK@0.10"] == 25
    assert rows[0]["keypoints"] == 2 and rows[-1]["tuned"] == "adapters"
    own.main()
    assert len(asked) == 4
