"""The inputs of fuzz.py: a small folder of everything that users hand over, and ways to damage it.

Each function of KINDS damages something below the current folder, a copy of what `make_template`
wrote, and returns the Case that reads it.
"""

import copy
import io
import json
import os
import shutil
import struct
import warnings
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

# Imported once, not by each command.
import eval as evaluation  # noqa: F401
import train  # noqa: F401
from conftest import LLM, VISION, write_backbone
from damage import damage_value, find_holder, list_places, make_special
from dino import DINOv2, DINOv2Config
from drawings import dataset  # noqa: F401
from evaluations import write_kites_and_boats
from llama import Config, Llama
from study import encoders, show  # noqa: F401
from study.hiera import Hiera, HieraConfig
from study.instructions import INSTRUCTIONS
from study.metrics import METRICS
from study.pairs import PAIRS
from support.files import ROOT
from support.quote import cut
from support.tokenizer import LLAMA3_SPECIAL

SAMPLE = ["sample.py", "--image", "photo.png", "--desc", "desc.txt", "--model", "model"]
EVAL = ["eval.py", "--model", "model", "--data", "data", "--descriptions", "data/texts"]
TRAIN = ["train.py", "--init", "model", "--data", "data", "--descriptions", "data/texts"]
TRAIN += ["--steps", "2", "--batch", "2", "--workers", "0", "--seed", "1", "--out", "run"]
CHECK = ["data.py", "--check", "data", "--descriptions", "data/texts"]
HIERA = dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], num_query_pool=1, image_size=[32, 32])
HIERA |= dict(masked_unit_attention=[True, False], patch_size=[7, 7], patch_stride=[4, 4])
HIERA |= dict(patch_padding=[3, 3], query_stride=[2, 2], masked_unit_size=[2, 2])
WORDS = ["", "nan", "inf", "-1", "0", "1", "1e999", "9" * 400, "x" * 5000, "\x1b[31mred", "a\nb"]
WORDS += ["\udcff", "\u202e\u00e9", "1,2,3", "1,2,30,40", "..", "/dev/zero", "pipe", "none/" * 60]
WORDS += ["1e300", "99999999", "1e-300", "14000000"]
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I;16", "I", "F", "HSV"]

ODD = [0, 1, 2, 0.5, -1, 1e-9, 5e-324, 1e30, 1e99, 2**53, 2**63, 10**30, -0.0, "", "x", "y\n", str]
ODD += [None, True, [], {}, [0, 0, 0, 0], [1, 1, 1e-30, 1], [0, 0, 1e9, 1e9], [3, 4, 2] * 4, "500"]


class Case(NamedTuple):
    """command: what follows `python`; names: a refusal holds one of these; damage: in words."""

    command: list
    names: tuple
    damage: object


def make_template(folder, run_command):
    """Write what all inputs are copies of. run_command: of fuzz.py."""
    write_kites_and_boats(folder / "data")
    Image.new("RGB", (60, 40), "gray").save(folder / "photo.png")
    (folder / "desc.txt").write_text("nose: the tip of the nose\ntail: its end\n")
    write_models(folder)
    annotations = folder / "data" / "annotations"
    # Training's validation part is its test part.
    test, val = (annotations / f"mp100_split1_{part}.json" for part in ("test", "val"))
    shutil.copy(test, val)
    for command in (
        [*TRAIN, "--save-every", "1", "--val-every", "2"],
        [*EVAL, "--out", "done"],
        [*EVAL, "--out", "rich", "--density", "--controls", "--occlude", "0.3"],
    ):
        ended = run_command(command, folder)
        if ended.code:
            raise RuntimeError(f"{command} does not work: {ended}")
    write_paired(folder / "done", folder / "paired")
    # Half an evaluation: what was written before it was interrupted.
    for name in ("done", "rich"):
        lines = (folder / name / "instances.jsonl").read_text().splitlines()
        settings = json.loads((folder / name / "results.json").read_text())["settings"]
        part = folder / f"half-{name}" / "instances.part0.jsonl"
        part.parent.mkdir()
        part.write_text("\n".join([json.dumps({"settings": settings}), *lines[:3], ""]))


