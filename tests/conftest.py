"""What several test files share: vocabularies, a small model folder, a data folder."""

import io
import json
import os
import signal
import sys

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from capellm import CapeLLM
from dino import DINOv2, DINOv2Config
from helpers import LLAMA3, VOCABULARIES, randomise
from llama import Config, Llama
from support import launch
from support.folders import CapeLLMConfig
from support.tokenizer import Tokenizer

# What commands print and write is compared with a CPU's: a machine's GPUs stay out of it.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
)
LLM = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture(autouse=True)
def restore_signals():
    """Training handles signals: what one test sets must not reach the processes of another."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def outlive_commands(monkeypatch):
    """A command that runs in this process and leaves would take the tests with it."""
    monkeypatch.setattr(launch, "leave", sys.exit)


@pytest.fixture(scope="module")
def one_thread():
    """For what is compared bit by bit: several threads add up in the order they happen to end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    """A sentencepiece vocabulary of Llama 2's kind: byte fallback, every digit its own piece."""
    texts = [
        "USER: Can you identify location of the nose tip on the object? "
        "With this description, please provide its coordinates.",
        "left eye: The eye on the left side of the face. ASSISTANT:",
        "tail: The end of the tail, farthest from the body.",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
        user_defined_symbols=list("0123456789"),
    )
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return file


@pytest.fixture(scope="session")
def tiny_tokenizer(tokenizer_file):
    return Tokenizer(tokenizer_file)


@pytest.fixture(scope="session")
def tokenizers(tiny_tokenizer):
    """The published vocabularies, and the tiny one."""
    published = {name: Tokenizer(file) for name, file in VOCABULARIES.items()}
    return published | {"tiny": tiny_tokenizer}


def write_backbone(folder, backbone, config, kind):
    """A backbone in official form, its weights drawn at random."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    tensors = {}
    for name, tensor in backbone.state_dict().items():
        tensors[name] = tensor.contiguous()
        if tensor.dim() > 1:
            tensors[name] = 4 * torch.randn_like(tensor) * tensor.shape[-1] ** -0.5
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="session")
def model_folder(tokenizer_file, tiny_tokenizer, tmp_path_factory):
    """A CapeLLM with random weights, LoRA included. Read only: copy it to damage it."""
    folder = tmp_path_factory.mktemp("model")
    llm = LLM | {"vocab_size": tiny_tokenizer.vocab_size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone_v, backbone_l = DINOv2(DINOv2Config(**VISION)), Llama(Config(**llm))
        write_backbone(folder / "vision", backbone_v, VISION, "dinov2")
        write_backbone(folder / "llm", backbone_l, llm, "llama")
        (folder / "llm" / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
        config = CapeLLMConfig(
            str(folder / "vision"),
            str(folder / "llm"),
            VISION["image_size"],
            lora={"rank": 2, "alpha": 4, "dropout": 0.0, "parts": ["vision", "llm"]},
        )
        model = CapeLLM.assemble(config)
        adapter = {}
        for name, tensor in model.adapter().items():
            adapter[name] = torch.randn_like(tensor) * tensor.shape[-1] ** -0.5
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


@pytest.fixture
def split(tmp_path):
    """write(content) makes a data folder of MP-100's, with annotations of split 1's training."""

    def write(content):
        path = tmp_path / "annotations" / "mp100_split1_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write


@pytest.fixture
def desc(tmp_path):
    """write(content) makes a description file."""

    def write(content):
        path = tmp_path / "desc.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
