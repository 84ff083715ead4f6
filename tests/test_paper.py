"""paper.py: the paper's tables as they are printed; they agree with each other, and are found for
the same model, asked the same way, alone."""

import json
from collections import Counter

import numpy as np
import pytest

from evaluations import NAMES, T
from scripts import tables, trained
from study import pairs, paper
from study.images import Images
from study.paper import find_published
from support import descriptions
from support.descriptions import read_mp100
from support.folders import CapeLLMConfig

# CapeLLM's rows as the paper prints them, and how each was measured where that is not the default;
# `_` is a space.
PRINTED = """
Table 2
PCK@0.20
96.98
92.34 split=2
90.57 split=3
90.87 split=4
92.24 split=5
92.60 split=null
97.01 protocol=support-query_pairs
92.40 protocol=support-query_pairs split=2
90.58 protocol=support-query_pairs split=3
90.90 protocol=support-query_pairs split=4
92.11 protocol=support-query_pairs split=5
92.60 protocol=support-query_pairs split=null

Table 3
PCK@0.15 PCK@0.20 PCK@0.25
91.00 94.85 96.98 rounds=locllm k=null
90.56 93.39 95.03 rounds=locllm k=null cumulative=fixed
95.26 96.98 97.90
93.02 94.59 95.42 cumulative=fixed
94.31 96.05 97.26 rounds=dynamic k=null
95.62 97.28 98.27 rounds=dynamic k=null cumulative=fixed

Table 4
PCK@0.05 PCK@0.20 mPCK
55.15 94.85 84.00 rounds=locllm k=null
78.43 96.98 91.98
76.55 96.05 90.92 rounds=dynamic k=null

Table 5
PCK@0.05 PCK@0.20 mPCK
69.82 91.97 85.98 texts=vague
78.43 96.98 91.98

Table 6
PCK@0.05 PCK@0.20 PCK@0.25
78.43 96.98 97.90
78.24 96.94 97.83 texts=simple_names
70.11 96.67 97.69 texts=simple_descriptions
66.16 96.09 97.26 texts=simple

Table 7
PCK@0.20 mPCK
96.98 91.98
95.28 86.66 asked=replaced
95.15 85.69 asked=names
96.65 89.87 trained=random asked=random
96.39 89.65 trained=random asked=replaced
96.07 88.84 trained=random asked=names

Table 8
PCK@0.05 PCK@0.20 PCK@0.25
78.43 96.98 97.90
78.68 97.07 97.93 image_size=238
78.45 97.11 97.99 image_size=252
78.25 96.85 97.81 image_size=336

Table 9
PCK@0.20 PCK@0.25 mPCK
96.98 97.90 91.98
96.06 97.26 89.58 decoding=sampling
96.69 97.76 90.95 decoding=temperature
97.07 97.92 92.00 decoding=top-3
97.05 97.91 91.97 decoding=top-5
96.69 97.77 90.71 decoding=nucleus
96.98 97.90 91.98 decoding=contrastive

Table 10
PCK@0.05 PCK@0.20 mPCK
72.60 96.22 89.86 trained=names asked=names
78.43 96.98 91.98
77.36 95.80 90.97 trained=list asked=list

Table 11
PCK@0.05 PCK@0.20 mPCK
78.43 96.98 91.98
74.24 96.56 90.56 trained=diverse asked=diverse
75.08 96.27 90.63 trained=outline asked=outline
68.24 95.93 88.52 trained=diverse-outline asked=diverse-outline

Table 12
PCK@0.05 PCK@0.10 PCK@0.15 PCK@0.20 PCK@0.25 mPCK
78.29 91.55 95.19 96.89 97.88 91.96 k=1
72.82 88.06 92.79 95.30 96.56 89.11 k=2
78.43 91.34 95.26 96.98 97.90 91.98
74.33 89.82 94.17 96.36 97.46 90.43 k=6
75.28 89.89 93.99 96.16 97.41 90.55 k=8

Table 13
PCK@0.05 PCK@0.20 mPCK
78.43 96.98 91.98
76.06 96.48 91.11 trained=steps asked=steps
76.46 96.41 91.20 llm=Llama-3.2-1B
76.65 96.75 91.49 llm=Llama-3.2-1B trained=steps asked=steps

Table 14
PCK@0.05 PCK@0.10 PCK@0.15 PCK@0.20 PCK@0.25 mPCK
62.52 86.00 92.83 95.83 97.34 86.90 vision=dinov2-reg
56.13 83.31 91.99 95.67 97.35 84.89 vision=hiera
78.43 91.34 95.26 96.98 97.90 91.98

Table 15
PCK@0.05 PCK@0.10 PCK@0.15 PCK@0.20 PCK@0.25 mPCK
69.69 88.16 92.62 95.07 96.41 88.39 tune=frozen
78.43 91.34 95.26 96.98 97.90 91.98
6.93 23.72 42.41 55.31 64.56 38.59 tune=full

Table 16
PCK@0.05 PCK@0.10 PCK@0.15 PCK@0.20 PCK@0.25 mPCK
76.46 91.05 94.69 96.41 97.40 91.20 llm=Llama-3.2-1B
62.15 84.40 91.51 94.79 96.33 85.84 llm=Vicuna-7B-v1.5
77.63 91.32 94.90 96.46 97.54 91.57 llm=Mistral-7B-v0.3
78.43 91.34 95.26 96.98 97.90 91.98

Table 17
PCK@0.05 PCK@0.20 mPCK
78.43 96.98 91.98
76.06 96.48 91.11 output=token
76.46 96.41 91.20 trained=steps asked=steps
76.65 96.75 91.49 output=token trained=steps asked=steps

Table 18
PCK@0.05 PCK@0.20 mPCK
78.43 96.98 91.98
78.98 96.60 91.96 first=direct-qa
78.05 96.23 91.40 first=steps-qa
"""