def write_paired(done, paired):
    """An evaluation as if over support-query pairs."""
    shutil.copytree(done, paired)
    numbers = json.loads((done / "results.json").read_text()) | {"protocol": PAIRS}
    numbers["split"] = 2
    (paired / "results.json").write_text(json.dumps(numbers))
    records = [json.loads(line) for line in (done / "instances.jsonl").read_text().splitlines()]
    for record in records:
        record["pairs"] = {name: record[name] for name in METRICS} | {"weight": 3}
    (paired / "instances.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))


def write_models(folder):
    """Models of random weights: model, tiktoken (its vocabulary), hiera (its encoder)."""
    torch.manual_seed(0)
    vocabulary = (ROOT / "nano" / "llm" / "tokenizer.model").read_bytes()
    ranks = "".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)).encode()
    small = {"image_size": 28, "num_hidden_layers": 1}
    vision, llm = VISION | small, LLM | {"num_hidden_layers": 1, "bos_token_id": 1}
    kinds = {
        "model": (vocabulary, "dinov2", llm | {"vocab_size": 1395}, 28),
        "tiktoken": (ranks, "dinov2", llm | {"vocab_size": 256 + len(LLAMA3_SPECIAL)}, 28),
        "hiera": (vocabulary, "hiera", llm | {"vocab_size": 1395}, 32),
    }
    kinds["tiktoken"][2]["bos_token_id"] = 256
    for name, (tokens, encoder, language, side) in kinds.items():
        place = folder / name
        place.mkdir()
        if encoder == "dinov2":
            write_backbone(place / "vision", DINOv2(DINOv2Config(**vision)), vision, encoder)
        else:
            shape = {k: v for k, v in HIERA.items() if k in HieraConfig.__dataclass_fields__}
            more = HIERA | {"hidden_act": "gelu"}
            write_backbone(place / "vision", Hiera(HieraConfig(**shape)), more, encoder)
        entries = {k: v for k, v in language.items() if k in Config.__dataclass_fields__}
        write_backbone(place / "llm", Llama(Config(**entries)), language, "llama")
        (place / "llm" / "tokenizer.model").write_bytes(tokens)
        config = {"vision": "vision", "llm": "llm", "image_size": side, "lora": None}
        (place / "config.json").write_text(json.dumps(config))
        width = 32 if encoder == "dinov2" else 16
        save_file({"projection.weight": torch.randn(32, width)}, place / "adapter.safetensors")


