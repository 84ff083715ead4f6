"""A witness to refactoring: what nano draws, answers and learns must stay the same to the bit.

    PYTHONPATH=. python tests/witness.py --write witness.json      # before a change
    PYTHONPATH=. python tests/witness.py --compare witness.json    # after it, on the same machine

It records 200 drawings of all categories, nano's answers to them (single-round, cumulative,
sampled), one density, one evaluation, and 20 training steps each of three kinds. Numbers are
written as hexadecimal floats or hashes of bytes: nothing is rounded. The file depends on the
processor and on PyTorch's version, so it is not committed.
"""

import argparse
import hashlib
import json
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import data
from capellm import CapeLLM
from drawings.dataset import write_dataset
from drawings.scene import draw_category
from study import density
from support.files import ROOT

SEED = 12345
TRAININGS = {
    "fixed": ["--rounds", "fixed"],
    "dynamic": ["--rounds", "dynamic"],
    "share-image": ["--rounds", "dynamic", "--share-image", "--micro-batch", "4"],
}


def hash_bytes(value):
    if isinstance(value, torch.Tensor):
        value = value.contiguous().numpy()
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(value).hexdigest()[:16]


def write_exactly(numbers):
    """Floats, or lists of them, as text that loses nothing."""
    if isinstance(numbers, (list, tuple)):
        return [write_exactly(n) for n in numbers]
    return float(numbers).hex()


def witness_drawings_and_answers(model):
    """Two drawings of each category: {name: what was drawn, what nano answers}."""
    found = {}
    for number, category in enumerate(data.read_mp100()["categories"]):
        keypoints = data.read_descriptions(ROOT / "descriptions" / f"{category['definition']}.txt")
        for index in range(2):
            image, truth, bbox = draw_category(category, SEED, index)
            pixels, _ = model.look(image, tuple(bbox))
            drawing = [hash_bytes(np.array(image)), hash_bytes(truth), hash_bytes(bbox)]
            asked = keypoints[:20]
            name = category["name"]
            answers = {"single": model.answer(pixels, asked, category=name, listed=keypoints)}
            if index == 0:
                answers["sampled"] = model.answer(
                    pixels, asked, "sampling", seed=number, category=name, listed=keypoints
                )
            if number % 4 == 0:
                cumulative = "confidence" if index else True
                answers["cumulative"] = model.answer(
                    pixels, asked, cumulative=cumulative, category=name, listed=keypoints
                )
            if number % 10 == 0:
                decoding = "contrastive" if index else "nucleus"
                answers[decoding] = model.answer(
                    pixels, asked, decoding, seed=number, category=name, listed=keypoints
                )
            exactly = {way: write_exactly(answer[:2]) for way, answer in answers.items()}
            found[f"{category['id']} {name} {index}"] = {"drawing": drawing, **exactly}
    return found


def witness_density(model):
    category = data.read_mp100()["categories"][0]
    keypoints = data.read_descriptions(ROOT / "descriptions" / f"{category['definition']}.txt")
    image, _, bbox = draw_category(category, SEED, 0)
    found = model.density(image, keypoints[0], tuple(bbox), category=category["name"])
    places = [density.find_mode(found.p), density.find_median(found.p), density.find_mean(found.p)]
    return {
        "p": hash_bytes(found.p),
        "spread": write_exactly(found.spread),
        "prefixes": found.prefixes,
        "places": write_exactly(places),
    }


def run_script(name, arguments):
    """Run a script of this project in this process, as from the command line."""
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


def witness_training(folder, options, out):
    """Losses as they go backward, norms of the gradients and the weights at the end."""
    losses, norms = [], []
    backward, total_norm = torch.Tensor.backward, torch.nn.utils.get_total_norm

    def recorded_backward(self, *arguments, **more):
        losses.append(write_exactly(self.item()))
        return backward(self, *arguments, **more)

    def recorded_norm(*arguments, **more):
        norm = total_norm(*arguments, **more)
        norms.append(write_exactly(norm.item()))
        return norm

    torch.Tensor.backward, torch.nn.utils.get_total_norm = recorded_backward, recorded_norm
    arguments = ["--init", ROOT / "nano", "--data", folder, "--out", out, "--steps", 20]
    arguments += ["--batch", 8, "--workers", 0, "--save-every", 20]
    try:
        run_script("train.py", [*arguments, *options])
    finally:
        torch.Tensor.backward, torch.nn.utils.get_total_norm = backward, total_norm
    adapter = (out / "step-0000020" / "adapter.safetensors").read_bytes()
    return {"losses": losses, "norms": norms, "adapter": hash_bytes(adapter)}


def witness_evaluation(folder, out):
    """The records of an evaluation with everything that it can measure beside answers."""
    arguments = ["--model", ROOT / "nano", "--data", folder, "--limit", 6, "--out", out]
    run_script("eval.py", [*arguments, "--controls", "--occlude", 0.3, "--density"])
    records = [json.loads(line) for line in (out / "instances.jsonl").read_text().splitlines()]
    for record in records:
        record["file"] = Path(record["file"]).name
    scores = json.loads((out / "results.json").read_text())
    kept = {name: scores[name] for name in ("PCK@0.05", "PCK@0.20", "mPCK", "AUC", "NME")}
    return {"records": records, "scores": kept, "intervals": scores["intervals"]["mPCK"]}


def witness():
    torch.set_num_threads(1)
    model = CapeLLM.from_pretrained(ROOT / "nano")
    found = {"answers": witness_drawings_and_answers(model), "density": witness_density(model)}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_dataset(folder / "drawings", SEED, per_category=2)
        for name, options in TRAININGS.items():
            found[name] = witness_training(folder / "drawings", options, folder / name)
        found["evaluation"] = witness_evaluation(folder / "drawings", folder / "evaluation")
    return json.loads(json.dumps(found))


def list_differences(before, after, path=""):
    """The places, as a/b/c, at which two trees of JSON differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        places = []
        for key in sorted(before.keys() | after.keys()):
            places += list_differences(before.get(key), after.get(key), f"{path}/{key}")
        return places
    return [] if before == after else [f"{path}: {str(before)[:60]} is now {str(after)[:60]}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE")
    what.add_argument("--compare", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = witness()
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1))
        return
    differences = list_differences(json.loads(arguments.compare.read_text()), found)
    print("\n".join(differences[:40]))
    print(f"{len(differences)} differences")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
