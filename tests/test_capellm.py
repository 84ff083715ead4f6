"""capellm.py: Equations 1 to 6, the loss and its gradients by hand; places in photos; folders."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

import data
from capellm import CapeLLM
from helpers import conversations, embed_sequence, keypoints, photo, photos
from support import checkpoints
from support.folders import CapeLLMConfig

QUERIES = ("query", "value")


def sum_cross_entropy(model, pixels, conversation):
    """Sum of the answer tokens' cross-entropies and their number, from the (T, vocab) logits."""
    ids, labels, _ = conversation
    Y = model.llm.logits(model.llm(embed_sequence(model, pixels, ids)))[0]
    trunk = len(Y) - len(ids)
    targets = [(trunk + i - 1, t) for i, t in enumerate(labels) if t != data.IGNORE]
    return sum(-Y[i].log_softmax(-1)[t] for i, t in targets), len(targets)


def mean_of_means(sums):
    """Of (sum, number) of each conversation: all conversations weigh the same."""
    return sum(total / n for total, n in sums) / len(sums)


@torch.inference_mode()
def test_equations_1_to_5(model):
    """The logits of the plain chain are those of the backbones, put together by hand."""
    ((ids, *_),) = conversations(model, [3])
    pixels = photos(1)
    sequence = model.sequence(model.image_tokens(pixels), torch.tensor([ids]))
    expected = embed_sequence(model, pixels[0], ids)
    torch.testing.assert_close(sequence, expected, atol=1e-6, rtol=0)
    hidden = model.llm(expected)
    head = model.llm.lm_head.weight
    torch.testing.assert_close(model(sequence), hidden @ head.T, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_equation_6(model):
    """The probability of a place is the product over its digits, each given those before it."""
    (keypoint,), pixels = keypoints(1), photos(1)[0]
    question = data.write_question(model.tokenizer, keypoint)
    (x, y), probability = model.locate_slowly(pixels, question)
    text = question + model.codec.encode(x, y)
    Y = model.llm.logits(model.llm(embed_sequence(model, pixels, text)))[0, -len(text) - 1 :]
    log_p = Y[:, model.tokenizer.digit_ids].log_softmax(-1)
    at = [len(question) + len(model.codec.open) + n for n in range(3)]
    at += [at[-1] + 1 + len(model.codec.comma) + n for n in range(3)]
    digits = [int(d) for d in f"{round(1000 * x):03}{round(1000 * y):03}"]
    assert log_p[at].argmax(-1).tolist() == digits
    expected = log_p[at, digits].sum().exp()
    assert probability == pytest.approx(float(expected), rel=1e-3)


def test_loss_and_gradients_equal_the_naive_ones(model):
    pixels = photos(3, seed=3)
    asked = conversations(model, [1, 4, 2])
    tuned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in tuned} == {"lora_A", "lora_B", "weight"}
    assert "projection.weight" in tuned
    loss, digits = model.loss(pixels, asked)
    gradients = torch.autograd.grad(loss, list(tuned.values()))
    expected = mean_of_means(
        [sum_cross_entropy(model, image, c) for image, c in zip(pixels, asked, strict=True)]
    )
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    # Where the digits stand in an answer.
    K, length = model.codec.K, len(model.codec.encode(0, 0))
    x = len(model.codec.open)
    y = x + K + len(model.codec.comma)
    places = [*range(x, x + K), *range(y, y + K)]
    only_digits = []
    for image, (ids, labels, _) in zip(pixels, asked, strict=True):
        answers = [at for at, t in enumerate(labels) if t != data.IGNORE]
        digits_at = [answers[n] for n in range(len(answers)) if n % length in places]
        labels = [t if at in digits_at else data.IGNORE for at, t in enumerate(labels)]
        only_digits.append(sum_cross_entropy(model, image, data.Conversation(ids, labels)))
    expected_digits = mean_of_means(only_digits).detach()
    torch.testing.assert_close(digits, expected_digits, atol=1e-5, rtol=1e-5)
    naive = torch.autograd.grad(expected, list(tuned.values()))
    for name, ours, theirs in zip(tuned, gradients, naive, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3, msg=name)