def read_printed():
    """[(table, {key: value}, {column: text})] of PRINTED."""
    rows = []
    for block in PRINTED.strip().split("\n\n"):
        title, columns, *lines = block.split("\n")
        columns = columns.split()
        for line in lines:
            words = line.split()
            how = {}
            for word in words[len(columns) :]:
                key, value = word.split("=")
                how[key] = json.loads(value) if value in NUMBERS else value.replace("_", " ")
            scores = dict(zip(columns, words, strict=False))
            rows.append((title.removeprefix("Table "), how, scores))
    return rows


# Values that are no text.
NUMBERS = ("null", *map(str, range(1, 10)), "238", "252", "336")
ROWS = json.loads(paper.FILE.read_bytes())["rows"]


def test_all_rows_of_the_papers_tables_are_there():
    """Every number, in every table that prints it, and no other."""
    expected, found = Counter(), Counter()
    for table, how, scores in read_printed():
        expected[table, json.dumps(how, sort_keys=True), json.dumps(scores)] += 1
    for row in ROWS:
        how = {name: row[name] for name in row.keys() - {"table", "scores", "contradicts"}}
        scores = {column: f"{value:.2f}" for column, value in row["scores"].items()}
        found[row["table"], json.dumps(how, sort_keys=True), json.dumps(scores)] += 1
    assert found == expected and set(found.values()) == {1}
    assert {table for table, *_ in found} == {*map(str, range(2, 19))}


def test_each_row_is_found_by_what_it_says():
    for _, how, scores in read_printed():
        if how == {"trained": "steps", "asked": "steps"} and scores["mPCK"] == "91.20":
            continue
        found = find_published(**how)
        assert {column: f"{100 * found[column]:.2f}" for column in scores} == scores


def test_the_row_that_contradicts_another_is_not_used():
    """Table 17 prints Table 13's rows under other labels; with one of them both disagree."""
    (row,) = [row for row in ROWS if "contradicts" in row]
    assert (row["table"], row["contradicts"]) == ("17", "13")
    steps = find_published(trained="steps", asked="steps")
    assert steps == {"PCK@0.05": 0.7606, "PCK@0.20": 0.9648, "mPCK": 0.9111}
    of_table = {table: [] for table in ("13", "17")}
    for other in ROWS:
        if other["table"] in of_table:
            of_table[other["table"]].append(other["scores"])
    assert of_table["13"] == of_table["17"]


def test_contradictions_are_not_merged(tmp_path, monkeypatch):
    file = tmp_path / "paper.json"
    monkeypatch.setattr(paper, "FILE", file)
    rows = [{"table": "1", "scores": {"mPCK": 50.0, "PCK@0.20": 60.0}}]
    rows.append({"table": "2", "scores": {"mPCK": 50.0, "PCK@0.05": 30.0}})
    numbers = {"default": {"split": 1}, "rows": rows}
    file.write_text(json.dumps(numbers))
    assert find_published() == {"mPCK": 0.5, "PCK@0.20": 0.6, "PCK@0.05": 0.3}
    rows.append({"table": "3", "scores": {"PCK@0.05": 30.01}})
    file.write_text(json.dumps(numbers))
    with pytest.raises(ValueError, match="Table 3 has PCK@0.05 30.01 where an earlier"):
        find_published()
    rows[-1]["contradicts"] = "2"
    file.write_text(json.dumps(numbers))
    assert find_published()["PCK@0.05"] == 0.3


