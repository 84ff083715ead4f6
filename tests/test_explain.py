"""What `sample.py --explain` shows is what the model does: attention, tree and digits."""

import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import data
import decode
import sample
from capellm import CapeLLM
from helpers import keypoints, photo
from study import density, explain, figure5, keypoint_token
from support import launch

NAMES = ("left eye", "right eye", "nose tip", "left ear")


@pytest.fixture(scope="module")
def listed():
    return [data.Keypoint(name, f"where the {name} is") for name in NAMES]


@pytest.fixture(scope="module")
def found(model, listed):
    model.eval()
    return explain.explain_keypoint(model, photo(), (5, 5, 60, 40), listed[0], listed)


def test_the_weights_reproduce_the_output_of_each_layer(model):
    """softmax(q k^T) v through o_proj is what the fast path gives for the last token."""
    torch.manual_seed(1)
    x = torch.randn(1, 9, model.llm.config.hidden_size)
    values, outputs, handles = [], [], []

    def note(attention, arguments, output):
        values.append(attention.v_proj(arguments[0]).unflatten(2, (-1, attention.head_dim)))
        outputs.append(output[0, -1])

    for layer in model.llm.model.layers:
        handles.append(layer.self_attn.register_forward_hook(note))
    with torch.no_grad():
        weights = explain.read_attention(model, x)
        for handle in handles:
            handle.remove()
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]))
        layers = model.llm.model.layers
        for layer, w, v, output in zip(layers, weights, values, outputs, strict=True):
            group = len(w) // v.shape[2]
            v = v[0].repeat_interleave(group, 1)  # (S, H, d)
            y = torch.einsum("hs,shd->hd", w, v).flatten()
            assert torch.allclose(layer.self_attn.o_proj(y), output, atol=1e-5)
    assert not any(layer.self_attn._forward_pre_hooks for layer in layers)


def test_hooks_are_gone_after_an_error(model):
    with pytest.raises(RuntimeError):
        explain.read_attention(model, torch.zeros(1, 3, 5))
    assert not any(layer.self_attn._forward_pre_hooks for layer in model.llm.model.layers)


def test_heat_is_the_attention_to_patches():
    weights = torch.zeros(2, 3, 7)  # layers, heads, [BOS; V; T] of four patches
    weights[0, :, 0] = 1
    weights[1, :, 2] = 0.5
    weights[1, 0, 4] = 0.3
    heat = explain.make_heat("x", weights, 4)
    expected = [[[0, 0], [0, 0]], [[0, 0.5], [0, 0.1]]]
    assert torch.allclose(heat.weights, torch.tensor(expected))
    assert heat.share.tolist() == pytest.approx([0, 0.6])
    assert explain.find_centre(heat.weights[1]) == pytest.approx((0.75, (0.125 + 0.075) / 0.6))
    other = explain.Heat("y", heat.weights.flip(2), heat.share)
    assert explain.measure_shifts([heat, other])[1] == pytest.approx(0.5)


def test_the_mirror_is_the_same_name_on_the_other_side(listed):
    assert explain.find_mirror(listed[0], listed) is listed[1]
    assert explain.find_mirror(listed[1], listed) is listed[0]
    assert explain.find_mirror(listed[2], listed) is None
    # There is no right ear.
    assert explain.find_mirror(listed[3], listed) is None
    both = [data.Keypoint(name, "") for name in ("leftover left", "leftover right")]
    assert explain.find_mirror(both[0], both) is both[1]


def test_the_answer_and_its_digits_are_the_models(model, found, listed):
    answers = model.answer(found.pixels, listed)
    assert found.place == answers.coordinates[0]
    product = math.prod(float(p[d]) for p, d in zip(found.p, found.digits, strict=True))
    assert product == pytest.approx(answers.probabilities[0], rel=1e-5)
    at = density.find_cell(found.place)
    assert float(found.density[at]) == pytest.approx(product, rel=1e-3)
    assert [heat.name for heat in found.heats] == ["left eye", "right eye"]