def test_a_loss_of_answers_only(model):
    """13 tokens a round with K = 3: [0. ddd ,0. ddd ] end, however the brackets are cut."""
    (conversation,) = conversations(model, [2])
    ids, labels, _ = conversation
    answer = len(model.codec.encode(0, 0))
    assert sum(t != data.IGNORE for t in labels) == 2 * answer
    # The words of the question carry no loss of their own.
    with torch.no_grad():
        Z = model.llm(embed_sequence(model, photos(1)[0], ids))
        every = F.cross_entropy(model.llm.logits(Z)[0, -len(ids) - 1 : -1], torch.tensor(ids))
        assert abs(every - model.loss(photos(1), [conversation]).total) > 0.01


@pytest.mark.parametrize("box", [None, (10, 20, 28, 28), (3.5, 8.25, 60, 21), (-10, -5, 40, 90)])
def test_points_lie_in_the_square_around_the_box(model, box):
    image, asked = photo(), keypoints(6)
    points = model.locate(image, asked, box)
    x, y, w, h = box or (0, 0, 90, 70)
    side = max(w, h)
    affine = data.make_affine((x, y, w, h), 28)
    answered, probabilities, _ = model.answer(data.cut_crop(image, affine, 28), asked)
    for point, (u, v), p in zip(points, answered, probabilities, strict=True):
        assert point.x == pytest.approx(x + w / 2 + (u - 0.5) * side)
        assert point.y == pytest.approx(y + h / 2 + (v - 0.5) * side)
        assert (
            0 <= u < 1
            and 0 <= v < 1
            and 0 < point.probability <= 1
            and point.probability == pytest.approx(p, rel=1e-5)
        )


@pytest.mark.parametrize("dx, dy", [(5, 0), (13, 31)])
def test_points_move_with_the_box(model, dx, dy):
    image, asked, box = photo(), keypoints(6), (12, 9, 40, 32)
    wider = Image.new("RGB", (150, 140), "red")
    wider.paste(image, (dx, dy))
    points, moved = (
        model.locate(image, asked, box),
        model.locate(wider, asked, (box[0] + dx, box[1] + dy, *box[2:])),
    )
    np.testing.assert_allclose(np.array(moved), np.array(points) + [dx, dy, 0, 0], atol=1e-3)


@pytest.mark.parametrize("n", [2, 3])
def test_points_grow_with_the_image(model, n):
    image, asked, box = photo(), keypoints(6), (12, 9, 28, 28)
    large = image.resize((90 * n, 70 * n), Image.Resampling.NEAREST)
    points, grown = (
        model.locate(image, asked, box),
        model.locate(large, asked, tuple(n * b for b in box)),
    )
    np.testing.assert_allclose(np.array(grown), np.array(points) * [n, n, 1, n], atol=1e-3)


def test_any_mode_of_image(model):
    image, asked = photo().convert("L"), keypoints(2)
    assert model.locate(image, asked) == model.locate(image.convert("RGB"), asked)


@pytest.fixture
def folder(model, model_folder, tmp_path):
    """Random adapters as a training run writes them, of a size that suits fresh backbones."""
    saved = CapeLLM.from_pretrained(model_folder, merge=False)
    saved.load_state_dict(
        {n: 0.3 * t for n, t in model.state_dict().items() if n in saved.adapter()}, strict=False
    )
    checkpoints.write_checkpoint(
        tmp_path / "run", saved.config, saved.adapter(), {"optimiser": {}, "random": torch.zeros(1)}
    )
    return tmp_path / "run"