def damage_bytes(rng, content):
    """Some bytes flipped, written over, cut out, doubled or added."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 10])):
        at = rng.randrange(min(len(content), rng.choice([64, 10**9])) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            content[at:at + 1] = rng.randbytes(1)
        elif kind == 1:
            odd = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 65535, rng.getrandbits(32)])
            content[at:at + 4] = struct.pack(rng.choice("<>") + "I", odd)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at:at + rng.randrange(1, 40)]
        elif kind == 4:
            content[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            content[at:at] = content[at:at + rng.randrange(1, 400)]
    return bytes(content)


def damage_file(rng, path):
    """Damage a file of any kind. Returns how, in words."""
    path, kind = Path(path), rng.randrange(20)
    if kind == 0:
        special = rng.choice(["pipe", "device", "folder"])
        make_special(path, special)
        return f"{path}: a {special}"
    if kind == 1:
        path.unlink()
        if rng.random() < 0.5:
            path.symlink_to("nowhere")
        return f"{path}: missing"
    if kind == 2:
        path.write_bytes(rng.choice([b"", b"\0" * 100, b"<html>", b"\xff\xfe"]))
        return f"{path}: empty or so"
    content = damage_content(rng, path)
    before = path.read_bytes()
    path.write_bytes(content)
    same = len(os.path.commonprefix([before, content]))
    return f"{path}, from byte {same} on: {content[max(0, same - 30):same + 60]!r}"


def damage_content(rng, path):
    content = path.read_bytes()
    if path.suffix == ".json":
        return damage_json(rng, json.loads(content))
    if path.suffix == ".jsonl":
        lines = content.split(b"\n")
        at = rng.randrange(len(lines) - 1)
        lines[at] = damage_json(rng, json.loads(lines[at]))
        return b"\n".join(lines)
    if path.suffix == ".safetensors" and rng.random() < 0.8:
        return damage_tensors(rng, path)
    return damage_bytes(rng, content)


def damage_json(rng, value):
    """A damaged JSON text of a value; or one that is whole, but with some odd values in it."""
    if rng.random() < 0.5:
        return damage_value(rng, value)
    places, value = list_places(value), json.loads(json.dumps(value))
    chosen = rng.sample(places, min(len(places), rng.choice([1, 1, 2, 5])))
    # All values of one name, half of the time.
    if rng.random() < 0.5:
        chosen = [place for place in places if place[-1] == chosen[0][-1]]
    odd = rng.choice(ODD)
    for place in chosen:
        try:
            holder = find_holder(value, place)
            if rng.random() < 0.1:
                del holder[place[-1]]
            elif odd is str:
                holder[place[-1]] = str(holder[place[-1]])
            else:
                holder[place[-1]] = copy.deepcopy(odd)
        except (LookupError, TypeError):
            continue
    return json.dumps(value).encode()


def rename_ids(rng, coco):
    """Categories, images and annotations with other ids, all of them or some, alike everywhere."""
    kind = rng.choice([str, float, int.__neg__, lambda id: id * 10**17, lambda id: f"{id} \u00e9"])
    of = rng.choice(["category_id", "image_id"])
    for name in ("categories" if of == "category_id" else "images", "annotations"):
        for entry in coco[name]:
            field = of if name == "annotations" else "id"
            if entry[field] % 2:
                entry[field] = kind(entry[field])
    return json.dumps(coco).encode()


def damage_tensors(rng, path):
    """A safetensors file with one entry of its header, or some of its numbers, damaged."""
    content, kind = path.read_bytes(), rng.randrange(5)
    size, = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8:8 + size]), bytearray(content[8 + size:])
    if kind == 0:
        text = damage_value(rng, header)
        return struct.pack("<Q", len(text)) + text + numbers
    if kind == 1:
        at = 4 * rng.randrange(len(numbers) // 4)
        numbers[at:at + 4] = struct.pack("<f", rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45]))
        return content[:8 + size] + numbers
    tensors, texts = load_file(path), header.get("__metadata__")
    name = rng.choice(list(tensors))
    if texts and kind == 2:
        field = rng.choice(list(texts))
        texts[field] = damage_value(rng, {field: json.loads(texts[field])})[len(field) + 5:-1]
        texts[field] = texts[field].decode(errors="replace")
    elif kind == 3:
        odd = [t.to(torch.int64) for t in [tensors[name]]] + [tensors[name].half()]
        odd += [tensors[name][..., None], tensors[name].flatten()[:1], tensors[name].flatten()[:0]]
        tensors[name] = rng.choice(odd).contiguous()
    else:
        value = tensors.pop(name)
        tensors[rng.choice(["", "x" * 5000, "\x1b[31m", "a\nb", f"{name}.x"])] = value
    changed = path.with_name("changed")
    save_file(tensors, changed, texts)
    content = changed.read_bytes()
    changed.unlink()
    return content


def make_image(rng):
    """An image file's content, of any format and mode, perhaps with odd EXIF, perhaps damaged."""
    Image.init()
    size = rng.choice([(60, 40), (1, 1), (1, 500), (3000, 2), (200, 200), (40000, 1)])
    mode = rng.choice(MODES)
    format = rng.choice([*Image.SAVE, *["PNG", "JPEG", "TIFF", "WEBP"] * 5])
    noise = np.random.default_rng(rng.getrandbits(32))
    values = noise.integers(0, 256, (*size[::-1], 3), np.uint8)
    file, more = io.BytesIO(), {}
    if rng.random() < 0.3:
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        more = {"exif": exif if rng.random() < 0.3 else damage_bytes(rng, exif)}
    try:
        with warnings.catch_warnings(action="ignore"):
            Image.fromarray(values).convert(mode).save(file, format, **more)
    except Exception:
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
    content = file.getvalue()
    return damage_bytes(rng, content) if rng.random() < 0.7 else content


def image(rng):
    """A photo; or an image of the data."""
    if rng.random() < 0.5:
        name = rng.choice(["photo.png"] * 6 + ["a\nb.png", "\udcff.png", "\u202e.png", "x" * 200])
        command = [*SAMPLE[:2], name, *SAMPLE[3:]]
        path = Path(name)
    else:
        # Of training, of tests.
        path = Path("data/images") / rng.choice(["1.png", "9.png"])
        command = rng.choice([TRAIN[:-1] + ["new"], EVAL, EVAL + ["--out", "new"], CHECK])
        if rng.random() < 0.3 and command[0] == "train.py":
            command = [*command, "--skip-missing"]
    if rng.random() < 0.05:
        path = Path("photo.png") if path.parent == Path(".") else path
        names = (cut_short(path.name), cut_short(command[2]), "run")
        return Case(command, names, damage_file(rng, path))
    content = make_image(rng)
    path.write_bytes(content)
    return Case(command, (cut_short(path.name), "data/images", "run"), content[:200])


