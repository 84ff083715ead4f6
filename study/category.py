"""What the object is, in the model's own words (Figure 6, the instruction "steps").

The instruction's opening asks for it, and training answers with the category's name. Here the model
answers: the sentence that the name stands in is known and is fed, what follows is free text.
"""

import torch

from data import write_turn
from llama import KVCache
from study.instructions import INSTRUCTIONS
from support.tensors import send

UNNAMED = "object"
MAX_TOKENS = 16  # of a name


def name_category(model, V, keypoints) -> str:
    """The model's name for the object; "object" where the instruction does not ask for it.

    V (1, N, D): image tokens; keypoints: all that may be asked.
    """
    names = ", ".join(keypoint.name for keypoint in keypoints)
    words, ids = {"list": names, "visible": names}, []
    for turn in INSTRUCTIONS[model.config.instruction].opening:
        known, name, _ = turn.answer.partition("{category}")
        if name:
            known = turn._replace(answer=known.rstrip())
            turn_ids = write_turn(model.tokenizer, model.codec, known, words).ids
            # Without the end of text.
            return continue_text(model, V, ids + turn_ids[:-1]).rstrip(".") or UNNAMED
        ids += write_turn(model.tokenizer, model.codec, turn, words).ids
    return UNNAMED


def continue_text(model, V, ids) -> str:
    """Greedy text behind an image and token ids, up to the end of text or MAX_TOKENS tokens."""
    x = model.sequence(V, torch.tensor([ids]))
    cache = KVCache(model.llm.config, 1, x.shape[1] + MAX_TOKENS, x.dtype, model.device)
    found = []
    for _ in range(MAX_TOKENS):
        hidden = model.llm(x, cache=cache)[:, -1]
        token = int(model.llm.logits(hidden).argmax())
        if token == model.tokenizer.eos_id:
            break
        found.append(token)
        x = model.llm.embed(send([[token]], model.device))
    return model.tokenizer.decode(found).strip()