def test_written_and_read_again_bit_by_bit(folder, model, model_folder, tmp_path):
    again = CapeLLM.from_pretrained(folder, merge=False)
    tuned = {n: 0.3 * t for n, t in model.adapter().items()}
    assert again.adapter().keys() == tuned.keys() and all(
        torch.equal(t, tuned[n]) for n, t in again.adapter().items()
    )
    plain = CapeLLM.from_pretrained(model_folder, merge=False).state_dict()
    frozen = {n: t for n, t in again.state_dict().items() if n not in tuned}
    assert frozen and all(torch.equal(t, plain[n]) for n, t in frozen.items())
    # A checkpoint finds its backbones wherever it lies.
    backbones = {b: str(model_folder / b) for b in ("vision", "llm")}
    config = json.loads((model_folder / "config.json").read_text())
    assert asdict(again.config) == config | backbones and not again.training
    checkpoints.write_checkpoint(
        tmp_path / "again",
        again.config,
        again.adapter(),
        {"optimiser": {}, "random": torch.zeros(1)},
    )
    assert (tmp_path / "again" / "adapter.safetensors").read_bytes() == (
        folder / "adapter.safetensors"
    ).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "again",
        "run",
    ]  # nothing half-written is left
    (tmp_path / "plain").touch()
    assert {p.stat().st_mode for p in folder.iterdir()} == {
        (tmp_path / "plain").stat().st_mode
    }  # colleagues may read it, too


def read(model, ids):
    """Hidden states of one conversation about the first of the photos."""
    V = model.image_tokens(photos(1))
    return model.llm(model.sequence(V, torch.tensor([ids])))


@torch.inference_mode()
def test_merged_equals_unmerged(folder):
    merged, unmerged = CapeLLM.from_pretrained(folder), CapeLLM.from_pretrained(folder, merge=False)
    assert not any("lora_" in n for n, _ in merged.named_parameters())
    lora, weights = unmerged.config.lora, dict(merged.named_parameters())
    layers = [n.removesuffix(".lora_A") for n in unmerged.adapter() if n.endswith(".lora_A")]
    assert len(layers) == 2 * (2 + 2)  # query and value of two layers each
    for layer in layers:
        adapted = unmerged.get_submodule(layer)
        expected = (
            adapted.base.weight.double()
            + lora["alpha"] / lora["rank"] * adapted.lora_B.double() @ adapted.lora_A.double()
        )
        torch.testing.assert_close(weights[f"{layer}.weight"].double(), expected, atol=1e-5, rtol=0)
    ((ids, *_),) = conversations(merged, [2])
    found, expected = read(merged, ids), read(unmerged, ids)
    # Its large random weights amplify the last bits.
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    for name, p in unmerged.named_parameters():
        p.mul_("lora_" not in name)
    # Without the adapters it is another model.
    assert (read(unmerged, ids) - expected).abs().max() > 0.1


def test_backbones_beside_the_config(folder, model_folder, tmp_path):
    pixels, asked = photos(1)[0], keypoints(2)
    expected = CapeLLM.from_pretrained(folder).answer(pixels, asked)
    for backbone in ("vision", "llm"):
        shutil.copytree(model_folder / backbone, folder / "inside" / backbone)
    configure(folder, vision="inside/vision", llm="inside/llm")
    moved = folder.rename(tmp_path / "moved")
    assert CapeLLM.from_pretrained(moved).answer(pixels, asked) == expected


def edit(folder, change):
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def configure(folder, **changes):
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | changes)
    )


LORA = "llm.model.layers.1.self_attn.v_proj.lora_B"


@pytest.mark.parametrize(
    "damage, kind, message",
    [
        (lambda f: edit(f, lambda t: t.pop(LORA)), ValueError, f"{LORA} is missing"),
        (
            lambda f: edit(f, lambda t: t.update(extra=torch.ones(1))),
            ValueError,
            "extra is not expected",
        ),
        (
            lambda f: edit(f, lambda t: t.update({"projection.weight": torch.ones(3, 4)})),
            ValueError,
            r"shape of projection.weight is \(3, 4\)",
        ),
        (
            lambda f: (f / "adapter.safetensors").write_bytes(
                (f / "adapter.safetensors").read_bytes()[:-10]
            ),
            ValueError,
            "is not a whole safetensors file",
        ),
        (
            lambda f: (f / "adapter.safetensors").write_bytes(b""),
            ValueError,
            "is not a whole safetensors file",
        ),
        (
            lambda f: (f / "adapter.safetensors").unlink(),
            FileNotFoundError,
            "adapter.safetensors is missing",
        ),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json: this is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "this is .*, not an object"),
        (lambda f: (f / "config.json").write_text("{}"), ValueError, "config.json cannot be read"),
        (
            lambda f: configure(f, llm="nowhere/llm"),
            FileNotFoundError,
            "config.json says that llm is in .*nowhere/llm",
        ),
    ],
)
def test_folders_that_are_refused(folder, damage, kind, message):
    damage(folder)
    with pytest.raises(kind, match=message) as error:
        CapeLLM.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("nowhere", "file"):
        with pytest.raises(FileNotFoundError, match=f"{folder} is no model folder"):
            CapeLLM.from_pretrained(tmp_path / folder)


