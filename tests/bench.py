"""Measurements that are too long for the tests.

    python tests/bench.py load          # time and peak memory of loading a language model, beside transformers
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
# 1.5 billion parameters in bf16: Llama 3.2's proportions
SHAPE = dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=20, num_attention_heads=32,
             num_key_value_heads=8, head_dim=64, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True)
LOADERS = {"capellm": "from llama import Llama; model = Llama.from_pretrained(folder, torch.bfloat16)",
           "transformers": "from transformers import LlamaForCausalLM; "
                           "model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, low_cpu_mem_usage=True)"}
CHILD = """if True:
    import sys, time, torch
    folder, loader, root = sys.argv[1:]
    sys.path.insert(0, root)
    exec(loader.split(";")[0])                      # imports are not loading
    def resident(field):
        return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))) * 1024
    before, began = resident("VmRSS"), time.perf_counter()
    exec(loader.split(";")[1].strip())
    total = sum(int(p.view(torch.int16).sum()) for p in model.parameters())     # every weight is really there
    print(time.perf_counter() - began, resident("VmHWM") - before, total)
"""


def write_model(folder):
    """A language model with random bf16 weights, written tensor by tensor as shards of a published model are named."""
    sys.path.insert(0, str(ROOT))
    from llama import Config, Llama
    with torch.device("meta"):
        expected = Llama(Config(**SHAPE)).state_dict()
    tensors = {n: torch.empty(t.shape, dtype=torch.bfloat16).uniform_(-0.1, 0.1) for n, t in expected.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}))
    return sum(t.numel() for t in tensors.values()), (folder / "model.safetensors").stat().st_size


def load(repeat):
    """Time and peak memory of loading, paired: each repetition runs both, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        parameters, size = write_model(Path(folder))
        found = {name: [] for name in LOADERS}
        for _ in range(repeat):
            for name, loader in LOADERS.items():
                out = subprocess.run([sys.executable, "-c", CHILD, folder, loader, str(ROOT)], capture_output=True, text=True, check=True)
                found[name].append([float(n) for n in out.stdout.split()])
    if len({sums[2] for runs in found.values() for sums in runs}) != 1:
        raise SystemExit("the two loaded different weights")
    print(f"{parameters / 1e9:.2f} billion parameters, a file of {size / 1e9:.2f} GB, median of {repeat}")
    for name, runs in found.items():
        print(f"{name:13} {statistics.median(r[0] for r in runs):6.2f} s   peak {max(r[1] for r in runs) / size:.2f} x the file")
    print(f"transformers / capellm, paired: {statistics.median(t[0] / o[0] for o, t in zip(*found.values())):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("what", choices=["load"])
    p.add_argument("--repeat", type=int, default=5)
    a = p.parse_args()
    load(a.repeat)
