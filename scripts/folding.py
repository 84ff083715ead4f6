"""What nano loses in bf16 if its adapters are folded into the backbones' weights.

    python -m scripts.folding --data data/figures       # writes results/folding.json

On a GPU the backbones are bf16. Folded, W + (alpha / rank) B A is computed in fp32 and rounded to
bf16 once, and of an update that is small beside W much is lost. `CapeLLM.from_pretrained` keeps
such adapters apart. This asks nano about the same drawings in fp32, in bf16 with its adapters
apart, and in bf16 with them folded.
"""


import torch

import data
from capellm import CapeLLM
from lora import LoRALinear
from scripts.collect import write_results
from study import metrics
from support import launch
from support.descriptions import describe_categories
from support.options import Parser, read_positive

MODEL = "nano"


@torch.no_grad()
def measure_loss(model):
    """The share of the adapters' update that rounding takes away: norms over all layers."""
    lost = kept = 0.0
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            W = layer.base.weight.float()
            update = layer.scale * layer.lora_B @ layer.lora_A
            rounded = (W + update).bfloat16().float()
            lost += float((rounded - W - update).square().sum())
            kept += float(update.square().sum())
    return (lost / kept) ** 0.5


def open_models():
    """{how: model}."""
    apart = CapeLLM.from_pretrained(MODEL, torch.bfloat16)
    folded = CapeLLM.from_pretrained(MODEL, torch.float32)
    for backbone in (folded.vision, folded.llm):
        backbone.bfloat16()
    exact = CapeLLM.from_pretrained(MODEL, torch.float32)
    return {"fp32": exact, "bf16, apart": apart, "bf16, folded": folded}


@torch.inference_mode()
def ask(models, instances, described):
    """{how: (answers, scores)}: coordinates of all labelled keypoints, and each image's scores."""
    found = {how: ([], []) for how in models}
    for instance in instances:
        keypoints = described[instance.category]
        labelled = instance.keypoints[:, 2] > 0
        asked = [k for k, is_labelled in zip(keypoints, labelled, strict=True) if is_labelled]
        for how, model in models.items():
            pixels, _ = data.load_crop(instance, model.config.image_size)
            pixels = pixels.to(model.device)
            coordinates = model.answer(pixels, asked, listed=keypoints).coordinates
            answers, scores = found[how]
            answers += coordinates
            scores.append(metrics.score_answers(instance, coordinates)["PCK@0.20"])
    return found


def compare(found):
    """A row for each way: the share of answers equal to fp32's, how far they lie apart, PCK."""
    exact, rows = torch.tensor(found["fp32"][0]), []
    for how, (answers, scores) in found.items():
        distance = (torch.tensor(answers) - exact).norm(dim=1)
        row = {
            "weights": how,
            "equal": round(100 * float((distance == 0).double().mean()), 1),
            "distance": round(100 * float(distance.mean()), 2),
            "PCK@0.20": round(100 * sum(scores) / len(scores), 1),
        }
        rows.append(row)
    return rows


def main():
    p = Parser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default="data/figures", metavar="FOLDER", help="the drawings")
    p.add_argument("--limit", type=read_positive, default=100, help="drawings asked about")
    a = p.parse_args()
    instances, names = data.read_split(a.data, 1, "test")
    described = describe_categories(instances, names)
    count = min(a.limit, len(instances))
    chosen = [instances[n * len(instances) // count] for n in range(count)]
    models = open_models()
    rows = compare(ask(models, chosen, described))
    numbers = {
        "command": f"python -m scripts.folding --limit {count}",
        "images": count,
        "lost": round(100 * measure_loss(models["bf16, apart"]), 1),
        "rows": rows,
    }
    write_results("folding", numbers)
    print(numbers)


if __name__ == "__main__":
    launch.run("scripts.folding", main)