def cut_short(name):
    """A part of a name that a message shows however it cuts and escapes it."""
    return cut(name)[:20]


def annotations(rng):
    part = rng.choice(["train", "test", "val"])
    path = Path(f"data/annotations/mp100_split1_{part}.json")
    commands = [CHECK, EVAL, EVAL + ["--out", "new", "--controls", "--sheet"], EVAL + ["--pairs"]]
    commands += [TRAIN[:-1] + ["new"], TRAIN + ["--resume"]]
    if rng.random() < 0.2:
        multiply_annotations(path)
        commands = [EVAL + ["--pairs", "--limit", "2"], EVAL + ["--pairs", "--out", "new"]]
    if rng.random() < 0.2:
        path.write_bytes(rename_ids(rng, json.loads(path.read_bytes())))
        return Case(rng.choice(commands), (path.name, "data"), path.read_bytes())
    damage = damage_file(rng, path)
    return Case(rng.choice(commands), (path.name, "data"), damage)


def multiply_annotations(path):
    """So many of each image that support-query pairs can be drawn."""
    coco = json.loads(path.read_bytes())
    copies = [a | {"id": 100 * n + a["id"]} for n in range(6) for a in coco["annotations"]]
    path.write_text(json.dumps(coco | {"annotations": copies}))


def descriptions(rng):
    """Any characters, in any encoding."""
    odd = ["\r", "\n", "\r\n", "\t", "\0", "\x1b[0m", "\u202e", "\u200d", "\u2028", "\x85", "#"]
    odd += ["</s>", "<|end_of_text|>", "<KEYPOINT>", "[0.123,0.456]", "x" * 3000, "\ufeff", " "]
    odd += ["e\u0301", "\U0001f600", "nose: a tip\n", "tail: an end\n", "\n: no name\n"]
    odd += [":", "\nname:\n", "\u0627", "\ud800"]
    text = "".join(rng.choice(odd) for _ in range(rng.randrange(1, 30)))
    encoding = rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1", "utf-32"])
    content = text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    if rng.random() < 0.5:
        content = b"nose: tip\n" + content + b"\ntail: end\n"
    name = rng.choice(["desc.txt", "data/texts/kite.txt"])
    Path(name).write_bytes(content)
    command = rng.choice([SAMPLE, ["-m", "study.show", "desc.txt"], SAMPLE + ["--cumulative"]])
    instruct(rng, Path("model/config.json"))
    if name != "desc.txt":
        command = rng.choice([EVAL, EVAL + ["--names", "data/texts"], TRAIN[:-1] + ["new"], CHECK])
    names = (Path(name).name, "keypoint", "its name or description", "model/config.json")
    return Case(command, names, content[:300])


def model(rng):
    """A file of a model folder."""
    folder = rng.choice(["model", "tiktoken", "hiera"])
    files = ["config.json", "vision/config.json", "llm/config.json"] * 2 + ["adapter.safetensors"]
    files += ["vision/model.safetensors", "llm/model.safetensors"] + ["llm/tokenizer.model"] * 2
    path = Path(folder) / rng.choice(files)
    commands = [SAMPLE[:-1] + [folder]] * 3 + [["eval.py", "--model", folder, *EVAL[3:]]]
    commands.append(["train.py", "--init", folder, *TRAIN[3:-1], "new"])
    commands.append(["-m", "study.show", "desc.txt", "--llm", f"{folder}/llm"])
    return Case(rng.choice(commands), (folder,), damage_file(rng, path))


