"""The paper's own numbers, from paper.json beside this file.

    find_published(split=3)["PCK@0.20"]  # 0.9057, Table 2
    find_published(decoding="top-3")["mPCK"]  # 0.92, Table 9
"""

import json
from pathlib import Path
from typing import NamedTuple

from study.pairs import PAIRS, QUERY_IMAGES
from support import descriptions
from support.configs import read_config
from support.files import ROOT
from support.train_options import LOCLLM_K

FILE = Path(__file__).with_suffix(".json")
# Table 14's encoders, by the model_type of their config.json.
ENCODERS = {"dinov2": "dinov2", "dinov2_with_registers": "dinov2-reg", "hiera": "hiera"}
# Table 16's language models, by these entries of their config.json. Llama 2 has Vicuna's.
LLM_NUMBERS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
LLMS = {
    ("llama", 4096, 32, 128256): "Llama-3.1-8B",
    ("llama", 2048, 16, 128256): "Llama-3.2-1B",
    ("llama", 4096, 32, 32000): "Vicuna-7B-v1.5",
    ("mistral", 4096, 32, 32768): "Mistral-7B-v0.3",
}


class Way(NamedTuple):
    """How a model was asked.

    asked: the instruction; decoding, cumulative, image_size (None: the model's own), descriptions,
    names: as for eval.py.
    """

    asked: str
    decoding: str = "greedy"
    cumulative: str | None = None
    image_size: int | None = None
    descriptions: str = str(descriptions.DESCRIPTIONS)
    names: str | None = None


def find_published(**how):
    """{column: CapeLLM's score on MP-100's photographs, a fraction} of all rows measured this way.

    how: entries of "default" in paper.json that have another value. protocol: a name of
    study.pairs; split: 1 to 5, None for the mean of all; vision: "dinov2", "dinov2-reg" or "hiera";
    llm: a name of Table 16; output: "text" or "token"; trained, asked: the instructions of training
    and evaluation; texts: "detailed", "vague" (in training and evaluation), or what of Table 6 is
    simple, "simple" being both; decoding, cumulative, image_size: as for eval.py; rounds, k, tune:
    as for train.py, but k None if rounds are not fixed; first: the instruction of a pre-training.
    Empty if the paper did not measure this way; ValueError if two of its rows contradict.
    """
    paper = json.loads(FILE.read_bytes())
    unknown = how.keys() - paper["default"].keys()
    if unknown:
        raise ValueError(f"{FILE.name} knows nothing of {', '.join(sorted(unknown))}")
    wanted = paper["default"] | how
    found = {}
    for row in paper["rows"]:
        measured = {name: row.get(name, default) for name, default in paper["default"].items()}
        if measured != wanted or "contradicts" in row:
            continue
        for column, value in row["scores"].items():
            score = round(value / 100, 4)
            if found.setdefault(column, score) != score:
                raise ValueError(
                    f"{FILE.name}: Table {row['table']} has {column} {value} where an earlier one "
                    f'has {100 * found[column]:.2f}: say "contradicts" in the row not to be used'
                )
    return found


def find_counterpart(way, config, images, split, part):
    """The paper's numbers beside an evaluation; none if the paper did not measure so.

    way: a Way; config: the model folder's CapeLLMConfig; images: the study.images.Images of this
    split's part that were chosen from.
    """
    trained = config.trained or {}
    if not is_of_paper(images.names, split, part) or trained.get("split", split) != split:
        return {}
    return find_published(
        protocol=PAIRS if images.supports else QUERY_IMAGES,
        split=split,
        asked=way.asked,
        texts=name_texts(way.descriptions, way.names, trained.get("descriptions")),
        decoding=way.decoding,
        cumulative=way.cumulative,
        image_size=way.image_size or 224,
        **describe_model(config),
    )


def describe_model(config):
    """What a model is and how it was trained, as `find_published` takes it, without the texts.

    config: a CapeLLMConfig of support.folders.read_model_config. A language model that is none of
    Table 16's, as nano's, stands for the default; K is left out, as both read and write the same.
    """
    vision = read_config(Path(config.vision) / "config.json", {})
    llm = read_config(Path(config.llm) / "config.json", {})
    model = {"trained": config.instruction, "output": config.output}
    model["vision"] = ENCODERS.get(vision.get("model_type"))
    numbers = tuple(llm.get(name) for name in LLM_NUMBERS)
    if numbers in LLMS:
        model["llm"] = LLMS[numbers]
    if config.trained:
        model |= {name: config.trained[name] for name in ("rounds", "k", "tune", "first")}
        # The paper does not name LocLLM's k, its code does.
        if (model["rounds"], model["k"]) == ("locllm", LOCLLM_K):
            model["k"] = None
    return model


def name_texts(folder, names=None, trained=None):
    """Which of Table 5's and 6's texts a folder of description files holds; None if others.

    names: the folder that keypoints are named after, if it is another; trained: the folder of the
    model's training, None for the project's own.
    """
    home = descriptions.DESCRIPTIONS.resolve()
    simple, vague = home / "simple", home / "vague"
    known = {
        (home, home, home): "detailed",
        (vague, vague, vague): "vague",
        (home, home, simple): "simple names",
        (home, simple, home): "simple descriptions",
        (home, simple, simple): "simple",
    }
    # Inside of the project, config.json names it from there.
    learned = ROOT / (trained or home)
    folders = (learned, Path(folder), Path(names or folder))
    return known.get(tuple(folder.resolve() for folder in folders))


def is_of_paper(names, split, part):
    """Whether these categories {id: name} are those that the paper tests on this split."""
    facts = descriptions.read_mp100()
    tested = facts["splits"][str(split)]["test"]
    return part == "test" and names == {
        c["id"]: c["name"] for c in facts["categories"] if c["id"] in tested
    }
