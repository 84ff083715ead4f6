"""train.py on a tiny data folder: its first step by hand, interrupted and killed, alone and as four processes, what it refuses."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from skirts import write_skirts

import data
import eval as evaluation
import train
from capellm import CapeLLM, Codec
from lora import LoRALinear
from study import metrics
from support import checkpoints, launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_skirts(folder)
    return folder


@pytest.fixture(scope="module")
def init(model_folder, tmp_path_factory):
    """Model folders by their LoRA dropout."""

    def copy(dropout):
        target = tmp_path_factory.mktemp("init") / "model"
        shutil.copytree(model_folder, target)
        config = json.loads((target / "config.json").read_text())
        config["lora"] |= {"dropout": dropout}
        (target / "config.json").write_text(json.dumps(config))
        return target

    return {dropout: copy(dropout) for dropout in (0.0, 0.3)}


pytestmark = pytest.mark.usefixtures("one_thread")  # runs are compared bit by bit


@pytest.fixture(autouse=True)
def signals():
    """train.py takes SIGTERM and Ctrl-C for itself; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command(folder, start, out, **options):
    options = {
        "data": folder,
        "init": start,
        "descriptions": folder,
        "out": out,
        "batch": 8,
        "workers": 0,
        "steps": 6,
    } | options
    return [
        str(word)
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", value)
        if word is not True
    ]


def run(monkeypatch, *arguments, **options):
    monkeypatch.setattr(sys, "argv", ["train.py", *command(*arguments, **options)])
    train.main()


def adapters(out):
    """{step: tensors} of a run's checkpoints."""
    return {
        int(p.name[5:]): load_file(p / "adapter.safetensors")
        for p in checkpoints.list_checkpoints(out)
    }


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


# The schedule and the order of pairs


@pytest.mark.parametrize("steps", [2, 10, 100, 1234])
def test_schedule(steps):
    factors = [train.schedule(step, steps) for step in range(steps)]
    warm = max(1, round(0.03 * steps))
    assert factors[:warm] == [(i + 1) / warm for i in range(warm)] and max(factors) == 1
    assert train.schedule(steps, steps) == pytest.approx(0, abs=1e-12)
    rest = np.array([train.schedule(step, steps) for step in range(warm, steps + 1)])
    assert (np.diff(rest) < 0).all()
    np.testing.assert_allclose(
        rest + rest[::-1], 1, atol=1e-12
    )  # half a cosine is odd about its middle
    if len(rest) > 4:  # and flat at its ends
        assert rest[0] - rest[1] < rest[len(rest) // 2 - 1] - rest[len(rest) // 2]


# Runs


@pytest.mark.parametrize(
    "options",
    [{}, {"rounds": "dynamic", "micro_batch": 3}, {"share_image": True, "micro_batch": 3}],
    ids=["fixed", "dynamic", "shared"],
)
def test_resumed_equals_uninterrupted(folder, init, tmp_path, monkeypatch, options):
    """Bit by bit, within an epoch and across its end, with augmentation and with dropout, and whoever loads the images."""
    run(monkeypatch, folder, init[0.3], tmp_path / "whole", save_every=2, **options)
    whole = adapters(tmp_path / "whole")
    assert sorted(whole) == [2, 4, 6] and not equal(whole[4], whole[6])
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "step-0000006")
    (tmp_path / "cut" / "step-0000006.partial").mkdir()  # what a crash may leave
    with open(tmp_path / "cut" / "log.jsonl", "a") as log:
        log.write('{"step": 7, "lo')
    torch.manual_seed(1234)
    run(
        monkeypatch,
        folder,
        init[0.3],
        tmp_path / "cut",
        save_every=2,
        workers=1,
        resume=True,
        **options,
    )
    assert equal(adapters(tmp_path / "cut")[6], whole[6])
    states = [
        load_file(tmp_path / n / "step-0000006" / "state.safetensors") for n in ("whole", "cut")
    ]
    assert equal(*states) and len(states[0]) == 1 + 3 * len(
        whole[6]
    )  # randomness; step and two moments for each
    logs = [log_of(tmp_path / n) for n in ("whole", "cut")]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]] == [1, 2, 3, 4, 5, 6]
    assert [(r["loss"], r["digits"], r["lr"]) for r in logs[0]] == [
        (r["loss"], r["digits"], r["lr"]) for r in logs[1]
    ]
    assert [r["lr"] for r in logs[0]] == [5e-4 * train.schedule(i, 6) for i in range(6)]


