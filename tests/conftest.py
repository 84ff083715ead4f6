"""What several test files share: a model folder in the final format, small enough to build in a moment."""
import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from capellm import CapeLLM
from dino import DINOv2, DINOv2Config
from helpers import randomise
from llama import Config, Llama
from support.folders import CapeLLMConfig
from support.tokenizer import Tokenizer

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
VISION = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
LLM = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture(scope="module")
def one_thread():
    """Several threads add up in the order in which they happen to finish: for what is compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    """A sentencepiece vocabulary of Llama 2's kind: byte fallback, every digit its own piece."""
    texts = ["USER: Can you identify location of the nose tip on the object? With this description, please provide its coordinates.",
             "left eye: The eye on the left side of the face. ASSISTANT:", "tail: The end of the tail, farthest from the body."]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=340, hard_vocab_limit=False,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        bos_id=1, eos_id=2, unk_id=0, pad_id=-1, minloglevel=2, num_threads=1, user_defined_symbols=list("0123456789"))
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return file


@pytest.fixture(scope="session")
def tiny_tokenizer(tokenizer_file):
    return Tokenizer(tokenizer_file)


@pytest.fixture(scope="session")
def model_folder(tokenizer_file, tiny_tokenizer, tmp_path_factory):
    """A CapeLLM with random weights, LoRA included. Read only: copy it to damage it."""
    folder = tmp_path_factory.mktemp("model")
    llm = LLM | {"vocab_size": tiny_tokenizer.vocab_size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, backbone, config, kind in (("vision", DINOv2(DINOv2Config(**VISION)), VISION, "dinov2"),
                                             ("llm", Llama(Config(**llm)), llm, "llama")):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config | {"model_type": kind}))
            save_file({n: 4 * torch.randn_like(t) * t.shape[-1] ** -0.5 if t.dim() > 1 else t.contiguous()
                       for n, t in backbone.state_dict().items()}, folder / name / "model.safetensors")
        (folder / "llm" / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
        lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "parts": ["vision", "llm"]}
        model = CapeLLM.assemble(CapeLLMConfig(str(folder / "vision"), str(folder / "llm"), VISION["image_size"], 3, lora))
        adapter = {n: torch.randn_like(t) * t.shape[-1] ** -0.5 for n, t in model.adapter().items()}
        save_file(adapter, folder / "adapter.safetensors")
    model.config.vision, model.config.llm = "vision", "llm"
    (folder / "config.json").write_text(model.config.to_json())
    return folder


@pytest.fixture(scope="module")
def model(model_folder):
    """The folder's model with weights that differ clearly; its adapters and projection train."""
    model = randomise(CapeLLM.from_pretrained(model_folder, merge=False))
    for name in model.adapter():
        model.get_parameter(name).requires_grad_(True)
    return model


@pytest.fixture(scope="module")
def model3():
    """A tiny model on the published Llama 3 vocabulary, which has all three-digit tokens: K = 1."""
    vision = DINOv2(DINOv2Config(16, 1, 2, image_size=28))
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    llm = Llama(Config(vocab_size=128256, **shape))
    config = CapeLLMConfig("", "", image_size=28, K=1)
    return randomise(CapeLLM(vision, llm, Tokenizer(LLAMA3), config)).eval()
