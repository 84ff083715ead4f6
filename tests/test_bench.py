"""scripts/bench.py: both sides do the same work, and it takes the operations that are counted."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import data
from scripts import bench
from scripts.reference import SHAPES, write_model
from support.tokenizer import Tokenizer

SHAPE = SHAPES["tiny"]
V, M = SHAPE["vision"], SHAPE["llm"]
TRUNK = 1 + 2 * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with torch.random.fork_rng():
        write_model(folder, SHAPE)
    return folder


def count_torch(work, model):
    """What torch counts, images that were computed, and the result.

    Torch does not count attention on the CPU.
    """
    images = []

    def watch(_, pixels):
        images.append(len(pixels[0]))

    handle = model.vision.register_forward_pre_hook(watch)
    with FlopCounterMode(display=False) as counter:
        result = work.run(model)
    handle.remove()
    return counter.get_total_flops(), sum(images), result


@pytest.fixture
def measure(folder, monkeypatch):
    """(what is measured, keypoints) -> for each piece of work (counted, measured) of each side.

    But for attention. Both sides must agree. A chain has room for two rounds.
    """
    monkeypatch.setattr(data, "MAX_TOKENS", TRUNK + 2 * (58 + 14))
    monkeypatch.setattr(bench, "SAMPLES", 16)
    monkeypatch.setattr(bench, "chain", lambda new, past=0: 0)

    def run(what, *counts):
        models = {}
        for side in bench.SIDES:
            models[side] = bench.open_model(side, what, folder, SHAPE, "cpu", checked=True)
        seeing = 4 * V["num_hidden_layers"] * V["hidden_size"] * TRUNK**2
        seeing *= 3 if what == "train" else 1
        tokenizer = Tokenizer.from_pretrained(folder / "llm")
        for name, work in bench.WORKS[what](SHAPE, tokenizer, "cpu", counts).items():
            numbers, found = {}, {}
            for side, model in models.items():
                measured, images, result = count_torch(work, model)
                numbers[side] = work.check(model, result)
                found[side] = work.count(side, result) - seeing * images, measured
            bench.agree(name, numbers["reference"], numbers["ours"])
            assert name.endswith("samples") or any(map(len, numbers["ours"]))
            yield found

    return run


def test_inference(measure):
    """The reference to the last operation.

    Ours less the last MLP of tokens whose hidden states nobody reads.
    """
    single, cumulative = measure("infer", 3)
    read = {"single": 3 * (58 - bench.SHARED + 11), "cumulative": 2 * 72 - 3 + 58 + 11}
    for found, tokens in ((single, read["single"]), (cumulative, read["cumulative"])):
        counted, measured = found["reference"]
        assert counted == measured
        counted, measured = found["ours"]
        mlp = 6 * M["hidden_size"] * M["intermediate_size"]
        assert counted - measured == (tokens - 3 * 6) * mlp


def test_training(measure):
    """Both to the last operation.

    But for the gradients that the first vision layer's input does not need.
    """
    unneeded = TRUNK * (6 * V["hidden_size"] ** 2 + 4 * 8 * V["hidden_size"])
    for found, images in zip(measure("train"), (1, 4), strict=True):
        for side, n in (("reference", images), ("ours", 1)):
            counted, measured = found[side]
            assert counted - measured == n * unneeded


def test_density(measure):
    """Samples share what is equal: less than three greedy answers, and counted like them."""
    greedy, samples, exact = measure("density")
    for found in (greedy, samples, exact):
        counted, measured = found["reference"]
        assert counted == measured
    assert samples["reference"][1] > 10 * greedy["reference"][1]
    assert samples["ours"][1] < 3 * greedy["ours"][1]
    for found in (greedy, samples, exact):
        counted, measured = found["ours"]
        assert measured < counted < 1.5 * measured


RATES = [1e9, 1e9, 4e9]
REFERENCE = bench.Measured([4, 9, 2], RATES, 8e9, [[0, 1], [2, 3]], [1], 2e9)
OURS = bench.Measured([2, 3, 2], RATES, 2e9, [[0, 1], [2, 4]], [1], 1e9)


def test_a_row_pairs_the_runs():
    row = bench.row_of("w", {("w", "reference"): REFERENCE, ("w", "ours"): OURS})
    assert row["reference, s"] == 4 and row["ours, GB"] == 1
    # Of 2, 3 and 1; of 100, 67 and 25%
    assert row["times faster"] == 2 and row["ours, of the rate"] == 0.67
    assert row["same answers"] == "1 of 2"
    alone = bench.row_of("w", {("w", "ours"): OURS})
    assert "times faster" not in alone and not any("reference" in key for key in alone)


def test_the_two_sides_must_agree():
    reference, ours = (REFERENCE.answers, REFERENCE.values), (OURS.answers, OURS.values)
    bench.agree("w", ours, ours)
    with pytest.raises(SystemExit, match="w: the two differ"):
        bench.agree("w", reference, ours)
    with pytest.raises(SystemExit, match="w: the two differ"):
        bench.agree("w", ours, (ours[0], [1.01]))


def test_rows_are_written_with_their_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bench.py", "load", "--repeat", "3"])
    bench.write_rows("load", [{"work": "w", "ours, s": 1.5}])
    (row,) = json.loads((tmp_path / "out/bench/load.json").read_text())
    command = "python -m scripts.bench load --repeat 3"
    assert row == {"work": "w", "command": command, "ours, s": 1.5}


def test_a_table_has_a_column_for_each_entry(capsys):
    bench.show([{"work": "a", "s": 1}, {"work": "b", "GB": 2}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["| work | s | GB |", "|---|---:|---:|", "| a | 1 |  |", "| b |  | 2 |"]