def shards(rng):
    """The index of weights in several files."""
    folder = Path("model/llm")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts, where = [{}, {}], {}
    for n, (name, value) in enumerate(tensors.items()):
        parts[n % 2][name] = value
        where[name] = f"model-0000{n % 2 + 1}-of-00002.safetensors"
    for n, part in enumerate(parts):
        save_file(part, folder / f"model-0000{n + 1}-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    path = rng.choice([index, index, folder / "model-00001-of-00002.safetensors"])
    return Case(rng.choice([SAMPLE, TRAIN[:-1] + ["new"]]), ("model",), damage_file(rng, path))


def run(rng):
    """What training wrote, and goes on from."""
    if rng.random() < 0.6:
        shutil.rmtree("run/step-0000002")
    newest = sorted(Path("run").glob("step-*"))[-1]
    files = ["run/log.jsonl"] * 2 + [newest / "state.safetensors"] * 2
    files += [newest / "config.json", newest / "adapter.safetensors"]
    damage = damage_file(rng, rng.choice(files))
    resumed = [*TRAIN, "--resume", "--val-every", "2"]
    commands = [resumed, resumed, ["eval.py", "--model", str(newest), *EVAL[3:]]]
    commands.append(["-m", "scripts.curves", "run", "--out", "curves.png"])
    return Case(rng.choice(commands), ("run",), damage)


def results(rng):
    """What evaluations wrote, and go on from, or are compared by."""
    names = ["done", "rich", "paired"]
    folder = rng.choice(["half-done", "half-rich", *names])
    path = rng.choice(sorted(Path(folder).glob("*.json*")))
    damage = damage_file(rng, path)
    more = {"rich": ["--density", "--controls", "--occlude", "0.3"]}
    resumed = [*EVAL, "--out", folder, "--resume", *more.get(folder.removeprefix("half-"), [])]
    commands = [resumed]
    if folder in names:
        both = [folder, rng.choice(names)]
        rng.shuffle(both)
        commands += [["eval.py", "--compare", *both], ["eval.py", "--average", *both]]
        commands.append(["eval.py", "--average", folder, "--out", "new"])
    return Case(rng.choice(commands), (folder, *names), damage)


def instruct(rng, path):
    """A model that asks in another way."""
    config = json.loads(path.read_bytes()) | {"instruction": rng.choice(list(INSTRUCTIONS))}
    path.write_text(json.dumps(config))


def options(rng):
    """Options of any values, paths of any characters."""
    os.mkfifo("pipe")
    instruct(rng, Path("model/config.json"))
    numbers = ["--seed", "--split", "--limit", "--image-size", "--batch", "--micro-batch", "--k"]
    choices = {
        "sample.py": (SAMPLE, ["--image", "--desc", "--box", "--density", "--truth", "--explain",
                               "--model", "--category", "--decoding", "--seed", "--cumulative",
                               "--out", "--json", "--odd"]),
        "coverage": (["-m", "study.coverage", "--model", "model", "--data", "data", "--limit", "1",
                      "--descriptions", "data/texts"],
                     ["--model", "--data", "--part", "--split", "--descriptions", "--limit",
                      "--calibrate"]),
        "eval.py": (EVAL + ["--limit", "1"], ["--model", "--data", "--descriptions", "--names",
                    "--occlude", "--out", "--decoding", *numbers[:4], "--compare", "--average"]),
        "train.py": (TRAIN[:-1] + ["new"], ["--init", "--data", "--descriptions", "--lr", "--clip",
                     "--epochs", "--rounds", "--tune", "--out", "--seed", "--split", "--k",
                     "--micro-batch", "--save-every", "--vision", "--digits", "--val-every"]),
        "data.py": (CHECK, ["--check", "--split", "--descriptions", "--out"]),
        "drawings": (["-m", "drawings", "--per-category", "0"],
                     ["--out", "--sheet", "--seed", "--odd", "--per-category"]),
        "study.show": (["-m", "study.show", "desc.txt"],
                       ["--llm", "--instruction", "--descriptions"]),
        "curves": (["-m", "scripts.curves", "run"], ["", "--labels", "--out"]),
    }
    command, names = choices[rng.choice(list(choices))]
    command = list(command)
    if command[0] == "train.py" and rng.random() < 0.2:
        command[command.index("--steps")] = "--epochs"
    for name in rng.sample(names, rng.choice([1, 1, 2])):
        values = [*WORDS, "greedy", "nose", "model", "data", "photo.png", "new/x.png", "run"]
        if name in ("--out", "--sheet", "--json"):
            values = [value for value in values if value not in ("..", "/dev/zero")]
        command += [word for word in (name, rng.choice(values)) if word or not name]
    given = map(cut_short, filter(None, command[2:]))
    return Case(command, ("category", "log.jsonl", *given), command)


KINDS = {
    "image": image,
    "annotations": annotations,
    "descriptions": descriptions,
    "model": model,
    "shards": shards,
    "run": run,
    "results": results,
    "options": options,
}
