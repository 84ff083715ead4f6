"""The walkthrough is what its script would write: numbers, quoted code, pictures."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from scripts import features, lesson, walk
from scripts.collect import read_results
from scripts.markdown import quote_code
from study import digits, instructions

ROOT = Path(__file__).parent.parent
PAGE = walk.PAGE.read_text(encoding="utf-8")
NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?")
MOST_LINES, MOST_PICTURES, MOST_BYTES = 250, 12, 1_500_000


@pytest.fixture(scope="module")
def nano():
    return walk.start_walk(ROOT / "nano")


@pytest.fixture(scope="module")
def facts(nano):
    return walk.collect_facts(nano)


def join_words(text):
    """A text without numbers, and without the ends of lines, which move with the numbers."""
    return " ".join(NUMBER.sub("#", text).split())


def test_the_page_is_what_the_script_writes(facts):
    """Numbers may differ by what another machine's rounding does: a digit that ties, a count."""
    text = walk.write_page(facts)
    assert join_words(text) == join_words(PAGE), "python -m scripts.walk writes it"
    for ours, committed in zip(NUMBER.findall(text), NUMBER.findall(PAGE), strict=True):
        a, b = (float(number.replace(",", "")) for number in (ours, committed))
        assert a == pytest.approx(b, rel=0.03, abs=0.011 if "." in committed else 1)


def test_every_number_is_used(facts):
    template = walk.TEMPLATE.read_text(encoding="utf-8")
    assert set(re.findall(r"\$(\w+)", template)) == set(facts)


def test_the_page_and_its_pictures_are_small():
    assert len(PAGE.splitlines()) <= MOST_LINES
    pictures = sorted(walk.PICTURES.iterdir())
    assert len(pictures) <= MOST_PICTURES
    assert sum(path.stat().st_size for path in pictures) <= MOST_BYTES
    shown = re.findall(r"!\[[^\]]+\]\(walk/([^)]+)\)", PAGE)
    assert sorted(shown) == [path.name for path in pictures]


def test_pictures_show_what_is_computed(nano):
    drawn = walk.draw_pictures(nano)
    assert sorted(drawn) == sorted(path.name for path in walk.PICTURES.iterdir())
    for name, picture in drawn.items():
        with Image.open(walk.PICTURES / name) as committed:
            assert committed.size == picture.size, name
            pair = [np.asarray(each.convert("RGB"), float) for each in (committed, picture)]
        assert np.abs(pair[0] - pair[1]).mean() < 4, name


def test_the_steps_stand_in_order():
    headings = re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)
    assert headings == [str(n) for n in range(1, 10)]


