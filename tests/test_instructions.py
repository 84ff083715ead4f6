"""study/instructions.py as data.py writes it down and study/show.py shows it: the paper's texts."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from capellm import Codec
from helpers import one_line
from study import instructions, show

EYE = data.Keypoint("left eye", "The eye on the left side.")
NOSE = data.Keypoint("nose", "")
TAIL = data.Keypoint("tail", "")
ROUNDS = [(EYE, (0.25, 0.5)), (NOSE, (0.123, 0.999))]

BASE = (
    "USER: Can you identify location of left eye on the object? The eye on the left side. "
    "With this description, please provide its coordinates. ASSISTANT:[0.250,0.500]"
)
PLAIN = (
    "USER: Can you identify location of nose on the object? "
    "Please provide its coordinates. ASSISTANT:[0.123,0.999]"
)
LIST = "Keypoint List: left eye, nose, tail."
OBJECT = (
    "USER: What do you think is the central object in this image? ASSISTANT: "
    "The object that this image is trying to express seems to be a grey cat."
)
WHY_EYE = (
    "USER: What is the name of a keypoint at [0.250,0.500] in the image? "
    "Tell me the name and why. ASSISTANT: "
    "The keypoint name is left eye, because the eye on the left side."
)
WHY_NOSE = (
    "USER: What is the name of a keypoint at [0.123,0.999] in the image? "
    "Tell me the name and why. ASSISTANT: The keypoint name is nose."
)
EXPECTED = {
    "base": [BASE, PLAIN],
    "names": [
        BASE.replace("The eye on the left side. With this description, please", "Please"),
        PLAIN,
    ],
    "list": [LIST + BASE, PLAIN],
    "outline": [instructions.OUTLINE + BASE, PLAIN],
    "steps": [OBJECT, BASE, PLAIN],
    "replaced": [
        BASE.replace(EYE.description, instructions.REPLACED),
        PLAIN.replace("Please", f"{instructions.REPLACED} With this description, please"),
    ],
    "direct-qa": [WHY_EYE, WHY_NOSE],
}


def decode_turns(tokenizer, ids):
    """The texts between end-of-text tokens."""
    turns = [[]]
    for id in ids:
        if id == tokenizer.eos_id:
            turns.append([])
        else:
            turns[-1].append(id)
    assert turns.pop() == []
    return [tokenizer.decode(turn) for turn in turns]


def write(tokenizer, rounds, instruction, category="grey_cat", keypoints=(EYE, NOSE, TAIL), **more):
    codec = Codec(tokenizer)
    return data.write_conversation(
        tokenizer, codec, rounds, instruction, category, keypoints, **more
    )


@pytest.mark.parametrize("instruction, expected", EXPECTED.items())
def test_instructions_read_as_in_the_paper(tokenizers, instruction, expected):
    """Figures 2, 6 and 7, in Llama 3's tokens, whose decoding is exact.

    Only what the ASSISTANT says carries a label.
    """
    tokenizer = tokenizers["llama3"]
    ids, labels, _ = write(tokenizer, ROUNDS, instruction)
    assert decode_turns(tokenizer, ids) == expected
    answers = [turn.split("ASSISTANT:")[1] for turn in expected]
    labelled = [label for label in labels if label != data.IGNORE]
    assert decode_turns(tokenizer, labelled) == answers
    for id, label in zip(ids, labels, strict=True):
        assert label in (data.IGNORE, id)


def test_step_by_step_qa_names_what_is_there(tokenizers):
    """Figure 8: the list names all, the answer, in the list's order, those visible, asked or not.

    Then the name at each place follows.
    """
    tokenizer = tokenizers["llama3"]
    rounds = [(NOSE, (0.1, 0.2)), (EYE, (0.25, 0.5))]
    ids, labels, _ = write(tokenizer, rounds, "steps-qa", visible=[EYE, NOSE, TAIL])
    first, second, third, fourth = decode_turns(tokenizer, ids)
    assert first == "Joint list: left eye, nose, tail." + OBJECT
    assert second.endswith(
        "The grey cat in the image seems to have several joints in the list, "
        "named left eye, nose, tail. Those joints are visible in the image."
    )
    assert "[0.100,0.200]" in third and third.endswith("is nose.")
    assert "[0.250,0.500]" in fourth and fourth.endswith("is left eye.")
    assert sum(label != data.IGNORE for label in labels) < len(ids) / 2


@pytest.mark.parametrize("instruction", ["base", "direct-qa", "steps-qa"])
@pytest.mark.parametrize("name", ["llama3", "v1", "v3", "tiny"])
def test_digits_are_single_tokens_wherever_coordinates_stand(tokenizers, name, instruction):
    tokenizer = tokenizers[name]
    ids, *_ = write(tokenizer, [(EYE, (0.123, 0.456))], instruction, "cat", [EYE])
    point = Codec(tokenizer).point(0.123, 0.456)
    assert any(ids[i : i + len(point)] == point for i in range(len(ids)))


def test_varied_questions(tokenizers):
    """Each phrasing names the keypoint and comes up in training; inference asks the first."""
    tokenizer, asks = tokenizers["llama3"], instructions.ASKS
    assert len(set(asks)) == len(asks) >= 20
    assert all(ask.count("{name}") == 1 for ask in asks)
    rng, seen = random.Random(0), set()
    for _ in range(500):
        seen.update(decode_turns(tokenizer, write(tokenizer, ROUNDS[:1], "diverse", rng=rng).ids))
    assert len(seen) == len(asks)
    for text in seen:
        assert "left eye" in text and EYE.description in text and text.endswith("[0.250,0.500]")
    first = write(tokenizer, ROUNDS[:1], "diverse").ids
    assert decode_turns(tokenizer, first) == [BASE]
    question = data.write_question(tokenizer, EYE, "diverse")
    assert tokenizer.decode(question) == BASE.split("[")[0]


def test_varied_questions_under_the_outline(tokenizers):
    """Table 11's last row is both of its variations at once."""
    tokenizer = tokenizers["llama3"]
    for seed in range(20):
        diverse, both = (
            write(tokenizer, ROUNDS, name, rng=random.Random(seed))
            for name in ("diverse", "diverse-outline")
        )
        outline = tokenizer.encode(instructions.OUTLINE)
        assert both.ids == outline + diverse.ids
        assert both.labels == [data.IGNORE] * len(outline) + diverse.labels