def test_the_mean_of_five_thresholds_is_what_is_printed():
    complete = 0
    for row in ROWS:
        scores = row["scores"]
        if all(name in scores for name in NAMES):
            complete += 1
            mean = np.mean([scores[name] for name in NAMES])
            assert scores["mPCK"] == pytest.approx(mean, abs=0.02)
    assert complete == 15


def test_recipes_name_rows_of_the_paper():
    for row in (*tables.ROWS, *trained.ROWS):
        if row.paper is not None:
            assert "PCK@0.20" in find_published(**row.paper), row.name


def test_the_papers_numbers_agree_with_each_other():
    for protocol in (pairs.QUERY_IMAGES, pairs.PAIRS):
        splits = [find_published(protocol=protocol, split=split) for split in range(1, 6)]
        # Table 2's last column.
        mean = np.mean([published["PCK@0.20"] for published in splits])
        average = find_published(protocol=protocol, split=None)["PCK@0.20"]
        assert mean == pytest.approx(average, abs=5.1e-5)
    first = find_published()
    assert first["mPCK"] == pytest.approx(np.mean([first[f"PCK@{t:.2f}"] for t in T]), abs=5e-5)
    # Table 9: as greedy.
    assert find_published(decoding="contrastive").items() <= first.items()
    assert find_published(protocol=pairs.PAIRS, decoding="top-3") == {}
    assert find_published(split=2, cumulative="fixed") == {}
    assert find_published(image_size=238)["PCK@0.25"] == 0.9793


@pytest.mark.parametrize(
    "words",
    [
        {"texts": "simple"},
        {"asked": "names"},
        {"trained": "list", "asked": "list"},
        {"trained": "steps", "asked": "steps"},
    ],
)
def test_other_words_cost_accuracy(words):
    base, numbers = find_published(), find_published(**words)
    assert len(numbers) > 1
    assert all(0.5 < value < base[column] for column, value in numbers.items())
    assert find_published(split=2, **words) == {}
    assert find_published(protocol=pairs.PAIRS, **words) == {}
    assert find_published(decoding="top-3", **words) == {}


def test_who_has_missed_descriptions_in_training_misses_them_less():
    """Table 7."""
    for asked in ("replaced", "names"):
        new, used = find_published(asked=asked), find_published(trained="random", asked=asked)
        assert all(used[column] > new[column] for column in new)


@pytest.mark.parametrize("how", [{"k": 1}, {"k": 8}, {"tune": "frozen"}, {"tune": "full"}])
def test_the_mean_of_other_trainings_is_that_of_their_columns(how):
    """Tables 12 and 15, which give all of them."""
    numbers = find_published(**how)
    assert numbers.pop("mPCK") == pytest.approx(np.mean(list(numbers.values())), abs=1e-4)
    assert len(numbers) == len(T)


def test_numbers_that_the_paper_does_not_have():
    assert find_published(texts=None) == find_published(trained="names") == {}
    assert find_published(texts="simple", asked="list") == {}
    with pytest.raises(ValueError, match="paper.json knows nothing of size"):
        find_published(size=224)


@pytest.mark.parametrize(
    "folder, names, trained, texts",
    [
        ("", None, None, "detailed"),
        ("", "", "", "detailed"),
        ("", "simple", None, "simple names"),
        ("simple", "", "", "simple descriptions"),
        ("simple", None, None, "simple"),
        ("vague", None, "vague", "vague"),
        # Not in Table 5: asked otherwise than trained.
        ("vague", None, None, None),
        ("", None, "vague", None),
        ("", "vague", None, None),
        ("", "vague", "vague", None),
        ("simple", None, "simple", None),
    ],
)
def test_texts_are_known_by_their_folders(monkeypatch, tmp_path, folder, names, trained, texts):
    monkeypatch.chdir(descriptions.DESCRIPTIONS.parent)
    for home in (descriptions.DESCRIPTIONS, "descriptions"):
        at_names = None if names is None else f"{home}/{names}"
        for learned in (descriptions.DESCRIPTIONS, "descriptions"):
            at_trained = None if trained is None else f"{learned}/{trained}"
            assert paper.name_texts(f"{home}/{folder}", at_names, at_trained) == texts
    assert paper.name_texts(tmp_path) is None
    # Training names the project's texts from there, wherever it was started.
    monkeypatch.chdir(tmp_path)
    at = descriptions.DESCRIPTIONS / "vague"
    assert paper.name_texts(at, None, "descriptions/vague") == "vague"


TRAINED = {"split": 1, "rounds": "fixed", "k": 4, "tune": "lora", "first": None}
TRAINED |= {"instruction": "base", "descriptions": "descriptions"}
LLAMA8 = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256, "model_type": "llama"}
LLAMA1 = LLAMA8 | {"hidden_size": 2048, "num_hidden_layers": 16}
VICUNA = LLAMA8 | {"vocab_size": 32000}
MISTRAL = LLAMA8 | {"vocab_size": 32768, "model_type": "mistral"}


