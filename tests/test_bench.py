"""bench.py: both sides do the same work, and it takes the operations that are counted."""
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import data
from scripts import bench
from support.tokenizer import Tokenizer

SHAPE = bench.SHAPES["tiny"]
V, M = SHAPE["vision"], SHAPE["llm"]
TRUNK = 1 + 2 * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with torch.random.fork_rng():
        bench.write_model(folder, SHAPE)
    return folder


@pytest.fixture
def measure(folder, monkeypatch):
    """(what is measured, keypoints) -> for each piece of work, what each side counts and what torch does: but for attention,
    which torch does not count on the CPU. Both sides must agree. A chain has room for two rounds."""
    monkeypatch.setattr(data, "MAX_TOKENS", TRUNK + 2 * (58 + 14))
    monkeypatch.setattr(bench, "SAMPLES", 16)
    monkeypatch.setattr(bench, "chain", lambda new, past=0: 0)

    def run(what, *counts):
        models = {side: bench.open_model(side, what, folder, SHAPE, "cpu", checked=True) for side in bench.SIDES}
        seeing = 4 * V["num_hidden_layers"] * V["hidden_size"] * TRUNK ** 2 * (3 if what == "train" else 1)
        for name, work in bench.WORKS[what](SHAPE, Tokenizer.from_pretrained(folder / "llm"), "cpu", counts).items():
            numbers, found = {}, {}
            for side, model in models.items():
                images = []
                watch = model.vision.register_forward_pre_hook(lambda _, pixels: images.append(len(pixels[0])))
                with FlopCounterMode(display=False) as counter:
                    result = work.run(model)
                watch.remove()
                numbers[side] = work.check(model, result)
                found[side] = work.count(side, result) - seeing * sum(images), counter.get_total_flops()
            bench.agree(name, *(numbers[side] for side in bench.SIDES))
            assert name.endswith("samples") or any(map(len, numbers["ours"]))
            yield found
    return run


def test_inference(measure):
    """The reference to the last operation; ours less the last MLP of tokens whose hidden states nobody reads."""
    single, cumulative = measure("infer", 3)
    for found, read in ((single, 3 * (58 - bench.SHARED + 11)), (cumulative, 2 * 72 - 3 + 58 + 11)):
        counted, measured = found["reference"]
        assert counted == measured
        counted, measured = found["ours"]
        assert counted - measured == (read - 3 * 6) * 6 * M["hidden_size"] * M["intermediate_size"]


def test_training(measure):
    """Both to the last operation, but for the gradients that the first vision layer's input does not need."""
    unneeded = TRUNK * (6 * V["hidden_size"] ** 2 + 4 * 8 * V["hidden_size"])
    for found, images in zip(measure("train"), (1, 4), strict=True):
        for side, n in (("reference", images), ("ours", 1)):
            counted, measured = found[side]
            assert counted - measured == n * unneeded


def test_density(measure):
    """Samples share what is equal: it is less than three greedy answers, and counted like them."""
    greedy, samples, exact = measure("density")
    for found in (greedy, samples, exact):
        counted, measured = found["reference"]
        assert counted == measured
    assert samples["reference"][1] > 10 * greedy["reference"][1] and samples["ours"][1] < 3 * greedy["ours"][1]
    for found in (greedy, samples, exact):
        counted, measured = found["ours"]
        assert measured < counted < 1.5 * measured


def test_a_table_pairs_the_runs():
    work = bench.Work(None, None, None)
    seconds = {("w", "reference"): [4, 9, 2], ("w", "ours"): [2, 3, 2]}
    checks = {("w", "reference"): (([[0, 1], [2, 3]], [1]), 2e9), ("w", "ours"): (([[0, 1], [2, 4]], [1]), 1e9)}
    counts = {("w", "reference"): 8e9, ("w", "ours"): 2e9}
    lines = bench.table({"w": work}, bench.SIDES, checks, [1e9, 1e9, 4e9], seconds, counts)
    heads, rule, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    row = dict(zip(heads, cells, strict=True))
    assert len(rule) == len(cells) and row["reference, s"] == "4.00" and row["ours, GB"] == "1.00"
    assert row["times faster"] == "2.00" and row["ours, of the rate"] == "67%"         # of 2, 3, 1; of 100, 67, 25
    assert row["same answers"] == "1 of 2"
    with pytest.raises(SystemExit, match="w: the two differ"):
        bench.agree("w", *(checks["w", side][0] for side in bench.SIDES))
    only = list(bench.table({"w": work}, ["ours"], checks, [1e9] * 3, seconds, counts))
    assert only[0] == "| | ours, s | ours, GFLOP | ours, of the rate | ours, GB |"