def test_the_newest_checkpoints_and_the_best_are_kept(folder, init, tmp_path, monkeypatch):
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.5, 0.1])
    monkeypatch.setattr(
        train, "validate", lambda *_: {"mPCK": next(scores), "PCK@0.05": 0.0, "PCK@0.20": 0.0}
    )
    run(monkeypatch, folder, init[0.0], tmp_path / "out", save_every=1, val_every=1, batch=2)
    assert (
        sorted(adapters(tmp_path / "out")) == [4, 5, 6] and train.KEEP == 3
    )  # 0.5 again: the later one is the best
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"log.jsonl", "curves.png", *(f"step-000000{i}" for i in (4, 5, 6))}
    CapeLLM.from_pretrained(tmp_path / "out" / "step-0000006")  # a checkpoint is a model folder
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.4, 0.1])
    run(monkeypatch, folder, init[0.0], tmp_path / "early", save_every=1, val_every=1, batch=2)
    assert sorted(adapters(tmp_path / "early")) == [2, 4, 5, 6]


def spy(monkeypatch):
    """The models that train.py opens."""
    models, original = [], train.open_model

    def open_model(*a, **k):
        models.append(original(*a, **k))
        return models[-1]

    monkeypatch.setattr(train, "open_model", open_model)
    return models


TUNED = {"lora": ("vision.", "llm.", "projection."), "frozen": ("llm.", "projection.")}


@pytest.mark.parametrize("tune", ["lora", "frozen", "full"])
def test_the_first_step_is_adamw_by_hand(folder, init, tmp_path, monkeypatch, tune):
    """p (1 - lr decay) - lr g / (|g| + eps) on what is trained (Table 15), with weight decay 0.01 on matrices; the rest to the last bit."""
    models = spy(monkeypatch)
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1, tune=tune)
    trained, start = models[0], CapeLLM.from_pretrained(init[0.0], merge=tune == "full")
    if tune == "full":
        tuned = set(dict(start.named_parameters()))
    else:
        tuned = {n for n in start.adapter() if n.startswith(TUNED[tune])}
        assert 0 < len(tuned) < len(start.state_dict()) and all(
            any(part in n for n in tuned) for part in TUNED[tune]
        )
    saved = adapters(tmp_path / "out")[1]
    assert saved.keys() == (tuned if tune == "full" else start.adapter().keys())
    before, after = start.state_dict(), trained.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in tuned)
    instances, names = data.read_split(folder)
    pairs = data.Pairs(
        instances, data.describe(instances, names, folder), start.tokenizer, start.codec, 28
    )
    start.requires_grad_(True)
    for i in range(8):  # the mean over pairs of each pair's mean over tokens
        pixels, ids, labels = pairs[i]
        (start.loss(pixels[None], [[(ids, labels)]])[0] / 8).backward()
    assert len(pairs) == 24
    moved = 0
    for name, p in start.named_parameters():
        if name in tuned:
            decay = 0.01 if p.dim() > 1 else 0.0
            expected = p.detach() * (1 - 5e-4 * decay) - 5e-4 * p.grad / (p.grad.abs() + 1e-8)
            clear = (p.grad.abs() > 1e-6) | (p.grad == 0)  # where rounding cannot turn the sign
            torch.testing.assert_close(after[name][clear], expected[clear], atol=2e-5, rtol=0)
            assert torch.equal(saved[name], after[name])
            moved += int((clear & (p.grad != 0)).sum())
    assert moved > 1000
    state = load_file(tmp_path / "out" / "step-0000001" / "state.safetensors")
    assert {n.rpartition("/")[0] for n in state} - {""} == tuned
    keypoints = data.read_descriptions(folder / "skirt.txt")[:3]
    model = CapeLLM.from_pretrained(tmp_path / "out" / "step-0000001", merge=False)
    assert model.answer(pixels, keypoints) == trained.eval().answer(pixels, keypoints)


