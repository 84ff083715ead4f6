"""llama.py against transformers, and trees of tokens against their branches.

The models are small and random, one of every family. What is wrong with a folder of weights, as
support/weights.py says it, is tested on one of them.
"""

import json
import shutil

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from decode import grow_tree
from helpers import one_line
from llama import Config, KVCache, Llama
from support.weights import load_weights

SMALL = dict(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=131072,
    rms_norm_eps=1e-5,
    initializer_range=0.15,
)
LLAMA3 = dict(
    rope_type="llama3",
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
FAMILIES = {
    "llama-3.1": transformers.LlamaConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters=dict(LLAMA3, rope_theta=5e5, factor=8.0),
    ),
    "llama-3.2": transformers.LlamaConfig(
        **SMALL,
        num_key_value_heads=1,
        rope_parameters=dict(LLAMA3, rope_theta=5e5, factor=32.0),
        tie_word_embeddings=True,
    ),
    "mistral": transformers.MistralConfig(
        **SMALL,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=None,
        rope_parameters=dict(rope_type="default", rope_theta=1e6),
    ),
    "vicuna": transformers.LlamaConfig(
        **SMALL, num_key_value_heads=4, rope_parameters=dict(rope_type="default", rope_theta=1e4)
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The four families as transformers writes them: name -> (folder, reference model)."""
    models = {}
    for name, config in FAMILIES.items():
        torch.manual_seed(len(name))
        reference = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        reference.eval()
        for key, weight in reference.named_parameters():
            # All ones otherwise, which would hide a norm left out.
            if "norm" in key:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
        folder = tmp_path_factory.mktemp(name)
        reference.save_pretrained(folder)
        models[name] = folder, reference
    return models


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of one family to damage."""
    return shutil.copytree(saved["llama-3.1"][0], tmp_path / "model")


def edit_config(folder, drop=(), **changes):
    raw = json.loads((folder / "config.json").read_text())
    raw = {key: value for key, value in (raw | changes).items() if key not in drop}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def small_model(seed=0):
    torch.manual_seed(seed)
    config = Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Llama(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@torch.inference_mode()
def compare(folder, reference, positions):
    ids = torch.randint(0, 96, (2, len(positions)), generator=torch.Generator().manual_seed(1))
    expected = reference(
        ids,
        position_ids=positions.expand(2, -1),
        attention_mask=torch.ones_like(ids),
        output_hidden_states=True,
    )
    model = Llama.from_pretrained(folder)
    outputs = []
    model.model.layers[1].register_forward_hook(
        lambda layer, inputs, output: outputs.append(output)
    )
    hidden = model(model.embed(ids), positions)
    # Weights are large enough for the comparison to mean something.
    assert expected.logits.abs().max() > 1
    torch.testing.assert_close(hidden, expected.hidden_states[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs[0], expected.hidden_states[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.logits(hidden), expected.logits, atol=1e-4, rtol=0)
    rows = torch.tensor([15, 3, 90])
    torch.testing.assert_close(
        model.logits(hidden[:, -1], rows), expected.logits[:, -1, rows], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_same_numbers_as_transformers(saved, name):
    compare(*saved[name], torch.arange(40))
    compare(*saved[name], torch.tensor([0, 1, 7, 8190, 8191, 8192, 8193, 30_000, 131_071]))


@pytest.mark.parametrize("name", FAMILIES)
def test_older_spelling_of_rope_and_shards(saved, name, tmp_path):
    folder, reference = saved[name]
    reference.save_pretrained(tmp_path, max_shard_size="60KB")
    assert not (tmp_path / "model.safetensors").exists()
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    drop = {"rope_parameters"}
    if reference.config.head_dim == 12:
        drop.add("head_dim")
    # Its config.json says neither.
    if name == "vicuna":
        drop |= {"num_key_value_heads", "rope_theta"}
    edit_config(
        tmp_path,
        drop,
        rope_theta=theta,
        rope_scaling=rope if rope["rope_type"] == "llama3" else None,
    )
    compare(tmp_path, reference, torch.tensor([0, 1, 2, 3, 9000, 9001, 70_000]))


@torch.inference_mode()
def test_bf16_keeps_the_angles_in_fp32(saved):
    folder, _ = saved["llama-3.1"]
    # Rounded frequencies are far off over such distances.
    ids, positions = torch.arange(12)[None], torch.arange(12) * 9000
    full = Llama.from_pretrained(folder)
    expected = full(full.embed(ids), positions)
    for model in (Llama.from_pretrained(folder, dtype=torch.bfloat16), full.to(torch.bfloat16)):
        hidden = model(model.embed(ids).float(), positions)
        assert hidden.dtype == torch.bfloat16
        assert (hidden - expected).norm() < 0.05 * expected.norm()


def official(vocab, width, mlp, layers, heads, kv, tied=False):
    return Config(vocab, width, mlp, layers, heads, kv, tie_word_embeddings=tied)


@pytest.mark.parametrize(
    "config, total",
    [
        (official(128256, 4096, 14336, 32, 32, 8), 8_030_261_248),
        (official(128256, 2048, 8192, 16, 32, 8, tied=True), 1_235_814_400),
        (official(32768, 4096, 14336, 32, 32, 8), 7_248_023_552),
        (official(32000, 4096, 11008, 32, 32, None), 6_738_415_616),
    ],
    ids=["Llama-3.1-8B", "Llama-3.2-1B", "Mistral-7B-v0.3", "Vicuna-7B-v1.5"],
)
def test_published_parameter_counts(config, total):
    with torch.device("meta"):
        model = Llama(config)
    assert sum(p.numel() for p in model.parameters()) == total
    assert model.frequencies.device.type == "cpu"


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [[30], [1] * 30, [12, 1, 1, 9, 7]])
def test_cached_equals_uncached(chunks):
    model = small_model()
    x = model.embed(torch.randint(0, 50, (2, 30)))
    cache = KVCache(model.config, 2, 30)
    parts = [model(part, cache=cache) for part in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(x), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="room for 30 tokens, 31 are needed"):
        model(x[:, :1], cache=cache)


@torch.inference_mode()
def test_truncated_cache_forgets():
    model = small_model()
    x = model.embed(torch.randint(0, 50, (1, 24)))
    cache = KVCache(model.config, 1, 24)
    model(x[:, :10], cache=cache)
    model(x[:, 10:20] * 3, cache=cache)
    cache.truncate(10)
    torch.testing.assert_close(model(x[:, 10:], cache=cache), model(x)[:, 10:], atol=1e-5, rtol=0)
    for n in (-1, 25):
        with pytest.raises(ValueError, match="cannot truncate"):
            cache.truncate(n)


@torch.inference_mode()
def test_read_returns_the_wanted_tokens():
    model = small_model()
    x = model.embed(torch.randint(0, 50, (2, 9)))
    single = torch.tensor([1, 0, 1]), torch.tensor([8, 0, 3])
    for read in (single, (slice(None), slice(4, None)), slice(1), slice(0)):
        torch.testing.assert_close(model(x, wanted=read), model(x)[read], atol=1e-5, rtol=0)


branches = st.tuples(st.integers(0, 7), st.integers(1, 3))
steps_of_growth = st.lists(st.lists(branches, min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(trunk=st.integers(0, 6), steps=steps_of_growth, seed=st.integers(0, 99))
@torch.inference_mode()
def test_tree_equals_every_path_on_its_own(trunk, steps, seed):
    """A step grows branches: each is (the branch it grows from, its number of tokens).

    A branch taken twice forks, one left out ends.
    """
    model = small_model(seed)
    total = trunk + sum(n for step in steps for _, n in step)
    x = model.embed(torch.randint(0, 50, (1, total)))
    cache = KVCache(model.config, 1, total)
    cached = [model(x[:, :trunk], cache=cache)] if trunk else []
    masks = [torch.ones(trunk, trunk, dtype=torch.bool).tril()]
    depths = [torch.arange(trunk)]
    # Of each token: the tokens from the root to it. Of each branch: those to its end.
    paths = [list(range(i + 1)) for i in range(trunk)]
    ends = [list(range(trunk))]
    rows = torch.ones(1, trunk, dtype=torch.bool)
    for step in steps:
        parents = [parent % len(ends) for parent, _ in step]
        lengths = [n for _, n in step]
        mask, positions = grow_tree(rows[parents], torch.repeat_interleave(torch.tensor(lengths)))
        at = len(paths)
        cached.append(model(x[:, at : at + sum(lengths)], positions, mask, cache))
        masks.append(mask)
        depths.append(positions)
        grown = []
        for parent, n in zip(parents, lengths, strict=True):
            path = list(ends[parent])
            for _ in range(n):
                path.append(len(paths))
                paths.append(list(path))
            grown.append(path)
        ends = grown
        rows = mask[torch.tensor(lengths).cumsum(0) - 1]
    positions = torch.cat(depths)
    assert positions.tolist() == [len(path) - 1 for path in paths]
    mask = torch.cat([torch.nn.functional.pad(m, (0, total - m.shape[1])) for m in masks])
    together = model(x, positions, mask)
    torch.testing.assert_close(torch.cat(cached, 1), together, atol=1e-5, rtol=0)
    per_image = model(x.expand(2, -1, -1), positions.expand(2, -1), mask.expand(2, 1, -1, -1))
    torch.testing.assert_close(per_image, together.expand(2, -1, -1), atol=1e-5, rtol=0)
    for i, path in enumerate(paths):
        torch.testing.assert_close(together[:, i], model(x[:, path])[:, -1], atol=1e-5, rtol=0)


def test_gradients_reach_every_weight():
    model = small_model()
    branch = torch.tensor([0, 0, 1, 1, 1, 1])
    mask, positions = grow_tree(torch.zeros(2, 0, dtype=torch.bool), branch)
    model(model.embed(torch.arange(6)[None]), positions, mask).square().sum().backward()
    for name, p in model.named_parameters():
        assert name == "lm_head.weight" or p.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(model_type="qwen2"),
            "model_type 'qwen2' is not supported, only 'llama' or 'mistral'",
        ),
        (
            dict(model_type="mistral", sliding_window=4096),
            "sliding_window 4096 is not supported, only null",
        ),
        (
            dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4)),
            "rope type 'yarn' is not supported",
        ),
        (
            dict(rope_parameters=None, rope_scaling=dict(type="linear", factor=2)),
            "rope type 'linear' is not supported",
        ),
        (
            dict(rope_parameters=dict(rope_type="llama3", factor=8, rope_theta=5e5)),
            "rope scaling.low_freq_factor is missing",
        ),
        (dict(attention_bias=True), "attention_bias True is not supported"),
        (dict(quantization_config=dict(bits=4)), "quantization_config"),
        (dict(num_key_value_heads=3), "3 key-value heads"),
        (dict(hidden_size="48"), 'hidden_size is "48", not a whole number from 1'),
    ],
)
def test_configs_that_are_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Llama.from_pretrained(edit_config(folder, **changes))
    assert str(folder / "config.json") in one_line(error)


def test_config_lacks_a_number_or_is_no_json(folder):
    edit_config(folder, drop=("hidden_size", "num_hidden_layers"))
    with pytest.raises(ValueError, match="lacks hidden_size, num_hidden_layers") as error:
        Config.from_json(folder / "config.json")
    one_line(error)
    for text in ("{", "[1, 2]", "3"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json: this is ") as error:
            Config.from_json(folder / "config.json")
        one_line(error)


def test_tensors_are_checked_by_name_and_shape(folder):
    q = "model.layers.1.self_attn.q_proj.weight"
    file = folder / "model.safetensors"
    weights = load_file(file)
    edit_weights(folder, lambda w: w.update({q: torch.zeros(8, 8)}))
    with pytest.raises(ValueError) as error:
        Llama.from_pretrained(folder)
    assert one_line(error) == f"shape of {q} is (8, 8) in {file}, expected (64, 48)"
    edit_weights(folder, lambda w: w.pop(q))
    with pytest.raises(ValueError, match=f"lack {q};") as error:
        Llama.from_pretrained(folder)
    one_line(error)
    bias = "model.layers.1.self_attn.q_proj.bias"
    edit_weights(folder, lambda w: w.update({q: weights[q], bias: torch.zeros(64)}))
    with pytest.raises(ValueError, match=f"has not: {bias};") as error:
        Llama.from_pretrained(folder)
    one_line(error)


def test_many_missing_tensors_fit_one_line(folder):
    edit_weights(folder, lambda w: [w.pop(name) for name in sorted(w) if "layers.2" in name])
    with pytest.raises(ValueError, match=r"lack model\.layers\.2.* and 4 more;") as error:
        Llama.from_pretrained(folder)
    one_line(error)


def test_known_extras_are_ignored(saved, tmp_path):
    folder = shutil.copytree(saved["llama-3.2"][0], tmp_path / "tied")
    extras = {
        "lm_head.weight": torch.ones(96, 48),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
    }
    edit_weights(folder, lambda w: w.update(extras))
    compare(folder, saved["llama-3.2"][1], torch.arange(5))


@pytest.mark.parametrize("size", [0, 5, 200, -100])
def test_truncated_weights(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="is not a whole safetensors file") as error:
        Llama.from_pretrained(folder)
    assert str(file) in one_line(error)


def test_pickles_are_refused_unread(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match="never loaded.*convert them to safetensors") as error:
        Llama.from_pretrained(folder)
    assert "pytorch_model-00001-of-00002.bin" in one_line(error)


def test_missing_files(saved, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/config.json not found"):
        Llama.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors not found"):
        Llama.from_pretrained(folder)
    saved["llama-3.1"][1].save_pretrained(folder, max_shard_size="60KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    message = f"{shard.name} not found, but model.safetensors.index.json names it"
    with pytest.raises(FileNotFoundError, match=message):
        Llama.from_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index.json: this is \[\], not an object"):
        Llama.from_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    with pytest.raises(ValueError, match="index.json: weight_map.a is 3, not the name of a file"):
        Llama.from_pretrained(folder)


def test_load_weights_ignores_what_is_named_and_fills_buffers(tmp_path):
    stored = {
        "b.weight": torch.randn(2, 3),
        "b.bias": torch.randn(2),
        "scale": torch.randn(1),
        "step": torch.zeros(1),
    }
    save_file(stored, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = torch.nn.ModuleDict({"b": torch.nn.Linear(3, 2)})
        model.register_buffer("scale", torch.empty(1))
    load_weights(model, tmp_path, ignored=("step",))
    torch.testing.assert_close(model.b(torch.ones(3)), stored["b.weight"].sum(1) + stored["b.bias"])
    assert dict(model.named_buffers()) == {"scale": stored["scale"]}
