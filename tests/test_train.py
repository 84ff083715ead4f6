"""train.py on a tiny data folder.

Its first step by hand, runs interrupted and killed, alone and as four processes, and what it
refuses.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import data
import eval as evaluation
import train
from capellm import CapeLLM
from damage import OTHERS, make_special
from helpers import LLAMA3
from lora import LoRALinear, merge_lora
from skirts import write_skirts
from study import metrics
from study.coverage import measure_coverage
from study.images import choose_images
from support import batches, checkpoints, determinism, launch, train_options
from support.descriptions import describe_categories
from support.files import ROOT
from support.folders import CapeLLMConfig
from support.optimisers import choose_matrices
from support.radius import LEVEL

# Runs are compared bit by bit.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_skirts(folder)
    return folder


@pytest.fixture(scope="module")
def init(model_folder, tmp_path_factory):
    """Model folders by their LoRA dropout."""
    copies = {}
    for dropout in (0.0, 0.3):
        target = shutil.copytree(model_folder, tmp_path_factory.mktemp("init") / "model")
        config = json.loads((target / "config.json").read_text())
        config["lora"]["dropout"] = dropout
        (target / "config.json").write_text(json.dumps(config))
        copies[dropout] = target
    return copies


@contextmanager
def keep_signals():
    """train.py takes SIGTERM and Ctrl-C for itself; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command(folder, start, out, **options):
    """The options of a run of 6 steps of 8 pairs, but for `options`; True is a flag, None is no
    option."""
    few = {"batch": 8, "workers": 0, "steps": 6}
    folders = {"data": folder, "init": start, "descriptions": folder, "out": out}
    words = []
    for name, value in (folders | few | options).items():
        if value is None:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


def run(monkeypatch, *arguments, **options):
    run_main(monkeypatch, command(*arguments, **options))