def test_adapters_come_and_go_with_tune(folder, init, tmp_path, monkeypatch):
    """Frozen, what the vision encoder has of adapters answers without dropout; where it has none, --tune lora adds them."""
    models = spy(monkeypatch)
    run(monkeypatch, folder, init[0.3], tmp_path / "frozen", steps=1, tune="frozen")
    dropout = lambda part: {m.p for m in part.modules() if isinstance(m, LoRALinear)}
    assert dropout(models[0].vision) == {0.0} and dropout(models[0].llm) == {0.3}
    bare = tmp_path / "bare"
    shutil.copytree(init[0.0], bare)
    config = json.loads((bare / "config.json").read_text())
    config["lora"]["parts"] = ["llm"]
    (bare / "config.json").write_text(json.dumps(config))
    without = {
        n: t
        for n, t in load_file(bare / "adapter.safetensors").items()
        if not n.startswith("vision.")
    }
    save_file(without, bare / "adapter.safetensors")
    run(monkeypatch, folder, bare, tmp_path / "lora", steps=1)
    saved = adapters(tmp_path / "lora")[1]
    assert saved.keys() == load_file(init[0.0] / "adapter.safetensors").keys() > without.keys()
    assert all(
        saved[n].any() for n in saved if n.startswith("vision.")
    )  # B too has moved from zero
    CapeLLM.from_pretrained(tmp_path / "lora" / "step-0000001")


