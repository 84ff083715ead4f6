"""What scripts.bench measures: models of random weights, and transformers and peft reading them.

The reference does the same work the straightforward way: image and prompt of every keypoint in one
batch, `generate` with its cache.
"""

import json
import math
import random
import re
from base64 import b64encode

import torch
from safetensors.torch import load_file, save_file

import data
from capellm import CapeLLM, Codec
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from study import instructions
from support.folders import CapeLLMConfig
from support.tokenizer import Tokenizer

LLAMA3 = {"rms_norm_eps": 1e-5, "rope_theta": 500000.0}
# 1.5 billion parameters in bf16: Llama 3.2's proportions
LOADED = LLAMA3 | {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 20,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
# Positional tables are those of the image, because transformers resamples others unlike the
# original (dino.py).
SHAPES = {
    # 135 million parameters, and ViT-S/14
    "small": {
        "dtype": torch.float32,
        "vision": {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": 224,
            "patch_size": 14,
        },
        "llm": LLAMA3
        | {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    },
    "tiny": {
        "dtype": torch.float32,
        "vision": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "llm": LLAMA3
        | {
            "vocab_size": 1024,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    },
    # The paper's: Llama-3.1-8B and ViT-L/14
    "llama8b": {
        "dtype": torch.bfloat16,
        "vision": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        "llm": LLAMA3
        | {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    },
}
LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "parts": ["vision", "llm"]}
# Tokens of [0.abc,0.def] and the end of text
ANSWER = 14
# Keypoints in a batch of the reference, as in the authors' code
BATCH = 15
WORDS = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxz" for vowel in "aeiou"]


# Models of random weights.


def random_like(tensor, gain, dtype=torch.float32):
    """Uniform, of a variance that lets activations keep their size.

    Logits then differ clearly, and none wins everywhere.
    """
    bound = gain * math.sqrt(3 / tensor.shape[-1])
    return torch.empty(tensor.shape, dtype=dtype).uniform_(-bound, bound)


def write_backbone(folder, model, config, dtype):
    """A folder as published: config.json and safetensors.

    model: on the meta device, for names and shapes.
    """
    folder.mkdir(exist_ok=True)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1:
            tensors[name] = random_like(tensor, 1.5, dtype)
        else:
            value = 0.0 if name.endswith("bias") else 1.0
            tensors[name] = torch.full(tensor.shape, value, dtype=dtype)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, allow_nan=False))


def write_llm(folder, shape, dtype):
    with torch.device("meta"):
        model = Llama(Config(**shape))
    kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
    write_backbone(folder, model, shape | kind, dtype)


def write_tokenizer(file):
    """A vocabulary in Llama 3's format: the bytes, and each word of a question as one token.

    So digits are single tokens.
    """
    question = instructions.BASE_QUESTION.format(name="", description="")
    words = re.findall(" ?[A-Za-z]+", question) + [f" {word}" for word in WORDS]
    tokens = [bytes([i]) for i in range(256)]
    tokens += [word.encode() for word in dict.fromkeys(words)]
    lines = [f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    file.write_text("".join(lines))


def write_model(folder, shape):
    """A CapeLLM folder of this shape; no adapter is zero."""
    torch.manual_seed(0)
    with torch.device("meta"):
        vision = DINOv2(DINOv2Config(**shape["vision"]))
    kind = {"model_type": "dinov2"}
    write_backbone(folder / "vision", vision, shape["vision"] | kind, shape["dtype"])
    write_llm(folder / "llm", shape["llm"], shape["dtype"])
    write_tokenizer(folder / "llm/tokenizer.model")
    parts = str(folder / "vision"), str(folder / "llm")
    config = CapeLLMConfig(*parts, shape["vision"]["image_size"], lora=LORA)
    model = CapeLLM.assemble(config, shape["dtype"])
    adapter = {name: random_like(tensor, 0.5) for name, tensor in model.adapter().items()}
    save_file(adapter, folder / "adapter.safetensors")
    (folder / "config.json").write_text(model.config.to_json())


def make_keypoints(n, tokens, tokenizer):
    """n keypoints whose question has this many tokens."""
    rng = random.Random(0)

    def words(n):
        return " ".join(rng.choices(WORDS, k=n))

    short = data.Keypoint(words(3), words(1))
    rest = tokens - len(data.write_question(tokenizer, short)) + 1
    return [data.Keypoint(words(3), words(rest)) for _ in range(n)]


# The reference.


class Reference(torch.nn.Module):
    """transformers and peft, with the methods of CapeLLM that are measured.

    free: it generates what it likes, which is what is timed. Otherwise the template is forced, and
    between it digits are, so that answers can be compared.
    """

    def __init__(self, folder, dtype, device, merge, free):
        super().__init__()
        import transformers

        transformers.utils.logging.disable_progress_bar()
        adapter = load_file(folder / "adapter.safetensors")
        kinds = {"vision": transformers.Dinov2Model, "llm": transformers.LlamaForCausalLM}
        for part, kind in kinds.items():
            model = kind.from_pretrained(folder / part, dtype=dtype)
            setattr(self, part, adapt(model, part, adapter, merge))
        wide, narrow = adapter["projection.weight"].shape
        self.projection = torch.nn.Linear(narrow, wide, bias=False)
        self.projection.weight.data.copy_(adapter["projection.weight"])
        self.tokenizer = Tokenizer.from_pretrained(folder / "llm")
        self.codec = Codec(self.tokenizer)
        self.template = template_of(self.codec)
        self.free = free
        # Random weights must not end early.
        self.llm.generation_config.update(eos_token_id=None, pad_token_id=0)
        self.to(device)

    def embed(self, pixels, ids):
        """[BOS; V; T] of a batch: pixels (B, 3, S, S), ids a list of B equally long lists."""
        V = self.projection(self.vision(pixels).last_hidden_state[:, 1:].float())
        ids = torch.tensor([[self.tokenizer.bos_id, *i] for i in ids], device=pixels.device)
        T = self.llm.get_input_embeddings()(ids)
        return torch.cat([T[:, :1], V.to(T.dtype), T[:, 1:]], 1)

    def generate(self, pixels, prompts, sample):
        """Answers to prompts about an image (3, S, S): their token ids, and their probabilities.

        The latter only if greedy and not free.
        """
        log_p = torch.zeros(len(prompts), dtype=torch.float64, device=pixels.device)

        def allow_digits(ids, scores):
            allowed = torch.tensor(self.template[ids.shape[1]], device=ids.device)
            chosen = scores[:, allowed]
            log_p.add_(chosen.double().log_softmax(-1).amax(-1))
            return torch.full_like(scores, -torch.inf).index_copy(1, allowed, chosen)

        x = self.embed(pixels.expand(len(prompts), -1, -1, -1), prompts)
        mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
        # Sampling from all tokens, not from the likeliest 50
        drawn = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
        ids = self.llm.generate(
            inputs_embeds=x,
            attention_mask=mask,
            max_new_tokens=len(self.template),
            logits_processor=[] if self.free else [allow_digits],
            **drawn,
        )
        return ids.tolist(), log_p.exp().tolist()

    @torch.inference_mode()
    def answer(self, pixels, keypoints, decoding="greedy", cumulative=False):
        """As CapeLLM.answer, without coordinates where it is free.

        A chain of rounds is read again for each of them.
        """
        questions = [data.write_question(self.tokenizer, k) for k in keypoints]
        trunk = 1 + (pixels.shape[1] // self.vision.config.patch_size) ** 2
        size, sample = 1 if cumulative else BATCH, decoding == "sampling"
        found, probabilities, context = [], [], []
        for i in range(0, len(questions), size):
            if trunk + len(context) + len(questions[i]) + ANSWER > data.MAX_TOKENS:
                context = []
            prompts = [context + question for question in questions[i : i + size]]
            ids, probability = self.generate(pixels, prompts, sample)
            found += ids
            probabilities += probability
            if cumulative:
                context = context + questions[i] + ids[0] + [self.tokenizer.eos_id]
        return [] if self.free else self.read(found), probabilities

    def read(self, found):
        """The coordinates of answers, token ids."""
        places = [i for i, allowed in enumerate(self.template) if len(allowed) > 1]
        coordinates = []
        for answer in found:
            digits = [self.codec.ids.index(answer[i]) for i in places]
            coordinates.append([self.codec.value(digits[:3]), self.codec.value(digits[3:])])
        return coordinates

    def loss(self, pixels, conversation):
        """Of one image (1, 3, S, S) and one conversation."""
        x = self.embed(pixels, [conversation.ids])
        before = [data.IGNORE] * (x.shape[1] - len(conversation.ids))
        labels = torch.tensor([before + list(conversation.labels)], device=x.device)
        return self.llm(inputs_embeds=x, labels=labels).loss


def adapt(model, part, adapter, merge):
    """A model of transformers with our adapters on query and value, by peft."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules=["q_proj", "v_proj"],
    )
    model = get_peft_model(model, lora)
    for name, tensor in adapter.items():
        if name.startswith(f"{part}."):
            name = name.removeprefix(f"{part}.")
            name = name.replace("attention.query", "q_proj").replace("attention.value", "v_proj")
            model.get_parameter(f"base_model.model.{name}.default.weight").data.copy_(tensor)
    return model.merge_and_unload() if merge else model


def template_of(codec):
    """For each token of an answer the ids that may stand there."""
    digits = [codec.ids] * 3
    opening, comma, close = ([[t] for t in ids] for ids in (codec.open, codec.comma, codec.close))
    return [*opening, *digits, *comma, *digits, *close]