def run_main(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with keep_signals():
        train.main()


def load_adapters(out):
    """{step: tensors} of a run's checkpoints."""
    found = {}
    for folder in checkpoints.list_checkpoints(out):
        step = int(folder.name.removeprefix("step-"))
        found[step] = load_file(folder / "adapter.safetensors")
    return found


def read_log(out):
    """log.jsonl, every line whole."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def are_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


@pytest.mark.parametrize("steps", [2, 10, 100, 1234])
def test_schedule(steps):
    factors = [train.scale_lr(step, steps) for step in range(steps)]
    warm = max(1, round(0.03 * steps))
    assert factors[:warm] == [(i + 1) / warm for i in range(warm)] and max(factors) == 1
    assert train.scale_lr(steps, steps) == pytest.approx(0, abs=1e-12)
    rest = np.array([train.scale_lr(step, steps) for step in range(warm, steps + 1)])
    assert (np.diff(rest) < 0).all()
    # Half a cosine is odd about its middle, and flat at its ends.
    np.testing.assert_allclose(rest + rest[::-1], 1, atol=1e-12)
    if len(rest) > 4:
        middle = len(rest) // 2
        assert rest[0] - rest[1] < rest[middle - 1] - rest[middle]


# Runs.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rounds": "dynamic", "micro_batch": 3},
        {"share_image": True, "micro_batch": 3},
        {"output_format": "token", "tune": "full", "micro_batch": 3},
        {"optimiser": "muon", "tune": "everything", "augmentation": "wide", "micro_batch": 3},
    ],
    ids=["fixed", "dynamic", "shared", "token", "muon"],
)
def test_resumed_equals_uninterrupted(folder, init, tmp_path, monkeypatch, options):
    """Bit by bit, within an epoch and across its end, with augmentation and with dropout, and
    whoever loads the images."""
    options["save_every"] = 2
    run(monkeypatch, folder, init[0.3], tmp_path / "whole", **options)
    whole = load_adapters(tmp_path / "whole")
    assert sorted(whole) == [2, 4, 6] and not are_equal(whole[4], whole[6])
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(cut / "step-0000006")
    # What a crash may leave.
    (cut / "step-0000006.partial").mkdir()
    with open(cut / "log.jsonl", "a") as log:
        log.write('{"step": 7, "lo')
    torch.manual_seed(1234)
    run(monkeypatch, folder, init[0.3], cut, workers=1, resume=True, **options)
    assert are_equal(load_adapters(cut)[6], whole[6])

    states, logs = [], []
    for out in (tmp_path / "whole", cut):
        states.append(load_file(out / "step-0000006" / "state.safetensors"))
        logs.append([[r[key] for key in ("step", "loss", "digits", "lr")] for r in read_log(out)])
    assert are_equal(*states)
    # The random state; the number of steps and two moments for each parameter, or a momentum.
    by_muon = choose_matrices(whole[6]) if options.get("optimiser") == "muon" else {}
    assert len(states[0]) == 1 + 3 * len(whole[6]) - 2 * len(by_muon)
    assert logs[0] == logs[1]
    assert [step for step, *_ in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert [lr for *_, lr in logs[0]] == [5e-4 * train.scale_lr(i, 6) for i in range(6)]


@pytest.mark.parametrize(
    "scores, error, best, kept",
    [
        # 0.5 again: the later one is the best.
        ([0.1, 0.5, 0.2, 0.3, 0.5, 0.1], 0.0, 5, [4, 5, 6]),
        ([0.1, 0.5, 0.2, 0.3, 0.4, 0.1], 0.0, 2, [2, 4, 5, 6]),
        # Nor is the third worse than the second, as far as one can tell.
        ([0.1, 0.5, 0.45, 0.2, 0.3, 0.1], 0.1, 3, [3, 4, 5, 6]),
    ],
)
def test_the_newest_checkpoints_and_the_best_are_kept(
    folder, init, tmp_path, monkeypatch, capsys, scores, error, best, kept
):
    left, out = iter(scores), tmp_path / "out"
    others = {"standard_error": error, "PCK@0.05": 0.0, "PCK@0.20": 0.0}
    monkeypatch.setattr(train, "validate", lambda *_: {"mPCK": next(left)} | others)
    run(monkeypatch, folder, init[0.0], out, save_every=1, val_every=1, batch=2)
    assert sorted(load_adapters(out)) == kept and checkpoints.KEEP == 3
    names = {p.name for p in out.iterdir()}
    assert names == {"log.jsonl", "curves.png", *(f"step-000000{i}" for i in kept)}
    # A checkpoint is a model folder.
    CapeLLM.from_pretrained(out / "step-0000006")
    shown = f"mPCK {100 * scores[best - 1]:.1f} ± {100 * error:.1f} on validation"
    assert f"best: {out}/step-{best:07d}, {shown}" in capsys.readouterr().out


def test_the_best_is_the_latest_within_a_standard_error():
    """Of the highest; where errors are none, the highest, and of equal ones the latest."""
    rng = np.random.default_rng(0)
    for error in [0.0, 0.1, 0.3] * 30:
        scores, best = rng.integers(0, 10, 8) / 10, None
        for step, score in enumerate(scores):
            val = {"mPCK": score, "standard_error": error}
            best = train_options.choose_best(best, val, step)
        near = [step for step, score in enumerate(scores) if score >= scores.max() - error]
        assert best == [scores.max() - error, near[-1]]


def record_models(monkeypatch):
    """A list of the models that train.py will open."""
    models, original = [], train.open_model

    def open_model(*arguments, **options):
        models.append(original(*arguments, **options))
        return models[-1]

    monkeypatch.setattr(train, "open_model", open_model)
    return models


# Table 15, and everything: what is trained of the vision encoder and of the language model.
TUNED = {
    "lora": ("adapters", "adapters"),
    "frozen": ("nothing", "adapters"),
    "full": ("whole", "adapters"),
    "everything": ("whole", "whole"),
}


def prepare(init, tune):
    """A model folder's model, adapters folded into what is trained in whole, and all its names."""
    start = CapeLLM.from_pretrained(init, merge=False)
    for part, how in zip(("vision", "llm"), TUNED[tune], strict=True):
        if how == "whole":
            merge_lora(getattr(start, part))
    return start, {name for name, _ in start.named_parameters()}


def list_tuned(names, tune):
    """Those of a model's names that are trained (Table 15)."""
    tuned = {"projection.weight"}
    for part, how in zip(("vision.", "llm."), TUNED[tune], strict=True):
        of_part = {name for name in names if name.startswith(part)}
        adapters = {name for name in of_part if ".lora_" in name}
        tuned |= {"nothing": set(), "adapters": adapters, "whole": of_part}[how]
    return tuned


@pytest.mark.parametrize(
    "tune, clip", [("lora", 1.0), ("lora", 0), ("frozen", 1.0), ("full", 0.1), ("everything", 1.0)]
)
def test_the_first_step_is_adamw_by_hand(folder, init, tmp_path, monkeypatch, tune, clip):
    """p (1 - lr decay) - lr g / (|g| + eps) on what is trained (Table 15), with weight decay 0.01
    on matrices; the rest to the last bit. The gradients' norm is clipped."""
    models, checkpoint = record_models(monkeypatch), tmp_path / "out" / "step-0000001"
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1, tune=tune, clip=clip)
    trained, (start, names) = models[0], prepare(init[0.0], tune)
    tuned = list_tuned(names, tune)
    saved = load_file(checkpoint / "adapter.safetensors")
    # Frozen adapters are saved, too.
    adapters = {name for name in names if ".lora_" in name}
    assert saved.keys() == tuned | adapters
    before, after = start.state_dict(), trained.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in tuned)

    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    pairs = data.Pairs(instances, described, start.tokenizer, start.codec, 28)
    assert len(pairs) == 26
    start.requires_grad_(True)
    # The mean over pairs of each pair's mean over tokens.
    for i in range(8):
        loss = start.loss(pairs[i].pixels[None], [pairs[i].conversation]).total
        (loss / 8).backward()
    square = sum(float(start.get_parameter(name).grad.square().sum()) for name in tuned)
    # These gradients are long: clipping shortens them.
    assert square**0.5 > 1
    scale = clip / square**0.5 if clip else 1.0
    (line,) = (checkpoint.parent / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["gradient"] == pytest.approx(square**0.5, rel=1e-4)
    state = load_file(checkpoint / "state.safetensors")
    moved = 0
    for name, p in start.named_parameters():
        if name not in tuned:
            continue
        decay = 0.01 if p.dim() > 1 else 0.0
        # AdamW's first moment is a tenth of the first gradient.
        g = scale * p.grad
        torch.testing.assert_close(state[f"{name}/exp_avg"], 0.1 * g, atol=1e-5 * scale, rtol=1e-3)
        expected = p.detach() * (1 - 5e-4 * decay) - 5e-4 * g / (g.abs() + 1e-8)
        # Where rounding cannot turn the sign.
        clear = (g.abs() > 1e-6) | (g == 0)
        torch.testing.assert_close(after[name][clear], expected[clear], atol=2e-5, rtol=0)
        assert torch.equal(saved[name], after[name])
        moved += int((clear & (p.grad != 0)).sum())
    assert moved > 1000

    assert {name.rpartition("/")[0] for name in state} - {""} == tuned
    keypoints = data.read_descriptions(folder / "skirt.txt")[:3]
    model = CapeLLM.from_pretrained(checkpoint, merge=False)
    pixels = pairs[0].pixels
    assert model.answer(pixels, keypoints) == trained.eval().answer(pixels, keypoints)


@pytest.mark.parametrize(
    "rounds, k, expected", [("fixed", None, 4), ("locllm", None, 5), ("locllm", 3, 3)]
)
def test_a_run_remembers_how_it_was_trained(
    folder, init, tmp_path, monkeypatch, rounds, k, expected
):
    """And locllm has five rounds, as LocLLM's code."""
    more = {"k": k} if k else {}
    out = tmp_path / "out"
    run(monkeypatch, folder, init[0.0], out, steps=1, rounds=rounds, instruction="names", **more)
    trained = json.loads((out / "step-0000001" / "config.json").read_text())["trained"]
    assert trained == {
        "split": 1,
        "rounds": rounds,
        "k": expected,
        "tune": "lora",
        "instruction": "names",
        "descriptions": str(folder),
        "first": None,
    }
    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    model = CapeLLM.from_pretrained(init[0.0])
    pairs = data.Pairs(
        instances, described, model.tokenizer, model.codec, 28, k=expected, rounds=rounds
    )
    lengths = {len(group) for _, group, _ in pairs.plans}
    # The skirts have 8 keypoints.
    assert max(lengths) == expected


def test_texts_of_the_project_are_remembered_by_their_place_in_it(monkeypatch, tmp_path):
    """So that they are known where the project lies elsewhere."""
    config = CapeLLMConfig("vision", "llm")
    options = argparse.Namespace(split=1, rounds="fixed", k=4, tune="lora", instruction="base")
    monkeypatch.chdir(train_options.DESCRIPTIONS)
    for folder, name in (("vague", "descriptions/vague"), (tmp_path, str(tmp_path.resolve()))):
        options.descriptions = str(folder)
        assert train_options.describe_training(options, config)["descriptions"] == name


def test_pretraining_is_remembered(folder, init, tmp_path, monkeypatch):
    """Table 18: what trained the projection first."""
    first = tmp_path / "first" / "step-0000001"
    run(monkeypatch, folder, init[0.0], first.parent, steps=1, instruction="direct-qa")
    run(monkeypatch, folder, first, tmp_path / "out", steps=1)
    run(monkeypatch, folder, tmp_path / "out" / "step-0000001", tmp_path / "again", steps=1)
    for name in ("out", "again"):
        config = json.loads((tmp_path / name / "step-0000001" / "config.json").read_text())
        assert config["trained"]["first"] == "direct-qa" and config["instruction"] == "base"


@pytest.fixture(scope="module")
def llama3(model_folder, tmp_path_factory):
    """A model folder on the vocabulary of Llama 3, which has all three-digit numbers."""
    target = shutil.copytree(model_folder, tmp_path_factory.mktemp("llama3") / "model")
    llm = target / "llm"
    (llm / "tokenizer.model").unlink()
    shutil.copy(LLAMA3, llm / "tokenizer.model")
    config = json.loads((llm / "config.json").read_text()) | {"vocab_size": 128256}
    (llm / "config.json").write_text(json.dumps(config))
    own = json.loads((target / "config.json").read_text()) | {"vocabulary": None}
    (target / "config.json").write_text(json.dumps(own))
    tensors = load_file(llm / "model.safetensors")
    torch.manual_seed(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.randn(128256, 32)
    save_file(tensors, llm / "model.safetensors")
    return target


def test_one_token_a_coordinate(folder, llama3, tmp_path, monkeypatch):
    """--digits 1: the paper's numbers. The folder remembers it, and answers alike."""
    out = tmp_path / "out"
    models = record_models(monkeypatch)
    run(monkeypatch, folder, llama3, out, steps=1, batch=2, digits=1)
    (trained,) = models
    model = CapeLLM.from_pretrained(out / "step-0000001", merge=False)
    assert model.config.K == model.codec.K == 1 and model.codec.base == 1000
    keypoints = data.read_descriptions(folder / "skirt.txt")[:3]
    pixels = torch.randn(3, 28, 28)
    assert model.answer(pixels, keypoints) == trained.eval().answer(pixels, keypoints)
    ids = data.write_conversation(model.tokenizer, model.codec, [(keypoints[0], (0.25, 0.5))]).ids
    assert model.tokenizer.decode(ids[:-1]).endswith("[0.250,0.500]")
    # A number is one token.
    assert {model.tokenizer.decode([id]) for id in ids} >= {"250", "500"}
    # Going on keeps it; three digits can be asked for.
    run(monkeypatch, folder, out / "step-0000001", tmp_path / "more", steps=1, batch=2)
    run(monkeypatch, folder, out / "step-0000001", tmp_path / "three", steps=1, batch=2, digits=3)
    kept = [
        CapeLLM.from_pretrained(tmp_path / name / "step-0000001").config.K
        for name in ("more", "three")
    ]
    assert kept == [1, 3]


def list_dropouts(module):
    return {m.dropout for m in module.modules() if isinstance(m, LoRALinear)}


def test_adapters_come_and_go_with_tune(folder, init, tmp_path, monkeypatch):
    """Frozen, what the vision encoder has of adapters answers without dropout; where it has none,
    --tune lora adds them."""
    models = record_models(monkeypatch)
    run(monkeypatch, folder, init[0.3], tmp_path / "frozen", steps=1, tune="frozen")
    assert list_dropouts(models[0].vision) == {0.0} and list_dropouts(models[0].llm) == {0.3}
    bare = shutil.copytree(init[0.0], tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    config["lora"]["parts"] = ["llm"]
    (bare / "config.json").write_text(json.dumps(config))
    all_adapters = load_file(bare / "adapter.safetensors")
    without = {n: t for n, t in all_adapters.items() if not n.startswith("vision.")}
    save_file(without, bare / "adapter.safetensors")
    run(monkeypatch, folder, bare, tmp_path / "lora", steps=1)
    saved = load_adapters(tmp_path / "lora")[1]
    assert saved.keys() == all_adapters.keys() > without.keys()
    # lora_B, too, has moved from zero.
    assert all(tensor.any() for name, tensor in saved.items() if name.startswith("vision."))
    CapeLLM.from_pretrained(tmp_path / "lora" / "step-0000001")


def launch_processes(processes, *arguments, script=ROOT / "train.py", **options):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", str(processes), str(script)]
    done = subprocess.run(
        launcher + command(*arguments, **options),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one(folder, init, tmp_path_factory):
    """A run of one process, of 4 steps of 10 pairs without dropout."""
    out = tmp_path_factory.mktemp("one") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, folder, init[0.0], out, steps=4, batch=10)
    return out


def measure_differences(a, b):
    """{name: the share of a tensor's numbers that differ by more than rounding}."""
    assert a.keys() == b.keys()
    return {n: float(((t - b[n]).abs() > 2e-5).float().mean()) for n, t in a.items()}


def assert_same_run(one, other, start):
    a, b = load_adapters(one)[4], load_adapters(other)[4]
    start = load_file(start / "adapter.safetensors")
    assert max(float((t - start[n]).abs().max()) for n, t in a.items()) > 1e-3
    # Where a gradient is nothing but rounding, AdamW may go either way.
    assert max(measure_differences(a, b).values()) < 0.01
    losses = [[r["loss"] for r in read_log(out)] for out in (one, other)]
    np.testing.assert_allclose(*losses, atol=2e-4)


@pytest.mark.parametrize(
    "options", [{}, {"fsdp": True, "checkpoint_activations": True}], ids=["ddp", "fsdp"]
)
def test_four_processes_equal_one(folder, init, one, tmp_path, options):
    """The same pairs make a step, whoever computes them, also where 10 cannot be dealt evenly.
    Dropout is off: each process has its own."""
    launch_processes(4, folder, init[0.0], tmp_path / "four", steps=4, batch=10, **options)
    assert_same_run(one, tmp_path / "four", init[0.0])


def test_bf16_weights_and_fp32_adapters_sharded(folder, init, tmp_path, monkeypatch):
    """As on GPUs: gathered weights are what one process has, to the bit, and every pair's gradient
    with them."""
    script = tmp_path / "bf16.py"
    script.write_text("""if True:
        import torch
        import train
        from support import launch
        launch.choose_dtype = lambda device: torch.bfloat16
        if __name__ == "__main__":
            launch.run("train.py", train.main)
    """)
    launch_processes(2, folder, init[0.0], tmp_path / "two", steps=4, fsdp=True, script=script)
    models = record_models(monkeypatch)
    monkeypatch.setattr(launch, "choose_dtype", lambda device: torch.bfloat16)
    run(monkeypatch, folder, init[0.0], tmp_path / "one", steps=4)
    assert {p.dtype for p in models[0].parameters()} == {torch.bfloat16, torch.float32}
    assert_same_run(tmp_path / "one", tmp_path / "two", init[0.0])


def test_everything_trained_sharded(folder, init, tmp_path, monkeypatch):
    """As one process trains it; between the passes of a step no process holds a whole gradient."""
    script = tmp_path / "shards.py"
    script.write_text("""if True:
        import train
        from torch.distributed.tensor import DTensor
        from support import launch, parallel
        passes, forward = [], parallel.Loss.forward

        def watched_forward(self, *arguments):
            kinds = {type(p.grad) for p in self.parameters()}
            is_second_of_a_step = len(passes) % 2 == 1
            if is_second_of_a_step:
                assert kinds <= {DTensor}, kinds
            else:
                assert kinds == {type(None)}, kinds
            passes.append(1)
            return forward(self, *arguments)

        parallel.Loss.forward = watched_forward
        if __name__ == "__main__":
            launch.run("train.py", train.main)
    """)
    options = {"tune": "everything", "steps": 2, "batch": 4, "lr": 1e-3, "clip": 0.5}
    launch_processes(2, folder, init[0.0], tmp_path / "two", fsdp=True, script=script, **options)
    run(monkeypatch, folder, init[0.0], tmp_path / "one", **options)
    one, two = load_adapters(tmp_path / "one")[2], load_adapters(tmp_path / "two")[2]
    norms = []
    for name in ("one", "two"):
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        norms.append([json.loads(line)["gradient"] for line in lines])
    assert min(norms[0]) > 0.5 and norms[1] == pytest.approx(norms[0], rel=1e-3)
    before = dict(CapeLLM.from_pretrained(init[0.0]).named_parameters())
    assert one.keys() == before.keys()
    for name, p in before.items():
        # No patch is masked.
        assert name.endswith("mask_token") or (one[name] - p).abs().max() > 1e-4
    for name, difference in measure_differences(one, two).items():
        # A key's bias moves no softmax: its gradient is nothing but rounding.
        assert name.endswith("key.bias") or difference <= 0.01, name


def test_the_first_process_chooses_the_checkpoint(folder, init, tmp_path):
    """A disk may show the others an older state of the run's folder, or none. It alone looks at
    annotations and images, too."""
    script, out = tmp_path / "stale.py", tmp_path / "out"
    script.write_text("""if True:
        import os
        import train
        from support import check, checkpoints, launch
        if os.environ["RANK"] == "1":
            checkpoints.list_checkpoints = lambda out: []
            checkpoints.read_log = check.read_folders = check.check_images = None
        if __name__ == "__main__":
            launch.run("train.py", train.main)
    """)
    options = {"steps": 2, "save_every": 1, "batch": 4}
    launch_processes(2, folder, init[0.3], tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole" / "step-0000001", out / "step-0000001")
    launch_processes(2, folder, init[0.3], out, script=script, resume=True, **options)
    assert are_equal(load_adapters(out)[2], load_adapters(tmp_path / "whole")[2])


def test_deterministic_changes_nothing_on_a_cpu(folder, init, tmp_path, monkeypatch, capsys):
    """Forward and backward run under it, nothing else does; cuBLAS' variable is set before anything
    asks for a GPU."""
    monkeypatch.setenv(determinism.VARIABLE, "")
    monkeypatch.delenv(determinism.VARIABLE)
    run(monkeypatch, folder, init[0.3], tmp_path / "plain", steps=2, val_every=2)
    assert "deterministic:" not in capsys.readouterr().out
    is_on, seen = torch.are_deterministic_algorithms_enabled, []
    original = {"loss": CapeLLM.loss, "answer": CapeLLM.answer, "setup": launch.setup}

    def watch_setup():
        seen.append(("setup", os.environ.get(determinism.VARIABLE), is_on()))
        return original["setup"]()

    def watch_loss(self, *arguments):
        losses = original["loss"](self, *arguments)
        losses.total.register_hook(lambda _: seen.append(("backward", is_on())))
        seen.append(("loss", is_on()))
        return losses

    def watch_answer(self, *arguments, **named):
        seen.append(("answer", is_on()))
        return original["answer"](self, *arguments, **named)

    monkeypatch.setattr(launch, "setup", watch_setup)
    monkeypatch.setattr(CapeLLM, "loss", watch_loss)
    monkeypatch.setattr(CapeLLM, "answer", watch_answer)
    options = {"steps": 2, "val_every": 2, "deterministic": True}
    run(monkeypatch, folder, init[0.3], tmp_path / "out", **options)
    assert seen[0] == ("setup", ":4096:8", False)
    assert set(seen[1:]) == {("loss", True), ("backward", True), ("answer", False)}
    plain, ordered = (load_adapters(tmp_path / name)[2] for name in ("plain", "out"))
    assert are_equal(plain, ordered) and not is_on()
    said = capsys.readouterr().out.splitlines()
    assert said.count("deterministic: CUBLAS_WORKSPACE_CONFIG is :4096:8") == 1


def test_backbones_are_sharded_as_they_are_widened(
    folder, model_folder, tmp_path, monkeypatch
):
    """In bf16 on the disk, trained in fp32 as one process trains them; and resumed bit by bit."""
    llm = shutil.copytree(model_folder / "llm", tmp_path / "llm")
    tensors = load_file(llm / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in tensors.items()}, llm / "model.safetensors")
    backbones = {"vision": model_folder / "vision", "llm": llm, "tune": "everything"}
    options = {"init": None, "steps": 2, "save_every": 1, "batch": 4, **backbones}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launch_processes(2, folder, None, whole, fsdp=True, **options)
    shutil.copytree(whole / "step-0000001", cut / "step-0000001")
    launch_processes(2, folder, None, cut, fsdp=True, resume=True, **options)
    assert are_equal(load_adapters(cut)[2], load_adapters(whole)[2])
    models = record_models(monkeypatch)
    run(monkeypatch, folder, None, tmp_path / "one", **options)
    assert {p.dtype for p in models[0].parameters()} == {torch.float32}
    losses = [[r["loss"] for r in read_log(out)] for out in (tmp_path / "one", whole)]
    np.testing.assert_allclose(*losses, atol=2e-4)
    one, two = load_adapters(tmp_path / "one")[2], load_adapters(whole)[2]
    for name, difference in measure_differences(one, two).items():
        # A key's bias moves no softmax: its gradient is nothing but rounding.
        assert name.endswith("key.bias") or difference <= 0.01, name


@pytest.mark.parametrize("fsdp", [False, True])
def test_shards_are_loaded_on_the_cpu(fsdp, monkeypatch):
    found = []
    monkeypatch.setattr(CapeLLM, "from_pretrained", lambda _, *a, **k: found.extend(a))
    gpu = torch.device("cuda", 1)
    # None is no model.
    with pytest.raises(AttributeError):
        train.open_model(argparse.Namespace(init="model", tune="lora", fsdp=fsdp), gpu)
    assert found == [torch.bfloat16, torch.device("cpu") if fsdp else gpu]


@pytest.mark.parametrize("fsdp", [{}, {"fsdp": True}], ids=["ddp", "fsdp"])
def test_two_processes_resumed_equal_uninterrupted(folder, init, tmp_path, fsdp):
    """Bit by bit, with dropout, sharded or not: once in a whole, once saved half-way."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"steps": 4, "save_every": 2} | fsdp
    launch_processes(2, folder, init[0.3], whole, val_every=3, **options)
    cut.mkdir()
    shutil.copytree(whole / "step-0000002", cut / "step-0000002")
    launch_processes(2, folder, init[0.3], cut, resume=True, **options)
    assert are_equal(load_adapters(cut)[4], load_adapters(whole)[4])
    assert not are_equal(load_adapters(whole)[2], load_adapters(whole)[4])
    assert ["val" in r for r in read_log(whole)] == [False, False, True, True]


def test_activations_computed_again_change_nothing(folder, init, tmp_path, monkeypatch):
    for name, options in (("kept", {}), ("again", {"checkpoint_activations": True})):
        run(monkeypatch, folder, init[0.3], tmp_path / name, steps=2, **options)
    kept, again = (load_adapters(tmp_path / name)[2] for name in ("kept", "again"))
    for name in kept:
        torch.testing.assert_close(again[name], kept[name], atol=1e-6, rtol=0)


def test_training_lowers_the_loss(folder, init, tmp_path, monkeypatch):
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=24, lr=0.02)
    losses = [r["loss"] for r in read_log(tmp_path / "out")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1


def assert_validated_as_evaluated(monkeypatch, folder, out, steps, **options):
    """What a run has logged of its validations is what eval.py says of the checkpoints."""
    log = read_log(out)
    for step in steps:
        words = {"model": out / f"step-000000{step}", "out": out / f"{step}", "data": folder}
        words |= {"part": "val", "descriptions": folder} | options
        arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["eval.py", *arguments])
        with pytest.raises(SystemExit):
            evaluation.main()
        results = json.loads((out / f"{step}" / "results.json").read_text())
        expected = {n: round(results[n], 4) for n in (*metrics.PCK, "mPCK")}
        found = dict(log[step - 1]["val"])
        scale, error = found.pop("radius_scale"), found.pop("standard_error")
        assert found == expected
        lines = (out / f"{step}" / "instances.jsonl").read_text().splitlines()
        scores = [json.loads(line)["mPCK"] for line in lines]
        assert error == pytest.approx(statistics.stdev(scores) / len(scores) ** 0.5, abs=1e-4)
        config = json.loads((words["model"] / "config.json").read_text())
        assert config["radius_scale"] == scale
        # With it circles hold nine of ten, and no more than they must.
        images = choose_images(folder, 1, words["part"], words["descriptions"])
        model = CapeLLM.from_pretrained(words["model"], launch.choose_dtype(None))
        circles = measure_coverage(model, images)
        assert circles.count_held() >= LEVEL > circles.count_held(0.999)


@pytest.mark.parametrize("tune", ["lora", "full", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_validation_is_eval_py_on_the_checkpoint(
    folder, init, tmp_path, monkeypatch, dtype, tune
):
    """Also in bf16, as on GPUs, where what is trained is fp32, and adapters that are folded in lose
    part of themselves."""
    monkeypatch.setattr(launch, "choose_dtype", lambda device: dtype)
    out = tmp_path / "out"
    run(monkeypatch, folder, init[0.3], out, steps=3, val_every=2, tune=tune)
    assert ["val" in r for r in read_log(out)] == [False, True, True]
    assert_validated_as_evaluated(monkeypatch, folder, out, (2, 3))


def compute_first_step(folder, init, dtype, pairs):
    """The loss, and the norm of the gradients, of backbones in a dtype that are trained in whole;
    gradients add up in fp32."""
    model = CapeLLM.from_pretrained(init)
    model.vision.to(dtype)
    model.llm.to(dtype)
    model.requires_grad_(True)
    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    found = data.Pairs(instances, described, model.tokenizer, model.codec, 28)
    losses, sums = [], {name: 0 for name, _ in model.named_parameters()}
    for i in range(pairs):
        loss = model.loss(found[i].pixels[None], [found[i].conversation]).total
        losses.append(loss.item())
        (loss / pairs).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] = sums[name] + parameter.grad.float()
        model.zero_grad()
    square = sum(torch.as_tensor(gradient).square().sum() for gradient in sums.values())
    return np.mean(losses), float(square.sqrt())


BF16_SHARDS = """if True:
    import capellm
    import torch
    import train
    from torch.distributed.tensor import DTensor
    from support import launch, parallel
    launch.choose_dtype = lambda device: torch.bfloat16
    kinds, answered, shard_model = set(), [], parallel.shard_model
    passes, count_askers = [[]], parallel.count_askers

    def note(module, *_):
        kinds.add(tuple(p.dtype for p in module.parameters()))
        assert not torch.is_autocast_enabled("cpu")

    def watch(model, *arguments):
        # Before FSDP's hooks, which take what was gathered away.
        for layer in parallel.list_layers(model):
            layer.register_forward_hook(note)
        model.projection.register_forward_hook(note_projection)
        model.vision.register_forward_hook(count)
        shard_model(model, *arguments)

    def note_projection(module, *_):
        assert module.weight.dtype == torch.float32 and not isinstance(module.weight, DTensor)

    def count(module, *_):
        answered.append(module.training)

    def count_passes(model, own):
        passes[-1].append(own)
        askers = count_askers(model, own)
        if askers == 0:
            passes.append([])
        return askers

    def think_longer_about_some(model, V, keypoints):
        for _ in range(int(V.float().abs().sum()) % 5):
            model.llm(V)
        return "object"

    parallel.shard_model, parallel.count_askers = watch, count_passes
    capellm.name_category = think_longer_about_some

    def main():
        train.main()
        assert kinds and {d for dtypes in kinds for d in dtypes} == {torch.bfloat16}, kinds
        # 13 images for two processes.
        assert answered.count(False) == 7, answered
        # Some wait for others, who have more to ask.
        own = torch.tensor([sum(of_image) for of_image in passes[:7]])
        others = own.clone()
        torch.distributed.all_reduce(others)
        assert not torch.equal(2 * own, others), passes

    if __name__ == "__main__":
        launch.run("train.py", main)
"""


def test_everything_trained_in_bf16_shards(folder, init, tmp_path, monkeypatch):
    """As on GPUs: layers are gathered in bf16, without autocast, and what is trained stays fp32.

    The processes share the validation, though images need unequal numbers of passes.
    """
    script, two = tmp_path / "shards.py", tmp_path / "two"
    script.write_text(BF16_SHARDS)
    options = {"tune": "everything", "steps": 3, "batch": 4}
    launch_processes(
        2, folder, init[0.0], two, fsdp=True, script=script, val_every=3, **options
    )
    saved = load_adapters(two)[3]
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    # More digits than bf16 has.
    assert any(not torch.equal(t, t.bfloat16().float()) for t in saved.values())
    monkeypatch.setattr(launch, "choose_dtype", lambda device: torch.bfloat16)
    first = read_log(two)[0]
    loss, norm = compute_first_step(folder, init[0.0], torch.bfloat16, pairs=4)
    assert first["loss"] == pytest.approx(loss, abs=2e-3)
    assert first["gradient"] == pytest.approx(norm, rel=2e-3)
    assert_validated_as_evaluated(monkeypatch, folder, two, (3,))


# Killed, stopped, out of room: runs in processes of their own, forked from one that has imported
# everything.


def fork(script, *arguments, cwd=None):
    """What a script prints. It has train, os, signal ..., sys.argv, `child(argv)`, which forks a
    run and returns its pid, and `wait(pid)`, which returns its exit code."""
    start = """if True:
        import json, os, random, resource, signal, sys, time
        from pathlib import Path
        import torch
        from safetensors import safe_open
        import data, train
        from support import check, checkpoints, launch

        # Background jobs of a shell ignore these, and what they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

        def child(argv, before=lambda: None):
            pid = os.fork()
            if pid:
                return pid
            torch.set_num_threads(1)
            sys.argv = ["train.py", *argv]
            sys.stdout = sys.stderr = open(os.devnull, "w")
            before()
            try:
                launch.run("train.py", train.main)
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(end.code or 0)
            os._exit(0)

        def wait(pid):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    """
    done = subprocess.run(
        [sys.executable, "-c", start + script, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_twenty_times(folder, init, tmp_path, monkeypatch):
    """The newest checkpoint is whole whenever SIGKILL comes, also inside a save, and the end is the
    uninterrupted one's."""
    whole, killed, options = tmp_path / "whole", tmp_path / "killed", {"steps": 30, "batch": 2}
    run(monkeypatch, folder, init[0.3], whole, **options)
    arguments = command(folder, init[0.3], killed, save_every=1, resume=True, **options)
    script = """
        def slow(call):
            def slowly(*arguments):
                time.sleep(0.03)
                call(*arguments)
                time.sleep(0.03)
            return slowly

        def slow_saves():                       # they take about half of the time
            checkpoints.save_file = slow(checkpoints.save_file)
            os.replace = slow(os.replace)

        def list_steps():
            return {*out.glob("step-*")}

        rng, out, inside, reached = random.Random(0), Path(sys.argv[1]), 0, set()
        for _ in range(20):
            before = list_steps()
            pid = child(sys.argv[2:], slow_saves)
            # Past the start.
            while not os.waitpid(pid, os.WNOHANG)[0] and list_steps() == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            inside += any(out.glob("*partial*"))
            newest = checkpoints.list_checkpoints(out)[-1]
            with safe_open(newest / "state.safetensors", framework="pt") as state:
                reached.add(int(state.metadata()["step"]))
            train.CapeLLM.from_pretrained(newest)
        print(json.dumps([inside, sorted(reached)]))
        sys.exit(wait(child(sys.argv[2:])))
    """
    inside, reached = json.loads(fork(script, killed, *arguments))
    assert inside >= 3 and len(reached) >= 5
    assert are_equal(load_adapters(killed)[30], load_adapters(whole)[30])


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)]
)
def test_a_signal_saves_and_leaves(folder, init, tmp_path, one, number, code):
    """Also where it comes twice, and to the processes that load images, too: as from a terminal."""
    out, options = tmp_path / "out", {"steps": 4, "batch": 10, "save_every": 100, "workers": 2}
    arguments = command(folder, init[0.0], out, resume=True, **options)
    script = """
        def signal_all(*_):
            for _ in range(2):
                os.killpg(0, int(number))

        def signal_after_the_first_step():
            os.setpgrp()
            checkpoints.append_to_log = signal_all

        _, out, number, *argv = sys.argv
        print(wait(child(argv, signal_after_the_first_step)))
        print(*(p.name for p in checkpoints.list_checkpoints(out)))
        print(wait(child(argv)))
    """
    found = fork(script, out, int(number), *arguments).split()
    assert found == [str(code), "step-0000002", "0"]
    assert are_equal(load_adapters(out)[4], load_adapters(one)[4])