def list_quotes():
    return re.findall(r"^```py\n# (\S+), (?:in )?(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_quoted_code_is_that_of_the_files():
    quotes = list_quotes()
    assert len(quotes) >= 9 and PAGE.count("```py") == len(quotes)
    for file, _, code in quotes:
        lines = code.splitlines()
        assert 3 <= len(lines) <= 10
        source = (ROOT / file).read_text(encoding="utf-8")
        source = "\n".join(line.strip() for line in source.splitlines())
        assert "\n".join(line.strip() for line in lines) in source, file


def test_code_is_quoted_by_name(tmp_path):
    text = """
    class A:
        def f(self):
            \"\"\"What it does.

            More.
            \"\"\"
            a = 1
            if a:
                b = 2
            return b
    """
    (tmp_path / "x.py").write_text(textwrap.dedent(text))
    whole = "def f(self):\n    a = 1\n    if a:\n        b = 2\n    return b"
    assert quote_code(tmp_path, "x.py", "A.f") == f"```py\n# x.py, A.f\n{whole}\n```"
    part = "```py\n# x.py, in A.f\nif a:\n    b = 2\nreturn b\n```"
    assert quote_code(tmp_path, "x.py", "A.f", "if a", "return") == part
    with pytest.raises(ValueError, match="x.py has no A.g"):
        quote_code(tmp_path, "x.py", "A.g")
    with pytest.raises(ValueError, match="no lines from 'a = 1' to 'c'"):
        quote_code(tmp_path, "x.py", "A.f", "a = 1", "c")
    with pytest.raises(ValueError, match="2 lines, expected 3 to 10"):
        quote_code(tmp_path, "x.py", "A.f", "b = 2", "return")


# What each exercise changes: the file, and what stands there.
EXERCISES = [
    ("study/digits.py", "DECODING = {"),
    ("study/instructions.py", "INSTRUCTIONS = {"),
    ("study/show.py", "Codec(tokenizer)"),
    ("nano/config.json", '"image_size"'),
    ("sample.py", '"--desc"'),
    ("train.py", '        else:\n            is_frozen = tune == "frozen"'),
    ("capellm.py", "return self.projection("),
    ("decode.py", "chain = (branch[..., :, None] == branch[..., None, :]).tril()"),
    ("study/explain.py", "weights.mean(1)"),
    ("study/density.py", "cut=1e-4"),
]


def test_there_are_ten_exercises():
    rows = re.findall(r"^\| \d+\. .*$", PAGE, re.MULTILINE)
    assert len(rows) == len(EXERCISES) == 10
    for row, (file, text) in zip(rows, EXERCISES, strict=True):
        assert text in (ROOT / file).read_text(encoding="utf-8"), file
        names = {file, file.removesuffix(".py").replace("/", ".")}
        assert any(name in row for name in names), row


def test_new_entries_of_exercises_are_code():
    decoding, instruction = re.findall(r"`(\"[\w-]+\": .*?,)`", PAGE)
    entry = eval(f"{{{decoding}}}", vars(digits))
    log_p = torch.tensor([[0.1, 0.5, 0.4]]).log()
    (sharpened,) = [change(log_p) for change in entry.values()]
    assert torch.isfinite(sharpened).tolist() == [[False, True, True]]
    (entry,) = eval(f"{{{instruction}}}", vars(instructions)).values()
    (asked,) = entry.rounds
    assert asked.question.format(name="nose") == "USER: nose? ASSISTANT:"


# Step 2.


def test_similar_patches_are_found(nano):
    """An image's own patches are most like themselves; three components have the most variance."""
    found = features.find_features(nano.model, nano.found.pixels, walk.DEFINITION, walk.FACES)
    grid = found.features.shape[1]
    for place in ((0.1, 0.2), (0.999, 0.5)):
        assert features.match(found, place, 0) == features.find_patch(grid, place)
    assert features.find_patch(grid, (0.999, 0.5)) == (grid // 2, grid - 1)
    centred = found.features.flatten(0, 2) - found.features.mean((0, 1, 2))
    variance = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
    assert found.share == pytest.approx(float(variance[:3].sum() / variance.sum()), rel=1e-3)


# Step 8.


def test_a_drawing_is_seen_as_its_annotation_says(nano):
    drawn = lesson.draw(nano.model, lesson.CATEGORY, 0)
    assert drawn.pixels.shape == nano.found.pixels.shape
    points = drawn.points[drawn.askable]
    assert len(points) > 2 and ((points >= 0) & (points < 1)).all()


def test_the_loss_of_tokens_is_the_loss_of_training(nano):
    """Their mean over one question is what CapeLLM.loss says of it."""
    model, drawn = nano.model, lesson.draw(nano.model, lesson.CATEGORY, 3)
    keypoints = data.read_descriptions(walk.DESCRIPTIONS / f"{lesson.CATEGORY}.txt")
    k = drawn.askable[0]
    one = drawn._replace(askable=[k])
    tokens = lesson.measure_loss(model, keypoints, [one])
    pair = data.write_conversation(model.tokenizer, model.codec, [(keypoints[k], drawn.points[k])])
    with torch.inference_mode():
        losses = model.loss(drawn.pixels[None], [pair])
    assert len(tokens) == len(lesson.TOKENS)
    assert np.mean(tokens) == pytest.approx(float(losses.total), rel=1e-4)
    of_digits = [t for t, n in zip(tokens, lesson.TOKENS, strict=True) if n in "abcdef"]
    assert np.mean(of_digits) == pytest.approx(float(losses.digits), rel=1e-4)


def test_adapters_and_projection_alone_learn(monkeypatch):
    monkeypatch.setattr(lesson, "STEPS", 2)
    monkeypatch.setattr(lesson, "PAIRS", 2)
    model = walk.CapeLLM.from_pretrained(ROOT / "nano", merge=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    keypoints = data.read_descriptions(walk.DESCRIPTIONS / f"{lesson.CATEGORY}.txt")
    drawn = [lesson.draw(model, lesson.CATEGORY, index) for index in range(2)]
    torch.manual_seed(0)
    rows = lesson.train(model, keypoints, drawn)
    assert [row["step"] for row in rows] == [1, 2] and not model.training
    learned = model.adapter()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != (name in learned), name


def test_what_the_lesson_measured_says_what_the_page_says():
    taught = read_results("walk")
    assert [row["step"] for row in taught["steps"]] == list(range(1, lesson.STEPS + 1))
    assert [row["token"] for row in taught["tokens"]] == list(lesson.TOKENS)
    assert taught["near before"] < taught["near without adapters"] < taught["near after"]
    loss = {row["token"]: row["after"] for row in taught["tokens"]}
    assert max(loss[name] for name in ("[0.", ",0.", "]", "end")) < 0.05
    assert loss["a"] < loss["b"] < loss["c"] == pytest.approx(np.log(10), abs=0.1)


def test_forgotten_adapters_are_zero():
    model = walk.CapeLLM.from_pretrained(ROOT / "nano", merge=False)
    lesson.forget_adapters(model)
    zeros = [not p.any() for name, p in model.named_parameters() if name.endswith("lora_B")]
    assert zeros and all(zeros)
