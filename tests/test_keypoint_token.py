"""study/keypoint_token.py: the loss and the answers of <KEYPOINT>, each alone and by hand."""

import copy
import json
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import data
import sample
from capellm import CapeLLM
from helpers import assert_shared_equals_alone, conversations, one_line, photos, randomise
from study import keypoint_token
from study.density import compute_density
from support.checkpoints import save_tensors

KEYPOINTS = [
    data.Keypoint("nose", "The tip."),
    data.Keypoint("left eye", ""),
    data.Keypoint("tail", "The end of the tail."),
]


@pytest.fixture(scope="module")
def token_model(model_folder):
    """A model with <KEYPOINT>, every weight random, adapters and what is new trained."""
    torch.manual_seed(0)
    model = CapeLLM.from_pretrained(model_folder, merge=False)
    keypoint_token.add_token(model)
    model = randomise(model)
    torch.nn.init.normal_(model.llm.model.embed_tokens.new_row.data)
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    return model


def read_alone(model, image, ids):
    """Hidden states of one causal sequence, [BOS; V; T], its T alone; embedded by hand."""
    table = model.llm.model.embed_tokens.base.weight
    table = torch.cat([table, model.llm.model.embed_tokens.new_row[None]])
    bos = table[[model.tokenizer.bos_id]]
    V = model.image_tokens(image[None])[0]
    hidden = model.llm(torch.cat([bos, V, table[ids]])[None])[0]
    return hidden[1 + len(V) :]


def score_by_hand(model, hidden):
    """Logits over the vocabulary and <KEYPOINT>."""
    head = torch.cat([model.llm.lm_head.weight, model.llm.model.embed_tokens.new_row[None]])
    return hidden @ head.T


def place_by_hand(model, hidden):
    first, _, second, _ = model.point_decoder
    middle = (hidden @ first.weight.T + first.bias).clamp(min=0)
    return 1 / (1 + (-(middle @ second.weight.T + second.bias)).exp())


def sum_by_hand(model, pixels, asked):
    """The loss, and the distance in it: one sequence after the other, one token after the other."""
    losses, distances = [], []
    for image, conversation in zip(pixels, asked, strict=True):
        hidden = read_alone(model, image, conversation.ids)
        of_tokens, of_points = [], []
        points = list(conversation.points)
        for i, label in enumerate(conversation.labels):
            if label == data.IGNORE:
                continue
            logits = score_by_hand(model, hidden[i - 1])
            of_tokens.append(F.cross_entropy(logits[None], torch.tensor([label])))
            if label == model.tokenizer.vocab_size:
                found = place_by_hand(model, hidden[i])
                truth = torch.tensor(points.pop(0), dtype=torch.float32)
                of_points.append((found - truth).abs().mean())
        assert not points
        losses.append(torch.stack(of_tokens).mean())
        distances.append(torch.stack(of_points).mean())
    distance = torch.stack(distances).mean()
    return torch.stack(losses).mean() + distance, distance


def test_loss_and_gradients_are_those_by_hand(token_model):
    pixels, asked = photos(3), conversations(token_model, [3, 1, 4])
    tuned = [token_model.get_parameter(name) for name in token_model.adapter()]
    found = token_model.loss(pixels, asked)
    total, distance = sum_by_hand(token_model, pixels, asked)
    torch.testing.assert_close(found.total, total, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.digits, distance.detach(), atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(found.total, tuned)
    theirs = torch.autograd.grad(total, tuned)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()) + 1e-7, rtol=1e-3)
        assert b.abs().max() > 0


def test_one_row_of_the_embedding_is_trained(token_model, model_folder):
    names = token_model.adapter().keys()
    digits = CapeLLM.from_pretrained(model_folder, merge=False).adapter().keys()
    row = "llm.model.embed_tokens.new_row"
    layers = {f"point_decoder.{n}.{what}" for n in (0, 2) for what in ("weight", "bias")}
    assert names - digits == {row} | layers and digits <= names
    assert token_model.get_parameter(row).shape == (32,)
    assert not token_model.get_parameter("llm.model.embed_tokens.base.weight").requires_grad