@pytest.fixture
def configure(tmp_path):
    """configure(vision, llm, **more): a CapeLLMConfig of backbones with these config.json."""

    def configure(vision="dinov2", llm=LLAMA8, **more):
        for name, entries in (("vision", {"model_type": vision}), ("llm", llm)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "config.json").write_text(json.dumps(entries))
        return CapeLLMConfig(str(tmp_path / "vision"), str(tmp_path / "llm"), **more)

    return configure


@pytest.fixture
def images():
    """Images of the categories that the paper tests on each split."""
    facts = read_mp100()

    def images(split):
        tested = facts["splits"][str(split)]["test"]
        names = {c["id"]: c["name"] for c in facts["categories"] if c["id"] in tested}
        return Images([], names, {}, None, [], [])

    return images


@pytest.mark.parametrize(
    "model, how, mpck",
    [
        ({}, {}, 0.9198),
        ({"trained": TRAINED}, {}, 0.9198),
        ({"trained": TRAINED | {"rounds": "dynamic", "k": None}}, {}, 0.9092),
        ({"trained": TRAINED | {"rounds": "locllm", "k": 5}}, {}, 0.8400),
        ({"trained": TRAINED | {"rounds": "locllm"}}, {}, None),
        ({"trained": TRAINED | {"k": 2}}, {}, 0.8911),
        ({"trained": TRAINED | {"k": 3}}, {}, None),
        ({"trained": TRAINED | {"tune": "frozen"}}, {}, 0.8839),
        ({"trained": TRAINED | {"tune": "full"}}, {}, 0.3859),
        ({"trained": TRAINED | {"tune": "everything"}}, {}, None),
        ({"trained": TRAINED | {"first": "direct-qa"}}, {}, 0.9196),
        ({"trained": TRAINED | {"split": 2}}, {}, None),
        ({"trained": TRAINED | {"descriptions": "descriptions/vague"}}, {}, None),
        (
            {"trained": TRAINED | {"descriptions": "descriptions/vague"}},
            {"descriptions": descriptions.DESCRIPTIONS / "vague"},
            0.8598,
        ),
        ({"trained": TRAINED, "instruction": "random"}, {"asked": "names"}, 0.8884),
        ({"instruction": "diverse-outline"}, {"asked": "diverse-outline"}, 0.8852),
        ({"output": "token"}, {}, 0.9111),
        ({"output": "token", "instruction": "steps"}, {"asked": "steps"}, 0.9149),
        ({"vision": "hiera"}, {}, 0.8489),
        ({"vision": "dinov2_with_registers", "trained": TRAINED}, {}, 0.8690),
        ({"llm": LLAMA1}, {}, 0.9120),
        ({"llm": LLAMA1, "instruction": "steps"}, {"asked": "steps"}, 0.9149),
        ({"llm": VICUNA, "trained": TRAINED}, {}, 0.8584),
        ({"llm": MISTRAL, "trained": TRAINED}, {}, 0.9157),
        ({"vision": "hiera", "llm": MISTRAL}, {}, None),
        # As nano
        ({"llm": {"hidden_size": 160, "model_type": "llama"}, "trained": TRAINED}, {}, 0.9198),
    ],
)
def test_the_counterpart_is_that_of_the_model(configure, images, model, how, mpck):
    way = paper.Way(**{"asked": "base"} | how)
    found = paper.find_counterpart(way, configure(**model), images(1), 1, "test")
    assert found.get("mPCK") == mpck and (mpck or not found)


def test_only_the_papers_own_images_have_a_counterpart(configure, images):
    way, config, own = paper.Way("base"), configure(), images(3)
    assert paper.find_counterpart(way, config, own, 3, "test") == {"PCK@0.20": 0.9057}
    as_pairs = own._replace(supports={0: {}})
    assert paper.find_counterpart(way, config, as_pairs, 3, "test") == {"PCK@0.20": 0.9058}
    assert paper.find_counterpart(way, config, own, 3, "val") == {}
    assert paper.find_counterpart(way, config, own, 4, "test") == {}
    fewer = own._replace(names=dict(list(own.names.items())[1:]))
    assert paper.find_counterpart(way, config, fewer, 3, "test") == {}
    assert paper.find_counterpart(way._replace(asked="names"), config, own, 3, "test") == {}
    config.trained = TRAINED
    assert paper.find_counterpart(way, config, own, 3, "test") == {}
    config.trained = TRAINED | {"split": 3}
    assert paper.find_counterpart(way, config, own, 3, "test") == {"PCK@0.20": 0.9057}