def launch_processes(processes, *arguments, script=data.HERE / "train.py", **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(data.HERE)}
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    done = subprocess.run(
        [*launcher, str(script), *command(*arguments, **options)],
        env=environment,
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


def assert_same_run(one, other, start):
    a, b, start = adapters(one)[4], adapters(other)[4], load_file(start / "adapter.safetensors")
    assert (
        a.keys() == b.keys() and max(float((t - start[n]).abs().max()) for n, t in a.items()) > 1e-3
    )
    for name in a:  # where a gradient is nothing but rounding, AdamW may go either way
        assert float(((a[name] - b[name]).abs() > 2e-5).float().mean()) < 0.01, name
    np.testing.assert_allclose(
        *([r["loss"] for r in log_of(out)] for out in (one, other)), atol=2e-4
    )


@pytest.mark.parametrize(
    "options", [{}, {"fsdp": True, "checkpoint_activations": True}], ids=["ddp", "fsdp"]
)
def test_four_processes_equal_one(folder, init, one, tmp_path, options):
    """The same pairs make a step, whoever computes them, also where 10 cannot be dealt evenly. Dropout is off: each process has its own."""
    launch_processes(4, folder, init[0.0], tmp_path / "four", steps=4, batch=10, **options)
    assert_same_run(one, tmp_path / "four", init[0.0])


def test_bf16_weights_and_fp32_adapters_sharded(folder, init, tmp_path, monkeypatch):
    """As on GPUs: gathered weights are what one process has, to the bit, and every pair's gradient with them."""
    (tmp_path / "bf16.py").write_text("""if True:
        import torch
        import data, train
        from support import launch
        original = train.CapeLLM.from_pretrained
        train.CapeLLM.from_pretrained = lambda folder, dtype, *a, **k: original(folder, torch.bfloat16, *a, **k)
        if __name__ == "__main__":
            launch.run("train.py", train.main)
    """)
    launch_processes(
        2, folder, init[0.0], tmp_path / "two", steps=4, fsdp=True, script=tmp_path / "bf16.py"
    )
    models, original = spy(monkeypatch), CapeLLM.from_pretrained
    monkeypatch.setattr(
        CapeLLM,
        "from_pretrained",
        lambda folder, dtype, *a, **k: original(folder, torch.bfloat16, *a, **k),
    )
    run(monkeypatch, folder, init[0.0], tmp_path / "one", steps=4)
    assert {p.dtype for p in models[0].parameters()} == {torch.bfloat16, torch.float32}
    assert_same_run(tmp_path / "one", tmp_path / "two", init[0.0])


def test_everything_trained_sharded(folder, init, tmp_path, monkeypatch):
    """As one process trains it; between the passes of a step no process holds a whole gradient."""
    (tmp_path / "shards.py").write_text("""if True:
        import torch, data, train
        from torch.distributed.tensor import DTensor
        from support import launch, parallel
        passes, forward = [], parallel.Loss.forward
        def watched(self, *a):
            kinds = {type(p.grad) for p in self.parameters()}
            assert kinds <= {DTensor} if len(passes) % 2 else kinds == {type(None)}, kinds    # the second pass of a step
            passes.append(1)
            return forward(self, *a)
        parallel.Loss.forward = watched
        if __name__ == "__main__":
            launch.run("train.py", train.main)
    """)
    options = {"tune": "full", "steps": 2, "batch": 4, "lr": 1e-3}
    launch_processes(
        2, folder, init[0.0], tmp_path / "two", fsdp=True, script=tmp_path / "shards.py", **options
    )
    run(monkeypatch, folder, init[0.0], tmp_path / "one", **options)
    one, two = adapters(tmp_path / "one")[2], adapters(tmp_path / "two")[2]
    before = dict(CapeLLM.from_pretrained(init[0.0]).named_parameters())
    assert one.keys() == two.keys() == before.keys()
    assert all(
        (one[n] - p).abs().max() > 1e-4 for n, p in before.items() if not n.endswith("mask_token")
    )  # no patch is masked
    off = {n for n in one if float(((one[n] - two[n]).abs() > 2e-5).float().mean()) > 0.01}
    assert all(n.endswith("key.bias") for n in off), (
        off
    )  # moves no softmax: its gradient is nothing but rounding


@pytest.mark.parametrize("fsdp", [False, True])
def test_shards_are_loaded_on_the_cpu(fsdp, monkeypatch):
    found = []
    monkeypatch.setattr(CapeLLM, "from_pretrained", lambda _, *a, **k: found.extend(a))
    with pytest.raises(AttributeError):  # None is no model
        train.open_model("model", None, None, "lora", torch.device("cuda", 1), on_cpu=fsdp)
    assert found == [torch.bfloat16, torch.device("cpu") if fsdp else torch.device("cuda", 1)]


def test_processes_wait_for_each_other(monkeypatch):
    """Longer than any share of a validation or an evaluation; torch gives up after 10 or 30 minutes."""
    asked = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda _, **k: asked.update(k))
    assert launch.setup()[1] == 2 and asked["timeout"] >= timedelta(days=1)


@pytest.mark.parametrize("fsdp", [{}, {"fsdp": True}], ids=["ddp", "fsdp"])
def test_two_processes_resumed_equal_uninterrupted(folder, init, tmp_path, fsdp):
    """Bit by bit, with dropout, sharded or not: once in a whole, once saved half-way."""
    launch_processes(
        2, folder, init[0.3], tmp_path / "whole", steps=4, save_every=2, val_every=3, **fsdp
    )
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "step-0000002", tmp_path / "cut" / "step-0000002")
    launch_processes(
        2, folder, init[0.3], tmp_path / "cut", steps=4, save_every=2, resume=True, **fsdp
    )
    assert equal(adapters(tmp_path / "cut")[4], adapters(tmp_path / "whole")[4])
    assert not equal(adapters(tmp_path / "whole")[2], adapters(tmp_path / "whole")[4])
    assert ["val" in r for r in log_of(tmp_path / "whole")] == [False, False, True, True]


def test_activations_computed_again_change_nothing(folder, init, tmp_path, monkeypatch):
    for name, options in (("kept", {}), ("again", {"checkpoint_activations": True})):
        run(monkeypatch, folder, init[0.3], tmp_path / name, steps=2, **options)
    kept, again = (adapters(tmp_path / name)[2] for name in ("kept", "again"))
    for name in kept:
        torch.testing.assert_close(again[name], kept[name], atol=1e-6, rtol=0)