# Places in a run where anything may go wrong.
SEAMS = {
    "reading": "check.read_folders",
    "loading the model": "train.open_model",
    "a worker": "data.load_crop",
    "the loss": "train.CapeLLM.loss",
    "the step": "torch.optim.AdamW.step",
    "the log": "checkpoints.append_to_log",
    "a checkpoint": "checkpoints.save_tensors",
}
# What goes wrong there, the exit code, and whether it is one line.
FAULTS = {
    "KeyError(2)": (1, False),
    "RuntimeError('x')": (1, False),
    "AssertionError()": (1, False),
    "RecursionError()": (1, False),
    "Panic('of another language')": (1, False),
    "MemoryError()": (2, True),
    "torch.OutOfMemoryError('CUDA out of memory')": (2, True),
    "RuntimeError(\"DefaultCPUAllocator: can't allocate memory\")": (2, True),
    "ValueError('bad\\ninput')": (2, True),
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')": (2, True),
    "OSError(28, 'No space left')": (2, True),
    "SystemExit(3)": (3, False),
    "KeyboardInterrupt()": (130, False),
}


# The first three end a worker, which its process notices; the last cannot be sent to it.
OTHERWISE_IN_A_WORKER = (
    "Panic('of another language')",
    "SystemExit(3)",
    "KeyboardInterrupt()",
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')",
)