def test_the_tree_is_the_one_that_the_model_reads(model, found, listed):
    """A token sees its ancestors; read at once under the matrix, it says what it said alone."""
    tree = found.tree
    assert tree.names == list(NAMES[:3])
    assert torch.equal(tree.matrix.sum(1) - 1, tree.positions)
    for n in range(3):
        own = tree.branch == n
        assert not tree.matrix[own][:, (tree.branch >= 0) & ~own].any()
        assert tree.matrix[own][:, tree.branch == -1].all()
        # A branch is a chain.
        assert torch.equal(tree.matrix[own][:, own], torch.ones(own.sum(), own.sum()).tril().bool())
    # The digits of the answers stand in the corner, all but the last.
    answers = model.answer(found.pixels, listed[:3]).coordinates
    K, corner = model.codec.K, tree.digits // 3
    for n, place in enumerate(answers):
        digits = [digit for value in place for digit in model.codec.digits(value)]
        own = (tree.branch[tree.trunk :] == n).nonzero()[:, 0].tolist()
        texts = [tree.tokens[i] for i in own]
        shown = "".join(texts[-corner:]).replace(" ", "")
        comma = model.tokenizer.decode(model.codec.comma).replace(" ", "")
        first, last = "".join(map(str, digits[:K])), "".join(map(str, digits[K:-1]))
        assert shown == f"{first}{comma}{last}"