def test_training_lowers_the_loss(folder, init, tmp_path, monkeypatch):
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=24, lr=0.02)
    losses = [r["loss"] for r in log_of(tmp_path / "out")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1


def test_validation_is_eval_py_on_the_checkpoint(folder, init, tmp_path, monkeypatch):
    run(monkeypatch, folder, init[0.3], tmp_path / "out", steps=3, val_every=2)
    log = log_of(tmp_path / "out")
    assert ["val" in r for r in log] == [False, True, True]
    for step in (2, 3):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "eval.py",
                "--model",
                str(tmp_path / "out" / f"step-000000{step}"),
                "--data",
                str(folder),
                "--part",
                "val",
                "--descriptions",
                str(folder),
                "--out",
                str(tmp_path / f"{step}"),
            ],
        )
        with pytest.raises(SystemExit):
            evaluation.main()
        results = json.loads((tmp_path / f"{step}" / "results.json").read_text())
        assert log[step - 1]["val"] == {
            n: pytest.approx(results[n], abs=1e-3) for n in (*metrics.PCK, "mPCK")
        }


# Killed, stopped, out of room: runs in processes of their own, forked from one that has imported everything


def fork(script, *arguments):
    """Run a script that has train, os, signal, torch ..., `child(argv)` (forks a run, gives its pid) and sys.argv."""
    start = """if True:
        import json, os, random, resource, signal, sys, time
        from pathlib import Path
        import torch
        from safetensors import safe_open
        import data, train
        from support import checkpoints, launch
        def child(argv, before=lambda: None):
            if pid := os.fork():
                return pid
            torch.set_num_threads(1)
            sys.argv = ["train.py", *argv]
            sys.stdout = sys.stderr = open(os.devnull, "w")
            before()
            try:
                launch.run("train.py", train.main)
            except SystemExit as e:
                sys.stderr.flush()
                os._exit(e.code or 0)
            os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", start + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(data.HERE), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_twenty_times(folder, init, tmp_path, monkeypatch):
    """The newest checkpoint is whole whenever SIGKILL comes, also inside a save, and the end is the uninterrupted one's."""
    run(monkeypatch, folder, init[0.3], tmp_path / "whole", steps=30, batch=2)
    arguments = command(
        folder, init[0.3], tmp_path / "killed", steps=30, batch=2, save_every=1, resume=True
    )
    found = fork(
        """
        def slow():                                     # saves take about half of the time
            for owner, name in ((checkpoints, "save_file"), (os, "replace")):
                setattr(owner, name, lambda *a, call=getattr(owner, name): (time.sleep(0.03), call(*a), time.sleep(0.03)))
        rng, out, inside, reached = random.Random(0), Path(sys.argv[1]), 0, set()
        for _ in range(20):
            pid, before = child(sys.argv[2:], slow), {*out.glob("step-*")}
            while not os.waitpid(pid, os.WNOHANG)[0] and {*out.glob("step-*")} == before:    # past the start
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            inside += any(out.glob("*.partial"))
            newest = checkpoints.list_checkpoints(out)[-1]
            with safe_open(newest / "state.safetensors", framework="pt") as state:
                reached.add(int(state.metadata()["step"]))
            train.CapeLLM.from_pretrained(newest)
        print(json.dumps([inside, sorted(reached)]))
        pid = child(sys.argv[2:])
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
        tmp_path / "killed",
        *arguments,
    )
    inside, reached = json.loads(found)
    assert inside >= 3 and len(reached) >= 5
    assert equal(adapters(tmp_path / "killed")[30], adapters(tmp_path / "whole")[30])


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(folder, init, tmp_path, one, number, code):
    """Also where it comes twice, and to the processes that load images, too: as from a terminal."""
    arguments = command(
        folder,
        init[0.0],
        tmp_path / "out",
        steps=4,
        batch=10,
        save_every=100,
        resume=True,
        workers=2,
    )
    found = fork(
        """
        def terminal():                                 # signals after the first step
            os.setpgrp()
            checkpoints.append_to_log = lambda *_: [os.killpg(0, int(number)) for _ in range(2)]
        _, out, number, *argv = sys.argv
        pid = child(argv, terminal)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(*(p.name for p in checkpoints.list_checkpoints(out)))
        print(os.waitstatus_to_exitcode(os.waitpid(child(argv), 0)[1]))
    """,
        tmp_path / "out",
        int(number),
        *arguments,
    ).split()
    assert found == [str(code), "step-0000002", "0"]
    assert equal(adapters(tmp_path / "out")[4], adapters(one)[4])


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step(folder, init, tmp_path, number, code):
    found = fork(
        """
        checking = Path(sys.argv[1])
        pid = child(sys.argv[3:], lambda: setattr(data, "check", lambda *_: (checking.touch(), time.sleep(100))))
        while not checking.exists():
            time.sleep(0.005)
        os.kill(pid, int(sys.argv[2]))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
        tmp_path / "checking",
        int(number),
        *command(folder, init[0.0], tmp_path / "out"),
    )
    assert found.split() == [str(code)] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("room, what", [(4000, r"step-\d+"), (50, r"log\.jsonl")])