@pytest.mark.parametrize("seam", SEAMS)
def test_whatever_goes_wrong_wherever_ends_all_processes(folder, init, tmp_path, seam):
    """Within ten seconds, with an exit code, workers included."""
    # Each of them in one place; in a worker nearly all.
    if seam == "a worker":
        faults = [fault for fault in FAULTS if fault not in OTHERWISE_IN_A_WORKER]
    else:
        others = [name for name in SEAMS if name != "a worker"]
        faults = [*FAULTS][others.index(seam) :: len(others)]
    script = """
        seam, faults, *argv = sys.argv[1:]
        holder, _, name = seam.rpartition(".")

        class Panic(BaseException):
            pass

        def fail(fault):
            def raise_it(*_, **__):
                raise eval(fault)

            def patch():
                os.setpgrp()
                sys.stderr = open("stderr", "w")
                setattr(eval(holder), name, raise_it)

            return patch

        found = {}
        for fault in json.loads(faults):
            began = time.monotonic()
            pid = child(argv, fail(fault))
            code = wait(pid)
            seconds = time.monotonic() - began
            try:
                os.killpg(pid, 0)
                left = True
            except ProcessLookupError:
                left = False
            found[fault] = code, seconds, left, Path("stderr").read_text()
        print(json.dumps(found))
    """
    arguments = command(folder, init[0.0], tmp_path / "out", steps=2, workers=1, save_every=1)
    printed = fork(script, SEAMS[seam], json.dumps(faults), *arguments, cwd=tmp_path)
    for fault, (code, seconds, left, text) in json.loads(printed).items():
        expected, is_line = FAULTS[fault]
        assert (code, left) == (expected, False), (fault, text)
        assert seconds < 10, fault
        # The bar of the steps stands on lines of its own.
        said = [line for line in text.splitlines() if "step/s" not in line and line.strip()]
        if is_line:
            assert len(said) == 1 and said[0].startswith("train.py: "), text
        elif code == 1:
            assert "Traceback (most recent call last):" in said, text


