"""Time and peak memory of loading a language model, ours and transformers': `bench load`."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from scripts.reference import LOADED, write_llm

ROOT = Path(__file__).parent.parent

# Each in a process of its own: imports, which are not loading, and loading.
LOADERS = {
    "ours": (
        "from llama import Llama",
        "model = Llama.from_pretrained(folder, torch.bfloat16)",
    ),
    "reference": (
        "from transformers import LlamaForCausalLM",
        "model = LlamaForCausalLM.from_pretrained("
        "folder, dtype=torch.bfloat16, low_cpu_mem_usage=True)",
    ),
}
CHILD = """
import sys, time, torch
folder, imports, loading, root = sys.argv[1:]
sys.path.insert(0, root)
exec(imports)
def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024
before, began = resident("VmRSS"), time.perf_counter()
exec(loading)
total = sum(int(p.view(torch.int16).sum()) for p in model.parameters())  # every weight is there
print(time.perf_counter() - began, resident("VmHWM") - before, total)
"""


def load_once(folder, imports, loading):
    """(seconds, peak memory in bytes, sum of the weights) of one loading."""
    command = [sys.executable, "-c", CHILD, str(folder), imports, loading, str(ROOT)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    took, peak, total = out.stdout.split()
    return float(took), float(peak), int(total)


def measure_loading(repeat):
    """A row of results/cost.json; each repetition runs both sides."""
    with tempfile.TemporaryDirectory() as folder:
        write_llm(Path(folder), LOADED, torch.bfloat16)
        size = (Path(folder) / "model.safetensors").stat().st_size
        found = {side: [] for side in LOADERS}
        for _ in range(repeat):
            for side, loader in LOADERS.items():
                found[side].append(load_once(folder, *loader))
    if len({total for runs in found.values() for _, _, total in runs}) != 1:
        raise SystemExit("the two loaded different weights")
    row = {"work": f"{size / 2e9:.1f} billion parameters"}
    for side, runs in found.items():
        row[f"{side}, s"] = round(statistics.median(took for took, _, _ in runs), 1)
        row[f"{side}, file sizes"] = round(max(peak for _, peak, _ in runs) / size, 2)
    return row