def test_a_full_disk_is_an_error_and_loses_nothing(folder, init, tmp_path, room, what):
    arguments = command(
        folder, init[0.0], tmp_path / "out", steps=4, batch=10, save_every=1, resume=True
    )
    found = fork(
        """
        out, room = Path(sys.argv[1]), int(sys.argv[2])
        def limited():                                  # no file may grow beyond: writing fails as on a full disk
            sys.stderr = sys.__stdout__
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        pid = child(sys.argv[3:])
        while not checkpoints.list_checkpoints(out):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = checkpoints.list_checkpoints(out)[-1].name
        print(os.waitstatus_to_exitcode(os.waitpid(child(sys.argv[3:], limited), 0)[1]), before)
    """,
        tmp_path / "out",
        room,
        *arguments,
    )
    code, newest = found.split()[-2:]
    assert code == "2" and re.search(
        rf"{what} cannot be written \(.*\): make room; training continues with --resume", found
    )
    assert checkpoints.list_checkpoints(tmp_path / "out")[-1].name == newest and not list(
        (tmp_path / "out").glob("*.partial")
    )
    CapeLLM.from_pretrained(tmp_path / "out" / newest)


# Watching it


def test_the_log_says_how_long_a_step_waited(folder, init, one, tmp_path, monkeypatch):
    original = data.Pairs.__getitem__
    monkeypatch.setattr(
        data.Pairs, "__getitem__", lambda self, i: time.sleep(0.2) or original(self, i)
    )
    run(monkeypatch, folder, init[0.0], tmp_path / "slow", steps=2, batch=10)
    for record in log_of(tmp_path / "slow"):
        assert record["waiting"] * 10 / record["pairs_per_s"] > 1.95
    assert all(0 <= r["waiting"] < 1 for r in log_of(one))


def test_without_matplotlib(folder, init, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=2, save_every=1)
    assert not (tmp_path / "out" / "curves.png").exists() and sorted(
        adapters(tmp_path / "out")
    ) == [1, 2]
    assert capsys.readouterr().out.count("no curves.png: pip install matplotlib") == 1


# What is refused


def refused(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(data.HERE / "train.py"), run_name="__main__")
    assert exit.value.code == 2
    lines = [
        line
        for line in capsys.readouterr().err.strip().splitlines()
        if not re.search(r"\d+/\d+ \[", line)
    ]  # the bar's
    assert len(lines) == 1 and lines[0].startswith("train.py: ")
    return lines[0]