def test_a_second_interrupt_ends_at_once(folder, init, tmp_path):
    """Also a step that never ends, with workers that ignore what they are asked."""
    script = """
        stuck, *argv = sys.argv[1:]

        def never_return(*_):
            Path(stuck).touch()
            while True:
                time.sleep(100)

        def patch():
            checkpoints.append_to_log = never_return

        pid = child(argv, patch)
        while not Path(stuck).exists():
            time.sleep(0.005)
        os.kill(pid, signal.SIGINT)
        time.sleep(1.5)
        print(os.waitpid(pid, os.WNOHANG)[0])
        began = time.monotonic()
        os.kill(pid, signal.SIGINT)
        print(wait(pid), time.monotonic() - began < 10)
    """
    arguments = command(folder, init[0.0], tmp_path / "out", workers=2)
    found = fork(script, tmp_path / "stuck", *arguments)
    assert found.split() == ["0", "130", "True"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step(folder, init, tmp_path, number, code):
    script = """
        checking, number, *argv = sys.argv[1:]

        def read_forever(*_):
            Path(checking).touch()
            time.sleep(100)

        def patch():
            check.read_folders = read_forever

        pid = child(argv, patch)
        while not Path(checking).exists():
            time.sleep(0.005)
        os.kill(pid, int(number))
        print(wait(pid))
    """
    arguments = command(folder, init[0.0], tmp_path / "out")
    found = fork(script, tmp_path / "checking", int(number), *arguments)
    assert found.split() == [str(code)] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("room, what", [(4000, r"step-\d+"), (50, r"log\.jsonl")])
def test_a_full_disk_is_an_error_and_loses_nothing(folder, init, tmp_path, room, what):
    out, options = tmp_path / "out", {"steps": 4, "batch": 10, "save_every": 1}
    script = """
        def limit():                    # no file may grow beyond: writing fails as on a full disk
            sys.stderr = sys.__stdout__
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))

        out, room, *argv = sys.argv[1:]
        pid = child(argv)
        while not checkpoints.list_checkpoints(out):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = checkpoints.list_checkpoints(out)[-1].name
        print(wait(child(argv, limit)), before)
    """
    found = fork(script, out, room, *command(folder, init[0.0], out, resume=True, **options))
    code, newest = found.split()[-2:]
    assert code == "2"
    remedy = "make room; training continues with --resume"
    assert re.search(rf"{what} cannot be written \(.*\): {remedy}", found)
    assert checkpoints.list_checkpoints(out)[-1].name == newest
    assert not list(out.glob("*partial*"))
    CapeLLM.from_pretrained(out / newest)


# Watching it.


def test_the_log_says_how_long_a_step_waited(folder, init, one, tmp_path, monkeypatch):
    original = data.Pairs.__getitem__

    def load_slowly(self, i):
        time.sleep(0.2)
        return original(self, i)

    monkeypatch.setattr(data.Pairs, "__getitem__", load_slowly)
    run(monkeypatch, folder, init[0.0], tmp_path / "slow", steps=2, batch=10)
    for record in read_log(tmp_path / "slow"):
        assert record["waiting"] * 10 / record["pairs_per_s"] > 1.95
    assert all(0 <= r["waiting"] < 1 for r in read_log(one))


def test_without_matplotlib(folder, init, tmp_path, monkeypatch, capsys):
    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    run(monkeypatch, folder, init[0.0], out, steps=2, save_every=1)
    assert not (out / "curves.png").exists() and sorted(load_adapters(out)) == [1, 2]
    assert capsys.readouterr().out.count("no curves.png: pip install matplotlib") == 1


# What is refused.


def refuse(monkeypatch, capsys, arguments):
    """The one line that train.py says about these arguments."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with keep_signals(), pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    bar = re.compile(r"\d+/\d+ \[")
    lines = [line for line in lines if not bar.search(line)]
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    return lines[0]


def test_an_earlier_run_is_not_overwritten(folder, init, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(init[0.0], out / "step-0000003")
    error = refuse(monkeypatch, capsys, command(folder, init[0.0], out))
    assert str(out) in error and "--resume" in error
    assert [p.name for p in out.iterdir()] == ["step-0000003"]


RESUMED = {"steps": 2, "batch": 2, "save_every": 1, "resume": True}


@pytest.fixture(scope="module")
def short(folder, init, tmp_path_factory):
    """One step of a run that asks for two."""
    out = tmp_path_factory.mktemp("short") / "out"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, folder, init[0.0], out, steps=2, save_every=1, batch=2)
    shutil.rmtree(out / "step-0000002")
    return out


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 2}, "--k was 4, is 2"),
        ({"rounds": "locllm"}, "--rounds was fixed, is locllm"),
        ({"lr": 1e-3}, "--lr was 0.0005, is 0.001"),
        ({"seed": 7, "steps": 3}, "--seed was 42, is 7; steps was 2, is 3"),
        ({"tune": "frozen"}, "--tune was lora, is frozen"),
        ({"share_image": True, "micro_batch": 2}, "--share-image was False, is True"),
    ],
)
def test_a_run_continues_only_as_it_began(
    folder, init, short, tmp_path, monkeypatch, capsys, options, message
):
    out = shutil.copytree(short, tmp_path / "out")
    arguments = command(folder, init[0.0], out, **(RESUMED | options))
    error = refuse(monkeypatch, capsys, arguments)
    assert message in error and "step-0000001 is of another run" in error
    assert [p.name for p in checkpoints.list_checkpoints(out)] == ["step-0000001"]


def test_a_run_continues_only_with_its_model(folder, init, short, tmp_path, monkeypatch, capsys):
    out, start = shutil.copytree(short, tmp_path / "out"), tmp_path / "init"
    shutil.copytree(init[0.0], start)
    tensors = load_file(start / "adapter.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, start / "adapter.safetensors")
    error = refuse(monkeypatch, capsys, command(folder, start, out, **RESUMED))
    assert "the model changed" in error and "step-0000001 is of another run" in error


def recolour_an_image(coco, folder):
    Image.new("RGB", (60, 50)).save(folder / "images" / "3.png")


def drop_an_annotation(coco, folder):
    coco["annotations"].pop()


def move_a_box(coco, folder):
    coco["annotations"][0]["bbox"][0] -= 1


@pytest.mark.parametrize(
    "change, message",
    [
        (recolour_an_image, "run: the data changed."),
        (drop_an_annotation, "instances was 13, is 12; the data changed."),
        (move_a_box, "run: the data changed."),
    ],
)
def test_a_run_continues_only_with_its_data(
    folder, init, short, tmp_path, monkeypatch, capsys, change, message
):
    out = shutil.copytree(short, tmp_path / "out")
    changed = shutil.copytree(folder, tmp_path / "data")
    annotations = changed / "annotations" / "mp100_split1_train.json"
    coco = json.loads(annotations.read_text())
    change(coco, changed)
    annotations.write_text(json.dumps(coco))
    arguments = command(folder, init[0.0], out, **(RESUMED | {"data": changed}))
    error = refuse(monkeypatch, capsys, arguments)
    assert message in error and "step-0000001 is of another run" in error


def test_a_run_continues_only_with_its_words(folder, init, short, tmp_path, monkeypatch, capsys):
    out, words = shutil.copytree(short, tmp_path / "out"), tmp_path / "words"
    words.mkdir()
    text = (folder / "skirt.txt").read_text()
    (words / "skirt.txt").write_text(text.replace("c:", "c: the third"))
    arguments = command(folder, init[0.0], out, **(RESUMED | {"descriptions": words}))
    error = refuse(monkeypatch, capsys, arguments)
    assert "run: the descriptions changed." in error


def test_another_number_of_processes(folder, init, short, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(short, tmp_path / "out")
    path = out / "step-0000001" / "state.safetensors"
    with safe_open(path, framework="pt") as saved:
        metadata = saved.metadata()
    settings = json.loads(metadata["settings"]) | {"processes": 4}
    save_file(load_file(path), path, metadata | {"settings": json.dumps(settings)})
    error = refuse(monkeypatch, capsys, command(folder, init[0.0], out, **RESUMED))
    assert "processes was 4, is 1" in error


@pytest.mark.parametrize("damage", ["empty", "other", "cut"])
def test_a_damaged_state(folder, init, short, tmp_path, monkeypatch, capsys, damage):
    out = shutil.copytree(short, tmp_path / "out")
    path = out / "step-0000001" / "state.safetensors"
    damaged = {"empty": b"", "other": b"no state", "cut": path.read_bytes()[:-100]}
    path.write_bytes(damaged[damage])
    error = refuse(monkeypatch, capsys, command(folder, init[0.0], out, **RESUMED))
    assert f"{path} is damaged" in error
    assert "--resume continues the checkpoint before it" in error


def read_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage_random(path):
    save_file(load_file(path) | {"random": torch.zeros(1, 16, dtype=torch.uint8)}, path, read(path))


def forget_moments(path):
    tensors = {n: t for n, t in load_file(path).items() if not n.startswith("projection")}
    save_file(tensors, path, read(path))


def forget_the_step(path):
    texts = read(path)
    del texts["step"]
    save_file(load_file(path), path, texts)


def nest_the_best(path):
    save_file(load_file(path), path, read(path) | {"best": OTHERS[8]})


def read(path):
    with safe_open(path, framework="pt") as saved:
        return saved.metadata()


def cut_a_line(path):
    path.write_text('{"step": 1, "lo\n' + path.read_text())


def put_a_pipe(path):
    make_special(path, "pipe")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("step-0000001/state.safetensors", damage_random, "its random numbers are not"),
        ("step-0000001/state.safetensors", forget_moments, "projection.weight is missing"),
        ("step-0000001/state.safetensors", forget_the_step, "step is missing"),
        ("step-0000001/state.safetensors", nest_the_best, "nested too deep"),
        ("step-0000001/state.safetensors", put_a_pipe, "is no regular file"),
        ("log.jsonl", cut_a_line, "line 1: this is no JSON"),
        ("log.jsonl", put_a_pipe, "is no regular file"),
    ],
)
def test_what_a_run_left_is_checked_before_anything_is_written(
    folder, init, short, tmp_path, monkeypatch, capsys, name, change, message
):
    out = shutil.copytree(short, tmp_path / "out")
    change(out / name)
    before = read_files(out)
    error = refuse(monkeypatch, capsys, command(folder, init[0.0], out, **RESUMED))
    assert message in error and f"{out / name}" in error and read_files(out) == before


def test_a_run_continues_whatever_comes_to_lie_beside_its_model(
    folder, init, short, tmp_path, monkeypatch
):
    """Files that nothing reads, and links to nowhere, as in folders of a cache."""
    out, start = shutil.copytree(short, tmp_path / "out"), tmp_path / "init"
    shutil.copytree(init[0.0], start)
    for inside in (start, start / "vision", start / "llm"):
        (inside / "tokenizer_config.json").write_text("{}")
        (inside / "state.safetensors").symlink_to("nowhere")
    run(monkeypatch, folder, start, out, **RESUMED)
    assert sorted(load_adapters(out)) == [1, 2]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_names_its_samples(
    folder, init, tmp_path, monkeypatch, capsys, what
):
    """The pair of the loss, or all of the step of a gradient: no checkpoint holds the weights that
    it would have led to."""
    original, seen = CapeLLM.loss, []

    def damaged_loss(self, pixels, conversations):
        total, digits = original(self, pixels, conversations)
        seen.append((pixels, conversations))
        if len(seen) == 11 and what == "loss":
            total = total + float("nan")
        elif len(seen) == 11:
            # The root of 0 has the slope 0 * inf.
            total = total + (total - total.detach()).abs().sqrt()
        return total, digits

    monkeypatch.setattr(CapeLLM, "loss", damaged_loss)
    arguments = command(folder, init[0.0], tmp_path / "out", save_every=1)
    error = refuse(monkeypatch, capsys, arguments)
    assert f"the {what} is nan at step 2, from " in error
    instances, names = data.read_split(folder)
    described = describe_categories(instances, names, folder)
    model = CapeLLM.from_pretrained(init[0.0])
    pairs = data.Pairs(instances, described, model.tokenizer, model.codec, 28)
    # Steps of 8 pairs, one a pass.
    second_step = range(8, 16)
    pixels, [conversation] = seen[10]
    named = []
    for i in second_step:
        if torch.equal(pairs[i].pixels, pixels[0]) and pairs[i].conversation == conversation:
            named.append(i)
    assert len(named) == 1
    names = {batches.name_sample(pairs, i) for i in (named if what == "loss" else second_step)}
    (listed,) = re.findall(" from (.*?)(?: and [0-9]+ more)?: look at these", error)
    found = [name.strip(" ,") for name in re.findall(r".*?\)", listed)]
    assert set(found) <= names and len(found) == min(5, len(names))
    assert sorted(load_adapters(tmp_path / "out")) == [1]


def test_own_photographs(folder, init, tmp_path, monkeypatch, capsys):
    """Annotations as any tool exports them, of a category that MP-100 does not have; images that
    are missing."""
    own, out = shutil.copytree(folder, tmp_path / "own"), tmp_path / "out"
    text = (own / "annotations" / "mp100_split1_train.json").read_text()
    shutil.rmtree(own / "annotations")
    (own / "annotations").mkdir()
    (own / "annotations" / "train.json").write_text(text.replace("skirt", "unicorn"))
    (own / "skirt.txt").rename(own / "unicorn.txt")
    (own / "images" / "3.png").unlink()
    error = refuse(monkeypatch, capsys, command(own, init[0.0], out, steps=1))
    assert "1 of 13 images missing" in error and "3.png" in error
    assert "--skip-missing" in error and not out.exists()
    run(monkeypatch, own, init[0.0], out, steps=1, skip_missing=True)
    assert "12 instances" in capsys.readouterr().out and sorted(load_adapters(out)) == [1]


@pytest.mark.parametrize("instruction", ["direct-qa", "steps-qa", "steps"])
def test_pretraining_moves_the_projection_alone(folder, init, tmp_path, monkeypatch, instruction):
    """Supplement C; what follows asks for coordinates again, whatever the model learned before.
    steps is no pre-training."""
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1, instruction=instruction)
    start = load_file(init[0.0] / "adapter.safetensors")
    trained = load_adapters(tmp_path / "out")[1]
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, start[name])}
    config = json.loads((tmp_path / "out" / "step-0000001" / "config.json").read_text())
    digits = read_log(tmp_path / "out")[0]["digits"]
    if instruction == "steps":
        assert len(moved) > 1 and config["instruction"] == "steps" and digits > 0
    else:
        # It asks for no digits.
        assert moved == {"projection.weight"} and config["instruction"] == "base" and digits == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"workers": -1}, "--workers -1"),
        ({"k": 1001}, "--k 1001: at most 1,000"),
        ({"epochs": 1e8}, "--epochs 100000000.0: at most 10,000"),
        ({"batch": 10**8}, "--batch 100000000: at most 1,000,000"),
        ({"llm": "other"}, "--init .* names its own backbones: leave out --vision and --llm"),
        ({"split": 2}, "mp100_split2_train.json is missing"),
        ({"init": "nowhere"}, "nowhere is no model folder"),
        (
            {"share_image": True, "micro_batch": 1},
            "--share-image shares within a pass, .* raise it",
        ),
        ({"fsdp": True}, "--fsdp shards over processes: start them with torchrun"),
        ({"optimiser": "muon"}, "--optimiser muon is for --tune everything"),
        (
            {"instruction": "direct-qa", "tune": "full"},
            "--instruction direct-qa trains the projection alone: leave out --tune full",
        ),
        (
            {"instruction": "steps-qa", "output_format": "token"},
            "--instruction steps-qa asks about coordinates in text: leave out --output-format",
        ),
        (
            {"digits": 1},
            "no coordinates of K = 1 tokens with this tokenizer; use K = 3",
        ),
        (
            {"digits": 1, "output_format": "token"},
            "--digits is of answers in text: leave out one of --digits and --output-format",
        ),
        (
            {"instruction": "steps-qa", "val_every": 1},
            "--val-every measures coordinates, --instruction steps-qa asks for names",
        ),
    ],
)
def test_wrong_input(folder, init, tmp_path, monkeypatch, capsys, options, message):
    arguments = command(folder, init[0.0], tmp_path / "out", **options)
    error = refuse(monkeypatch, capsys, arguments)
    assert re.search(message, error) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option, value",
    [
        ("batch", "0"),
        ("micro_batch", "0"),
        ("k", "0"),
        ("steps", "0"),
        ("epochs", "0"),
        ("lr", "-1"),
        ("epochs", "inf"),
        ("epochs", "nan"),
        ("epochs", "1e300"),
        ("micro_batch", "9" * 400),
    ],
)
def test_numbers_are_positive(folder, init, tmp_path, monkeypatch, capsys, option, value):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, folder, init[0.0], tmp_path / "out", **{option: value})
    assert end.value.code == 2
    message = f"argument --{option.replace('_', '-')}: {value[:99]}"
    error = capsys.readouterr().err
    assert message in error and "is no positive number below 1,000,000,000" in error


def test_nothing_at_hand(tmp_path, monkeypatch, capsys):
    """The embedded model is trained, on drawings that a process of their own makes."""
    asked = []

    def write_no_drawings(command, cwd):
        asked.append(command)
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(subprocess, "run", write_no_drawings)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, [])
    assert end.value.code == 2
    assert "training the embedded nano model on the drawings" in capsys.readouterr().out
    drawings = str(tmp_path / "data" / "figures")
    assert asked == [[sys.executable, "-m", "drawings", "--out", drawings]]
    # Drawn already, nothing is drawn again; what is named is taken.
    (tmp_path / "data" / "figures").mkdir(parents=True)
    for arguments, message in (([], "data/figures"), (["--data", "photos"], "photos")):
        with pytest.raises(FileNotFoundError, match=f"^{message}/annotations.*is missing"):
            run_main(monkeypatch, arguments)
    assert len(asked) == 1
