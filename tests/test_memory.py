"""What reading a large file costs: its pages, which processes share, and no copy of them.

Linux tells the two apart; elsewhere these tests hold of nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support import checkpoints
from support.files import ROOT
from support.folders import CapeLLMConfig

COUNT, ROWS = 16, 1024
MIB = COUNT * ROWS * 1024 * 4 / 2**20  # of each file: 64
LITTLE = 0.4  # of a file's size, where a copy is once that size or twice

# `watch()` counts what this process has of its own; `grown()` is the highest growth since, in MiB.
START = """if True:
    import sys, threading, time
    from pathlib import Path
    import torch
    from support import checkpoints, folders, parallel, weights

    def count_own():
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = dict(line.split(":") for line in lines if line.startswith("Rss"))
        return int(sizes["RssAnon"].split()[0]) / 1024

    def sample(highest):
        while True:
            highest.append(count_own())
            time.sleep(0.001)

    def watch():
        highest = [count_own()]
        threading.Thread(target=sample, args=(highest,), daemon=True).start()
        return lambda: max(highest + [count_own()]) - highest[0]

    def make_tensors():
        return {f"t{i}": torch.zeros(1024, 1024) for i in range(16)}

    folder = Path(sys.argv[1])
"""


def make_tensors():
    torch.manual_seed(0)
    return {f"t{i}": torch.randn(ROWS, 1024) for i in range(COUNT)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and its tensors as a backbone's in fp32 and bf16."""
    folder = tmp_path_factory.mktemp("run") / "step-0000001"
    tensors = make_tensors()
    moments = {}
    for name, tensor in tensors.items():
        moments[name] = {"exp_avg": tensor, "exp_avg_sq": tensor.abs(), "step": torch.tensor(1.0)}
    state = {"step": 1, "best": None, "settings": {}, "optimiser": moments}
    state["random"] = torch.get_rng_state()[None]
    checkpoints.write_checkpoint(folder, CapeLLMConfig("v", "l"), tensors, state)
    for dtype in (torch.float32, torch.bfloat16):
        backbone = folder / str(dtype).removeprefix("torch.")
        backbone.mkdir()
        narrowed = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_file(narrowed, backbone / "model.safetensors")
    return folder


def start(script, folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", START + script, str(folder), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(script, folder, *arguments):
    """The number that a script prints; where Linux does not count, 0."""
    if not Path("/proc/self/status").exists():
        return 0
    printed, _ = start(script, folder, *arguments).communicate(timeout=120)
    return float(printed)


LOAD = """
    with torch.device("meta"):
        model = torch.nn.ParameterDict(make_tensors())
    dtype = {"fp32": torch.float32, "as stored": weights.AS_STORED}[sys.argv[3]]
    grown = watch()
    weights.load_weights(model, folder / sys.argv[2], dtype)
"""


@pytest.mark.parametrize(
    "stored, dtype, most",
    [
        ("float32", "fp32", LITTLE),
        ("float32", "as stored", LITTLE),
        ("bfloat16", "as stored", LITTLE),
        ("bfloat16", "fp32", 1.2),
    ],
)
def test_weights_are_the_file_s_own_pages(folder, stored, dtype, most):
    """Unless they become wider."""
    grown = run(LOAD + "\n    print(grown())", folder, stored, dtype)
    assert grown < most * MIB
    if most > 1 and grown:
        # Otherwise this test would measure nothing.
        assert grown > 0.9 * MIB


def test_two_processes_share_these_pages(folder):
    script = (
        LOAD
        + """
    print("loaded", flush=True)
    sys.stdin.readline()
    lines = Path("/proc/self/smaps").read_text().split("model.safetensors")[1].splitlines()
    # Dirty: written by the test, and not yet to the disk.
    shared = [int(line.split()[1]) for line in lines if line.startswith("Shared_")]
    print(sum(shared[:2]) / 1024, flush=True)
    sys.stdin.readline()
    """
    )
    if not Path("/proc/self/smaps").exists():
        return
    both = [start(script, folder, "float32", "fp32") for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "loaded\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.readline()) > 0.9 * MIB
    for process in both:
        process.communicate("\n", timeout=60)


def test_a_checkpoint_is_copied_tensor_by_tensor(folder):
    script = """
    own = {name: tensor.fill_(1) for name, tensor in make_tensors().items()}
    grown = watch()
    folders.fill_tensors(own, folder)
    assert own["t3"].std() > 0.9
    print(grown())
    """
    assert run(script, folder) < LITTLE * MIB


def test_an_optimiser_s_state_is_read_as_it_is_used(folder):
    """Read and checked, its two moments are pages of the file."""
    script = """
    parameters = {n: torch.nn.Parameter(t.fill_(1)) for n, t in make_tensors().items()}
    optimiser = torch.optim.AdamW(parameters.values())
    device = torch.device("cpu")
    grown = watch()
    state = checkpoints.read_state(folder, {})
    checkpoints.check_state(folder, state, parameters, device, rank=0)
    parallel.restore_state(state, optimiser, parameters, device, rank=0)
    assert "optimiser" not in state
    assert optimiser.state[parameters["t3"]]["exp_avg"].std() > 0.9
    print(grown())
    """
    assert run(script, folder) < LITTLE * MIB