def test_an_earlier_run_is_not_overwritten(folder, init, tmp_path, monkeypatch, capsys):
    shutil.copytree(init[0.0], tmp_path / "out" / "step-0000003")
    error = refused(monkeypatch, capsys, command(folder, init[0.0], tmp_path / "out"))
    assert str(tmp_path / "out") in error and "--resume" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["step-0000003"]


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
        ({"init": "another"}, "the model changed"),
        ({"data": "another"}, "run: the data changed."),
        ({"data": "fewer"}, "instances was 13, is 12; the data changed."),
        ({"data": "recoloured"}, "run: the data changed."),
        ({"descriptions": "another"}, "run: the descriptions changed."),
    ],
)
def test_a_run_continues_only_as_it_began(
    folder, init, short, tmp_path, monkeypatch, capsys, options, message
):
    out = shutil.copytree(short, tmp_path / "out")
    if options.get("init"):
        options = {"init": shutil.copytree(init[0.0], tmp_path / "init")}
        tensors = load_file(options["init"] / "adapter.safetensors")
        save_file({n: t + 1 for n, t in tensors.items()}, options["init"] / "adapter.safetensors")
    if "data" in options or "descriptions" in options:
        ((what, how),) = options.items()
        options = {what: shutil.copytree(folder, tmp_path / "data")}
        annotations, words = (
            tmp_path / "data" / "annotations" / "mp100_split1_train.json",
            tmp_path / "data" / "skirt.txt",
        )
        coco = json.loads(annotations.read_text())
        if how == "recoloured":
            Image.new("RGB", (60, 50)).save(tmp_path / "data" / "images" / "3.png")
        elif how == "fewer":
            coco["annotations"].pop()
        else:
            coco["annotations"][0]["bbox"][0] -= 1
        annotations.write_text(json.dumps(coco))
        words.write_text(words.read_text().replace("c:", "c: the third"))
    arguments = command(
        folder,
        init[0.0],
        out,
        **({"steps": 2, "batch": 2, "save_every": 1, "resume": True} | options),
    )
    error = refused(monkeypatch, capsys, arguments)
    assert (
        message in error
        and "step-0000001 is of another run" in error
        and [p.name for p in checkpoints.list_checkpoints(out)] == ["step-0000001"]
    )


def test_another_number_of_processes(folder, init, short, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(short, tmp_path / "out")
    state = out / "step-0000001" / "state.safetensors"
    with safe_open(state, framework="pt") as content:
        metadata = content.metadata()
    save_file(
        load_file(state),
        state,
        metadata | {"settings": metadata["settings"].replace('"processes": 1', '"processes": 4')},
    )
    error = refused(
        monkeypatch,
        capsys,
        command(folder, init[0.0], out, steps=2, batch=2, save_every=1, resume=True),
    )
    assert "processes was 4, is 1" in error


@pytest.mark.parametrize("damage", [b"", b"no state", None])
def test_a_damaged_state(folder, init, short, tmp_path, monkeypatch, capsys, damage):
    out = shutil.copytree(short, tmp_path / "out")
    state = out / "step-0000001" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100] if damage is None else damage)
    error = refused(
        monkeypatch,
        capsys,
        command(folder, init[0.0], out, steps=2, batch=2, save_every=1, resume=True),
    )
    assert f"{state} is damaged" in error and "--resume continues the checkpoint before it" in error


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_names_its_samples(
    folder, init, tmp_path, monkeypatch, capsys, what
):
    """The pair of the loss, or all of the step of a gradient: no checkpoint holds the weights that it would have led to."""
    original, seen = CapeLLM.loss, []

    def loss(self, pixels, branches):
        found, digits = original(self, pixels, branches)
        seen.append((pixels, branches))
        damage = (
            float("nan") if what == "loss" else (found - found.detach()).abs().sqrt()
        )  # of slope 0 * inf at 0
        return (found + damage, digits) if len(seen) == 11 else (found, digits)

    monkeypatch.setattr(CapeLLM, "loss", loss)
    error = refused(monkeypatch, capsys, command(folder, init[0.0], tmp_path / "out", save_every=1))
    instances, names = data.read_split(folder)
    tokenizer = CapeLLM.from_pretrained(init[0.0]).tokenizer
    pairs = data.Pairs(
        instances, data.describe(instances, names, folder), tokenizer, data.Codec(tokenizer), 28
    )
    pixels, [[(ids, labels)]] = seen[10]  # steps of 8 pairs, one a pass
    named = [
        i
        for i in range(8, 16)
        if torch.equal(pairs[i][0], pixels[0]) and pairs[i][1:] == (ids, labels)
    ]
    assert len(named) == 1 and f"the {what} is nan at step 2, from " in error
    (listed,) = re.findall(" from (.*?)(?: and [0-9]+ more)?: look at these", error)
    names = {pairs.name(i) for i in (named if what == "loss" else range(8, 16))}
    assert {name.strip(" ,") for name in re.findall(r".*?\)", listed)} <= names and listed.count(
        "("
    ) == min(5, len(names))
    assert sorted(adapters(tmp_path / "out")) == [1]


