"""What a GPU would be asked to do at the paper's size: counted on a simulated one, into results/.

    python -m scripts.launches          # then: python -m scripts.document

Llama-3.1-8B and ViT-L/14 in bf16 with adapters, without weights: operations, the bytes that they
read and write, and how often the CPU waits. One operation is one kernel or few; what a kernel keeps
to itself, such as attention's scores, counts for nothing.
"""

import argparse
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from capellm import CapeLLM
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from scripts import bench
from scripts.collect import RESULTS, write_results
from scripts.reference import LORA, SHAPES, write_tokenizer
from scripts.simulated_device import DEVICE, SimulatedDevice, move_model
from support import launch
from support.folders import CapeLLMConfig
from support.tokenizer import Tokenizer
from support.weights import skip_initialisation

SHAPE = SHAPES["llama8b"]
# Keypoints of the two ways to ask
SINGLE, CUMULATIVE = 17, 4


def make_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.model"
        write_tokenizer(file)
        return Tokenizer(file)


def make_model(shape, tokenizer):
    """A model on the meta device, its adapters and projection to be trained."""
    with torch.device("meta"), skip_initialisation():
        vision = DINOv2(DINOv2Config(**shape["vision"])).to(shape["dtype"])
        llm = Llama(Config(**shape["llm"])).to(shape["dtype"])
        config = CapeLLMConfig("", "", shape["vision"]["image_size"])
        model = CapeLLM(vision, llm, tokenizer, config).requires_grad_(False)
        model.adapt(LORA | {"parts": ["vision", "llm"]})
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    return model


def count(name, run, model, device):
    """A row of results/: what one run does, of all passes of the language model together."""
    passes = Counter()
    hook = model.llm.register_forward_pre_hook(lambda *_: passes.update(["llm"]))
    device.reset()
    run(model)
    hook.remove()
    return {
        "work": name,
        "passes": passes["llm"],
        "operations": device.launches,
        "GB": round(device.bytes / 1e9, 1),
        "sent": device.copies,
        "sent while waiting": len(device.blocking_copies),
        "read back": device.read_backs,
        "attention": dict(sorted(device.kernels.items())),
    }


def go_backward(work, model):
    bench.loss_of(model, work.pixels, work.pairs).backward()


def measure(shape, single, cumulative):
    """Rows of so many keypoints asked side by side, of so many in a chain, and of training."""
    tokenizer, rows = make_tokenizer(), []
    asked = bench.make_keypoints(max(single, cumulative), bench.QUESTION["infer"], tokenizer)
    with SimulatedDevice("meta") as device:
        model = move_model(make_model(shape, tokenizer), device).eval()
        # The frequencies of positions are sent with the first pass.
        model.llm(torch.zeros(1, 1, model.llm.config.hidden_size, device=DEVICE))
        pixels = bench.pixels_of(shape, DEVICE)
        answers = {
            f"{single} keypoints, single": bench.Inference(shape, pixels, asked[:single]),
            f"{cumulative} keypoints, cumulative": bench.Inference(
                shape, pixels, asked[:cumulative], cumulative=True
            ),
        }
        for name, work in answers.items():
            rows.append(count(name, work.run, model, device))
        model.train()
        for name, work in bench.train(shape, tokenizer, DEVICE, None).items():
            rows.append(count(f"training, {name}", partial(go_backward, work), model, device))
    return rows


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    numbers = {"command": "python -m scripts.launches", "rows": measure(SHAPE, SINGLE, CUMULATIVE)}
    write_results("launches", numbers)
    print(RESULTS.name + "/launches.json")


if __name__ == "__main__":
    launch.run("scripts.launches", main)