def test_a_tree_read_at_once_decides_as_the_forest_does(model, found, listed):
    """Its matrix and positions as mask and positions of one pass give the last digits."""
    tree, codec = found.tree, model.codec
    with torch.no_grad():
        (V,) = model.image_tokens(found.pixels[None])
        trunk, questions = model.prepare_questions(V, listed[:3])
        common = explain.find_common(questions)
        ids = list(common)
        for question in questions:
            ids += question[len(common) :]
        answers = [[d for v in place for d in codec.digits(v)]
                   for place in model.answer(found.pixels, listed[:3]).coordinates]
        for step in range(2 * codec.K - 1):
            for answer in answers:
                ids += [codec.ids[answer[step]]] + (codec.comma if step == codec.K - 1 else [])
        x = torch.cat([trunk, model.llm.embed(torch.tensor(ids))])[None]
        Z = model.llm(x, tree.positions[None], tree.matrix[None, None])[0]
        for n, answer in enumerate(answers):
            end = int((tree.branch == n).nonzero()[-1])
            log_p = decode.compute_log_p(model, Z[end][None])[0]
            assert int(log_p.argmax()) == answer[-1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_number_of_keypoints_is_drawn(model, count):
    listed = keypoints(count, seed=3)
    box = (-10, 20, 200, 30)
    found = explain.explain_keypoint(model.eval(), photo(), box, listed[-1], listed)
    assert len(found.tree.names) == min(count, 3) and found.tree.names[0] == listed[-1].name
    page = explain.draw_page(found)
    assert page.width == explain.WIDTH and page.mode == "RGB"
    for draw in explain.STEPS.values():
        assert draw(found).width == explain.WIDTH


def test_one_digit_of_a_thousand_is_drawn_too(model3):
    listed = keypoints(2)
    found = explain.explain_keypoint(model3, photo(), (0, 0, 90, 70), listed[0], listed)
    assert found.p.shape == (2, 1000) and len(found.digits) == 2
    assert explain.draw_page(found).width == explain.WIDTH


def test_heat_is_drawn_where_the_weights_are(found):
    """The photo is grey, so colour is heat."""
    side = len(found.heats[0].weights[0])
    weights = torch.zeros_like(found.heats[0].weights)
    weights[-1, 0, side - 1] = 1
    heat = explain.Heat("x", weights, weights.sum((1, 2)))
    grey = found._replace(photo=Image.new("RGB", (90, 70), "grey"), heats=[heat, heat])
    weights[:-1] = 1e-9
    picture = np.asarray(explain.draw_heats(grey), float)
    layers = min(explain.LAYERS, len(weights))
    width = (explain.WIDTH - (explain.LAYERS + 1) * explain.GAP) // explain.LAYERS
    left = explain.GAP + (layers - 1) * (width + explain.GAP)
    crop = picture[explain.HEAD : explain.HEAD + width, left : left + width]
    warm = np.argwhere(crop[..., 0] - crop[..., 2] > 40).mean(0) / width
    assert warm == pytest.approx([0.5 / side, 1 - 0.5 / side], abs=0.03)


def test_the_cross_stands_at_the_answer(found):
    """In the crop of step 1."""
    here, there = found._replace(place=[0.25, 0.75]), found._replace(place=[0.6, 0.1])
    pages = [np.asarray(explain.draw_crop(one), float) for one in (here, there)]
    left = 2 * explain.GAP + explain.PANEL
    differs = (pages[0] != pages[1]).any(2)[explain.HEAD : explain.HEAD + explain.PANEL, left:]
    rows, columns = np.nonzero(differs)
    for x, y in ((0.25, 0.75), (0.6, 0.1)):
        near = np.hypot(columns - x * explain.PANEL, rows - y * explain.PANEL) < 22
        assert near.sum() > 50
        middle = (columns[near].mean(), rows[near].mean())
        assert middle == pytest.approx((x * explain.PANEL, y * explain.PANEL), abs=1.5)


@pytest.fixture
def work(tmp_path, monkeypatch, listed):
    photo().save(tmp_path / "x.png")
    lines = [f"{k.name}: {k.description}" for k in listed]
    (tmp_path / "d.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, model_folder, *arguments):
    argv = ["sample.py", "--image", "x.png", "--desc", "d.txt", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*argv, "--model", str(model_folder), *arguments])
    sample.main()


def test_picture_lines_and_json_of_the_command(work, model_folder, listed, monkeypatch, capsys):
    call(monkeypatch, model_folder, "--explain", "left eye", "--box=5,5,60,40", "--json", "x.json")
    out = capsys.readouterr().out
    model = CapeLLM.from_pretrained(model_folder)
    found = explain.explain_keypoint(model, photo(), (5, 5, 60, 40), listed[0], listed)
    with Image.open(work / "out" / "x_explained.png") as picture:
        assert np.array_equal(picture, explain.draw_page(found))
    numbers = json.loads((work / "x.json").read_text())
    ((x, y),) = figure5.find_in_image([found.place], (5, 5, 60, 40))
    assert numbers["greedy"] == pytest.approx([x, y])
    assert numbers["digits"] == found.digits
    assert set(numbers["attention on the image, by layer"]) == {"left eye", "right eye"}
    assert f"left eye: x {x:.1f}, y {y:.1f}" in out and "asked for right eye" in out
    call(monkeypatch, model_folder, "--explain", "nose tip", "--out", "y.png")
    assert (work / "y.png").is_file() and "asked for" not in capsys.readouterr().out


def test_a_model_with_a_keypoint_token_is_refused(work, model_folder, monkeypatch, capsys, listed):
    with pytest.raises(ValueError, match="<KEYPOINT> has no digits to explain"):
        token = SimpleNamespace(config=SimpleNamespace(output="token"))
        explain.explain_keypoint(token, photo(), (0, 0, 9, 9), listed[0], listed)
    model = CapeLLM.from_pretrained(model_folder, merge=False)
    keypoint_token.add_token(model)
    folder = shutil.copytree(model_folder, work / "token")
    (folder / "config.json").write_text(model.config.to_json())
    tensors = {name: tensor.contiguous() for name, tensor in model.adapter().items()}
    save_file(tensors, folder / "adapter.safetensors")
    with pytest.raises(SystemExit) as end:
        launch.run("sample.py", lambda: call(monkeypatch, folder, "--explain", "left eye"))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and "<KEYPOINT>" in error
    assert not (work / "out").exists()