def test_own_photographs(folder, init, tmp_path, monkeypatch, capsys):
    """Annotations as any tool exports them, of a category that MP-100 does not have; images that are missing."""
    own = shutil.copytree(folder, tmp_path / "own")
    coco = json.loads(
        (own / "annotations" / "mp100_split1_train.json").read_text().replace("skirt", "unicorn")
    )
    shutil.rmtree(own / "annotations")
    (own / "annotations").mkdir()
    (own / "annotations" / "train.json").write_text(json.dumps(coco))
    (own / "skirt.txt").rename(own / "unicorn.txt")
    (own / "images" / "3.png").unlink()
    arguments = command(own, init[0.0], tmp_path / "out", steps=1)
    error = refused(monkeypatch, capsys, arguments)
    assert (
        "1 of 13 images missing" in error
        and "3.png" in error
        and "--skip-missing" in error
        and not (tmp_path / "out").exists()
    )
    run(monkeypatch, own, init[0.0], tmp_path / "out", steps=1, skip_missing=True)
    assert "12 instances" in capsys.readouterr().out and sorted(adapters(tmp_path / "out")) == [1]


@pytest.mark.parametrize("instruction", ["direct-qa", "steps-qa", "steps"])
def test_pretraining_moves_the_projection_alone(folder, init, tmp_path, monkeypatch, instruction):
    """Supplement C; what follows asks for coordinates again, whatever the model learned before. steps is no pre-training."""
    run(monkeypatch, folder, init[0.0], tmp_path / "out", steps=1, instruction=instruction)
    start, trained = load_file(init[0.0] / "adapter.safetensors"), adapters(tmp_path / "out")[1]
    moved = {name for name, tensor in trained.items() if not torch.equal(tensor, start[name])}
    config = json.loads((tmp_path / "out" / "step-0000001" / "config.json").read_text())
    assert (log_of(tmp_path / "out")[0]["digits"] == 0) == (
        instruction != "steps"
    )  # pre-training asks for none
    if instruction == "steps":
        assert len(moved) > 1 and config["instruction"] == "steps"
    else:
        assert moved == {"projection.weight"} and config["instruction"] == "base"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"workers": -1}, "--workers -1"),
        ({"llm": "other"}, "--init .* names its own backbones: leave out --vision and --llm"),
        ({"split": 2}, "mp100_split2_train.json is missing"),
        ({"init": "nowhere"}, "nowhere is no model folder"),
        ({"share_image": True}, "--share-image shares within a pass, .* raise it"),
        ({"fsdp": True}, "--fsdp shards over processes: start them with torchrun"),
        (
            {"instruction": "direct-qa", "tune": "full"},
            "--instruction direct-qa trains the projection alone: leave out --tune full",
        ),
        (
            {"instruction": "steps-qa", "val_every": 1},
            "--val-every measures coordinates, --instruction steps-qa asks for names",
        ),
    ],
)
def test_wrong_input(folder, init, tmp_path, monkeypatch, capsys, options, message):
    error = refused(monkeypatch, capsys, command(folder, init[0.0], tmp_path / "out", **options))
    assert re.search(message, error) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option, value",
    [(option, "0") for option in ("batch", "micro_batch", "k", "steps", "epochs")]
    + [("lr", "-1"), ("epochs", "inf"), ("epochs", "nan")],
)
def test_numbers_are_positive(folder, init, tmp_path, monkeypatch, capsys, option, value):
    monkeypatch.setattr(
        sys, "argv", ["train.py", *command(folder, init[0.0], tmp_path / "out", **{option: value})]
    )
    with pytest.raises(SystemExit) as exit:
        train.main()
    assert (
        exit.value.code == 2
        and f"argument --{option.replace('_', '-')}: {value} is no positive number"
        in capsys.readouterr().err
    )