def test_random_replacement_takes_half(tokenizers):
    tokenizer, rng, replaced = tokenizers["llama3"], random.Random(1), 0
    for _ in range(1000):
        text = tokenizer.decode(write(tokenizer, ROUNDS[:1], "random", rng=rng).ids)
        assert (instructions.REPLACED in text) != (EYE.description in text)
        replaced += instructions.REPLACED in text
    # Within 3.8 standard deviations.
    assert 440 < replaced < 560
    # At inference none is replaced.
    assert EYE.description in tokenizer.decode(write(tokenizer, ROUNDS[:1], "random").ids)


def count_answers(instruction):
    """Of the opening."""
    return sum(turn.answer != "" for turn in instructions.INSTRUCTIONS[instruction].opening)


WITHOUT_DESCRIPTION = ("names", "replaced", "direct-qa", "steps-qa")
NAMES = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
TRAPS = ["", "{point} {name} {0} {", "<|end_of_text|></s><s>", "[0.123,0.456]", "}{because}%s"]


@settings(deadline=None, max_examples=60)
@given(
    name=st.text(NAMES, min_size=1, max_size=30),
    description=st.sampled_from(TRAPS),
    instruction=st.sampled_from(list(instructions.INSTRUCTIONS)),
)
def test_words_are_data(tokenizers, name, description, instruction):
    """Whatever a name or description holds, it stands there as text.

    No text ends but the answers', and no field is filled in.
    """
    tokenizer = tokenizers["llama3"]
    keypoint = data.Keypoint(name, description)
    ids, *_ = write(tokenizer, [(keypoint, (0.5, 0.25))], instruction, "cat", [keypoint, EYE])
    text = tokenizer.decode(ids)
    assert ids.count(tokenizer.eos_id) == count_answers(instruction) + 1
    assert max(ids) <= tokenizer.eos_id and tokenizer.bos_id not in ids
    assert name in text
    assert description in text or instruction in WITHOUT_DESCRIPTION


# study/show.py


@pytest.mark.parametrize("instruction", instructions.INSTRUCTIONS)
def test_show(tokenizers, instruction):
    """Every answer stands between « and », its tokens counted.

    `random` shows a replaced description and one that is kept.
    """
    tokenizer = tokenizers["llama3"]
    keypoints = [EYE, data.Keypoint("nose", "The middle of the face.")]
    shown = show.show_conversation(tokenizer, keypoints, instruction, "grey_cat")
    text, counted = shown.rsplit("\n", 1)
    answers = [answer.split("|") for answer in re.findall("«(.*)»", text)]
    assert len(answers) == count_answers(instruction) + 2
    assert all(answer[-1] == "<end of text>" for answer in answers)
    assert f", {sum(map(len, answers))} of them count" in counted
    replaced = {"replaced": 2, "random": 1}
    assert text.count(instructions.REPLACED) == replaced.get(instruction, 0)
    words = text.replace("|", "")
    assert "left eye" in words and "nose" in words
    assert ("grey cat" in words) == instruction.startswith("steps")


def test_show_marks_each_token(tokenizers):
    tokenizer = tokenizers["llama3"]
    text = show.show_conversation(tokenizer, [EYE, NOSE], "base", "cat")
    assert "«[|0|.|1|2|3|,|0|.|4|5|6|]|<end of text>»" in text and text.count("«") == 2
    assert EYE.description in text
    asked = sum(len(data.write_question(tokenizer, keypoint)) for keypoint in (EYE, NOSE))
    assert f"{asked + 28} tokens after the image, 28 of them count" in text


@pytest.fixture
def command(model_folder, tmp_path, monkeypatch):
    """call(category) runs `python -m study.show CATEGORY` beside a file boat.txt."""
    monkeypatch.chdir(tmp_path)
    Path("boat.txt").write_text("bow:\nstern:\n")

    def call(category):
        monkeypatch.setattr("sys.argv", ["show", category, "--llm", str(model_folder / "llm")])
        show.main()

    return call


@pytest.mark.parametrize(
    "asked, first",
    [
        ("skirt", "right waistband"),
        ("1", "right waistband"),
        ("18", "right eyebrow, outer end"),
        ("40", "right face edge"),
        ("human_face_68", "right face edge"),
        ("boat.txt", "bow"),
    ],
)
def test_what_can_be_shown(command, capsys, asked, first):
    command(asked)
    assert f"location of {first}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked, message",
    [
        ("face", "face: 18 .human_face_19. and 40 .human_face_68. have this name; give an id"),
        ("", "no category of MP-100, nor a file in "),
        ("999", "999: no category of MP-100, nor a file in "),
    ],
)
def test_what_cannot_be_shown(command, asked, message):
    with pytest.raises(ValueError, match=message) as error:
        command(asked)
    one_line(error)