def test_three_digit_tokens_need_such_a_vocabulary(folder):
    configure(folder, K=1)
    with pytest.raises(ValueError, match="K = 1 tokens with this tokenizer; use K = 3"):
        CapeLLM.from_pretrained(folder)


def test_what_a_model_folder_holds(model_folder):
    """The projection and the adapters of query and value alone; all weights, if all are trained."""
    model = CapeLLM.from_pretrained(model_folder, merge=False)
    names = {"projection.weight"}
    for side in ("lora_A", "lora_B"):
        for n in range(2):
            names |= {f"vision.encoder.layer.{n}.attention.attention.{q}.{side}" for q in QUERIES}
            names |= {f"llm.model.layers.{n}.self_attn.{q}.{side}" for q in ("q_proj", "v_proj")}
    assert model.adapter().keys() == names
    every_name = {name for name, _ in model.named_parameters()}
    model.config.whole = ["vision"]
    of_vision = {name for name in every_name if name.startswith("vision.")}
    assert model.adapter().keys() == names | of_vision
    model.config.whole = ["vision", "llm"]
    assert model.adapter().keys() == every_name


def test_a_new_projection_keeps_the_features_size(model_folder):
    """A random W_proj preserves the variance: V is neither nothing nor everything."""
    torch.manual_seed(0)
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "parts": ["vision", "llm"]}
    folders = str(model_folder / "vision"), str(model_folder / "llm")
    new = CapeLLM.assemble(CapeLLMConfig(*folders, 28, lora=lora))
    features = torch.randn(1000, new.projection.in_features)
    assert float(new.projection(features).detach().std()) == pytest.approx(1, rel=0.1)
    assert all(bool((t == 0).all()) == n.endswith("lora_B") for n, t in new.adapter().items())


@pytest.mark.parametrize("instruction", ["list", "steps", "names", "replaced", "diverse"])
def test_answers_follow_the_models_instruction(model_folder, instruction):
    """Greedy digits behind the conversation that training would show, a full pass a digit."""
    model = CapeLLM.from_pretrained(model_folder)
    model.config.instruction = instruction
    pixels = torch.randn(3, 28, 28)
    listed = [
        data.Keypoint("nose", "The tip."),
        data.Keypoint("tail", "The end."),
        data.Keypoint("ear", ""),
    ]
    asked = [listed[2], listed[0]]
    coordinates, probability, _ = model.answer(pixels, asked, category="grey_cat", listed=listed)
    for keypoint, found, p in zip(asked, coordinates, probability, strict=True):
        ids, *_ = data.write_conversation(
            model.tokenizer, model.codec, [(keypoint, found)], instruction, "grey_cat", listed
        )
        with torch.no_grad():
            Z = model.llm(model.sequence(model.image_tokens(pixels[None]), torch.tensor([ids])))
            log_p = model.llm.logits(Z[0], torch.tensor(model.codec.ids)).log_softmax(-1)
        x = len(ids) - len(model.codec.encode(0, 0)) + len(model.codec.open)
        places = [i + n for i in (x, x + 3 + len(model.codec.comma)) for n in range(3)]
        best = log_p[[5 + i - 1 for i in places]].max(-1)  # behind a trunk of 1 + 4 tokens
        assert [model.codec.ids[d] for d in best.indices] == [ids[i] for i in places]
        assert best.values.sum().exp().item() == pytest.approx(p, rel=1e-4)