def test_a_new_row_starts_as_that_of_the_opening_bracket(model_folder):
    model = CapeLLM.from_pretrained(model_folder)
    table = model.llm.model.embed_tokens.weight.clone()
    first = model.tokenizer.encode_continuation("[0.")[0]
    keypoint_token.add_token(model)
    assert model.llm.model.embed_tokens.new_row.equal(table[first])


def test_a_shared_image_changes_no_gradient(token_model):
    assert_shared_equals_alone(token_model, [[4, 1, 2], [3, 4]], 3e-5)


def answer_by_hand(model, image, ids):
    """The place that follows token ids, and the probability of <KEYPOINT> there."""
    hidden = read_alone(model, image, [*ids, model.tokenizer.vocab_size])
    p = score_by_hand(model, hidden[-2]).softmax(-1)[-1]
    return place_by_hand(model, hidden[-1]).tolist(), float(p)


@torch.inference_mode()
@pytest.mark.parametrize("cumulative", [False, True, "confidence"])
def test_answers_are_those_by_hand(token_model, cumulative):
    (image,) = photos(1)
    found = token_model.answer(image, KEYPOINTS, cumulative=cumulative)
    questions = [data.write_question(token_model.tokenizer, k) for k in KEYPOINTS]
    order = list(range(len(KEYPOINTS)))
    if cumulative == "confidence":
        first = token_model.answer(image, KEYPOINTS)
        order.sort(key=lambda i: -first.probabilities[i])
    earlier = []
    for i in order:
        place, p = answer_by_hand(token_model, image, earlier + questions[i])
        assert found.coordinates[i] == pytest.approx(place, abs=1e-5)
        assert found.probabilities[i] == pytest.approx(p, rel=1e-4)
        if cumulative:
            answer = [token_model.tokenizer.vocab_size, token_model.tokenizer.eos_id]
            earlier += questions[i] + answer


def test_there_is_one_answer_and_no_density(token_model):
    (image,) = photos(1)
    with pytest.raises(ValueError) as error:
        token_model.answer(image, KEYPOINTS, decoding="top-3")
    assert "this model answers with <KEYPOINT> (Table 17): use greedy" in one_line(error)
    with pytest.raises(ValueError) as error:
        compute_density(token_model, image, KEYPOINTS[0])
    assert "has no density (Table 17)" in one_line(error)


@pytest.fixture(scope="module")
def token_folder(token_model, model_folder, tmp_path_factory):
    """The model as a folder."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("token") / "model")
    config = copy.copy(token_model.config)
    config.vision, config.llm = "vision", "llm"
    (folder / "config.json").write_text(config.to_json())
    tensors = {name: t.contiguous() for name, t in token_model.adapter().items()}
    save_tensors(tensors, folder / "adapter.safetensors")
    return folder


def test_a_folder_keeps_the_token(token_model, token_folder):
    again = CapeLLM.from_pretrained(token_folder, merge=False)
    assert again.config.output == "token" and again.adapter().keys() == token_model.adapter().keys()
    assert all(t.equal(again.adapter()[name]) for name, t in token_model.adapter().items())


def test_sample_draws_its_answers(token_folder, tmp_path, monkeypatch):
    photo = Image.new("RGB", (40, 30), (90, 120, 30))
    photo.save(tmp_path / "x.png")
    (tmp_path / "desc.txt").write_text("".join(f"{k.name}: {k.description}\n" for k in KEYPOINTS))
    words = ["--model", token_folder, "--image", tmp_path / "x.png", "--desc", "desc.txt"]
    words += ["--json", "x.json", "--out", "x_keypoints.png", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, words)])
    sample.main()
    found = json.loads((tmp_path / "x.json").read_text())["keypoints"]
    # The crop is the square about the photo, 40 pixels a side.
    model = CapeLLM.from_pretrained(token_folder)
    answers = model.answer(model.look(photo)[0], KEYPOINTS)
    for point, (x, y) in zip(found, answers.coordinates, strict=True):
        assert point["x"] == pytest.approx(40 * x, abs=1e-3)
        assert point["y"] == pytest.approx(40 * y - 5, abs=1e-3)
