"""nano's two backbones: how large they are, and how they are written in official form."""

import json
import shutil

import torch

import train
from capellm import CapeLLM
from study.hiera import Hiera
from support import checkpoints
from support.folders import CapeLLMConfig

DINOV2 = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "patch_size": 14,
}
# For Table 14: 7 x 7 tokens where DINOv2 has 8 x 8. A step takes about as long.
HIERA = {
    "embed_dim": 48,
    "depths": [1, 2, 4],
    "num_heads": [1, 2, 4],
    "masked_unit_attention": [True, False, False],
    "num_query_pool": 2,
}
LLM = {
    "hidden_size": 160,
    "intermediate_size": 432,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def export(model, tokenizer_file, folder):
    """The backbones in official form, in bf16, and a model folder around them, adapters fresh."""
    size = model.config.image_size
    vision = describe_dinov2(size)
    if isinstance(model.vision, Hiera):
        vision = describe_hiera(size)
    llm = LLM | {
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": model.llm.config.vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
    }
    with checkpoints.write_whole_folder(folder) as partial:
        export_backbone(model.vision, vision, partial / "vision")
        export_backbone(model.llm, llm, partial / "llm")
        shutil.copy(tokenizer_file, partial / "llm")
        config = CapeLLMConfig(
            str(partial / "vision"), str(partial / "llm"), size, lora=train.PAPER_LORA
        )
        tuned = CapeLLM.assemble(config, torch.float32)
        tuned.projection.load_state_dict(model.projection.state_dict())
        tuned.config.vision, tuned.config.llm = "vision", "llm"
        (partial / "config.json").write_text(tuned.config.to_json())
        adapter = {name: t.contiguous() for name, t in tuned.adapter().items()}
        checkpoints.save_tensors(adapter, partial / "adapter.safetensors")
        shutil.rmtree(folder, ignore_errors=True)


def describe_dinov2(size):
    return DINOV2 | {
        "image_size": size,
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "mlp_ratio": 4,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "hidden_act": "gelu",
    }


def describe_hiera(size):
    return HIERA | {
        "image_size": [size, size],
        "model_type": "hiera",
        "architectures": ["HieraModel"],
        "patch_size": [7, 7],
        "patch_stride": [4, 4],
        "patch_padding": [3, 3],
        "query_stride": [2, 2],
        "masked_unit_size": [4, 4],
        "embed_dim_multiplier": 2,
        "mlp_ratio": 4,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
    }


def export_backbone(backbone, config, folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, allow_nan=False) + "\n")
    state = backbone.state_dict()
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in state.items()}
    checkpoints.save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
