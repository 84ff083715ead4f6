"""Around a pass: no question is lost, none waits for room, numbers depend on words alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import keypoints, one_line, photo
from study.digits import DECODING
from support import passes
from support.coco import Instance
from support.descriptions import Keypoint
from support.passes import draw_numbers, find_common, split_into_passes

QUESTIONS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=300)


@given(QUESTIONS)
def test_each_question_is_in_one_pass_and_no_pass_is_too_large(questions):
    parts = split_into_passes(questions)
    assert sorted(i for part in parts for i in part) == list(range(len(questions)))
    for part in parts:
        assert 0 < len(part) <= passes.ANSWERS_IN_PASS
        assert len({tuple(questions[i]) for i in part}) <= passes.QUESTIONS_IN_PASS


def test_equal_questions_are_neighbours():
    assert split_into_passes([[1], [2], [1], [3], [2]]) == [[0, 2, 1, 4, 3]]


def test_passes_of_different_and_of_equal_questions():
    """70 different questions are 32 + 32 + 6; 300 answers to one are 128 + 128 + 44."""
    different = split_into_passes([[i] for i in range(70)])
    assert [len(part) for part in different] == [32, 32, 6]
    equal = split_into_passes([[5, 6]] * 300)
    assert [len(part) for part in equal] == [128, 128, 44]


@pytest.mark.parametrize(
    "questions, common",
    [
        ([], []),
        ([[1, 2, 3]], [1, 2]),
        ([[1, 2, 3], [1, 2, 4]], [1, 2]),
        ([[1, 2, 3], [1, 2]], [1]),
        ([[1, 2], [1, 2]], [1]),
        ([[1, 2], [3, 2]], []),
    ],
)
def test_each_question_keeps_a_token_of_its_own(questions, common):
    assert find_common(questions) == common


def make_tree(questions, trunk):
    return passes.Tree(torch.zeros(trunk, 1), questions, None)


def make_codec():
    """A codec whose answer is 9 tokens, of which 2 open it."""
    return SimpleNamespace(open=[0, 0], encode=lambda x, y: [0] * 9)


def test_the_room_of_questions_side_by_side():
    """40 questions of 1 to 40 tokens: the longest 32 of a pass, and 40 answers of 9 tokens."""
    questions = [[n] * n for n in range(1, 41)]
    expected = sum(range(9, 41)) + 40 * (9 + 5)
    trees = [make_tree(questions, 7), make_tree(questions[:3], 9)]
    for some in (trees, trees[::-1], trees[:1]):
        assert passes.count_room(make_codec(), some, limit=0, candidates=5) == expected


def test_the_room_of_a_chain():
    """Ten rounds of 50 - 2 + 9 tokens, unless the chain may have fewer."""
    questions = [[n] * 50 for n in range(10)]
    codec, answers = make_codec(), 10 * 9
    trees = [make_tree(questions, 7)]
    assert passes.count_room(codec, trees, limit=2000, candidates=0) == 10 * 57 + answers
    assert passes.count_room(codec, trees, limit=527, candidates=0) == 520 + answers


def test_the_room_of_chains_together():
    """Every step is as long as the longest round that can stand in it."""
    long, short = make_tree([[n] * 50 for n in range(4)], 7), make_tree([[1] * 20] * 6, 7)
    codec = make_codec()
    room = passes.count_room(codec, [long, short], limit=2000, candidates=0)
    chains = passes.plan_chains(codec, [long, short], [range(4), range(6)], limit=2000)
    (steps,) = chains
    taken = sum(max(57 if image == 0 else 27 for image, _ in step) for step in steps)
    assert taken == 4 * 57 + 2 * 27 <= room - 6 * 9 <= 6 * 57


def test_questions_of_several_images_go_through_the_same_passes(monkeypatch):
    monkeypatch.setattr(passes, "QUESTIONS_IN_PASS", 2)
    trees = [make_tree([[1], [2], [3]], 1), make_tree([[4]], 1), make_tree([], 1)]
    assert passes.plan_side_by_side(trees) == [[(0, 0), (0, 1), (1, 0)], [(0, 2)]]


def test_chains_of_several_images_begin_together():
    """Rounds of 17 tokens: three fit beside a trunk of 40, five beside one of 10."""
    trees = [make_tree([[n] * 10 for n in range(5)], trunk) for trunk in (40, 10)]
    orders = [[4, 3, 2, 1, 0], range(5)]
    first, second = passes.plan_chains(make_codec(), trees, orders, limit=40 + 3 * 17)
    assert first == [[(0, 4), (1, 0)], [(0, 3), (1, 1)], [(0, 2), (1, 2)], [(1, 3)]]
    assert second == [[(0, 1), (1, 4)], [(0, 0)]]


def test_ends_stand_where_the_tokens_of_their_image_stand():
    counts, places = passes.place_ends([0, 0, 2], [3, 1, 2], batch=4)
    assert counts == [4, 0, 2, 0] and places == [2, 3, 1]


def test_numbers_follow_the_seed_the_words_and_the_repetition():
    eye, ear = Keypoint("eye", "It sees."), Keypoint("ear", "It hears.")
    first = draw_numbers([eye, ear, eye], seed=3, n=6)
    assert first.shape == (3, 6) and first.dtype == torch.float64
    assert ((first >= 0) & (first < 1)).all()
    # Who else is asked does not matter, nor the order of the others.
    assert torch.equal(draw_numbers([ear, eye, eye], seed=3, n=6), first[[1, 0, 2]])
    others = [
        draw_numbers([eye], seed=4, n=6)[0],
        draw_numbers([Keypoint("eye", "It looks.")], seed=3, n=6)[0],
        *first,
    ]
    assert len({tuple(row.tolist()) for row in others}) == 5


def test_what_is_too_long_is_named_with_its_remedy():
    keypoint = Keypoint("tail", "It wags.")
    passes.check_length(keypoint, tokens=10, limit=10)
    with pytest.raises(ValueError, match="'tail': .* 11 tokens, more than 10: shorten") as error:
        passes.check_length(keypoint, tokens=11, limit=10)
    one_line(error)
    instance = Instance(1, "a.png", 5, None, (), name="fox")
    passes.check_pair_length(instance, 4, tokens=10, limit=10)
    with pytest.raises(ValueError, match=r"4 keypoints of category 5 \(fox\).*lower --k"):
        passes.check_pair_length(instance, 4, tokens=11, limit=10)
    with pytest.raises(ValueError, match="more than 10: shorten its descriptions"):
        passes.check_pair_length(instance, 1, tokens=11, limit=10)


@pytest.mark.parametrize("cumulative", [False, True, "confidence"])
@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("layer", ["llm.model.norm", "vision.layernorm"])
def test_answers_are_numbers_or_refused(model, layer, decoding, cumulative):
    """Weights that are finite each, and overflow together."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_parameter(f"{layer}.weight").fill_(3e38)
    with pytest.raises(ValueError, match="model with the backbones .*llm answers with NaN: wei"):
        broken.locate(photo(), keypoints(3), None, decoding, cumulative)
