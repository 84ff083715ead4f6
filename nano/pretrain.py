"""Make nano's two backbones: a small tokenizer, a small DINOv2 and a small Llama, trained from random weights.

    torchrun --nproc_per_node 2 -m nano.pretrain --data data/figures --out runs/pretrain      # `make nano` runs this first

The official backbones come pre-trained; these must be too, or the method has nothing to adapt: trained on answers alone
from random weights, so small a model answers with each keypoint's average place and never looks. This is grounding, not
part of the paper. Three phases, every parameter trained:

1. eyes: the vision encoder alone. For every keypoint a softmax over patches must find its patch, and a linear map its
   place within the patch.
2. words: all together. The answers of the method, with a pointer half-way through the language model: the hidden state
   before the first digit must match the hidden state of the keypoint's patch.

   Most questions come without their description at first: a name is a third of the tokens, and enough to learn to look.
3. rounds: the same, with questions also in chains as in Section 3.3, with images stretched and their colours exchanged,
   because species never seen differ in shape and colour from those seen, and with photographs, where there are any.

What helped only here (the heads of both losses) is left behind. `train.py --init` then trains what the paper trains.
"""
import argparse
import io
import json
import math
import random
import shutil
import time
from pathlib import Path

import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from support import launch
from study import instructions
import data
from support import checkpoints
import train
from capellm import CapeLLM, Codec
from study.share_image import read_branches
from support.folders import CapeLLMConfig
from dino import DINOv2, DINOv2Config
from llama import Config, Llama
from support.tokenizer import Tokenizer

SIZE, PATCH, WIDTH, EYE_WIDTH = 112, 14, 160, 192
VISION = dict(hidden_size=EYE_WIDTH, num_hidden_layers=6, num_attention_heads=6, image_size=SIZE, patch_size=PATCH)
LLM = dict(hidden_size=WIDTH, intermediate_size=432, num_hidden_layers=4, num_attention_heads=5, num_key_value_heads=5,
           max_position_embeddings=2048, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True)
POINTER = 1         # the pointer reads what layer 1 of the four puts out
QUESTIONS = 12      # asked of an image at once, in branches of one, later also of more rounds
CHAINS = (1, 1, 1, 2, 4, 12)        # rounds of a branch, each as often
PHOTOS = 0.2        # share of photographs in a batch of the third phase, where there are any


def write_tokenizer(folder, texts):
    """Sentencepiece in Llama 2's form, from the descriptions of the training categories; the template's phrases are pieces."""
    parts = [part for t in (instructions.QUESTION, instructions.BARE) for part in t.replace("{description}", "{name}").split("{name}")]
    template = dict.fromkeys(part.strip() for part in parts)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=2048, hard_vocab_limit=False,
        character_coverage=1.0, byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, bos_id=1, eos_id=2, unk_id=0, pad_id=-1, minloglevel=2, num_threads=1,
        user_defined_symbols=[*("▁" + part.replace(" ", "▁") for part in template), "[0.", ",0.", "]", *"0123456789"])
    (folder / "tokenizer.model").write_bytes(model.getvalue())


class Grounding(nn.Module):
    """The heads of the two extra losses. keypoints: how many (definition, index) pairs exist."""
    def __init__(self, model, keypoints):
        super().__init__()
        self.model, self.N = model, (SIZE // PATCH) ** 2
        self.patch = nn.Embedding(keypoints, EYE_WIDTH)
        self.offset = nn.Embedding(keypoints, 2 * EYE_WIDTH)
        nn.init.normal_(self.patch.weight, std=EYE_WIDTH ** -0.5)
        nn.init.normal_(self.offset.weight, std=EYE_WIDTH ** -0.5)
        self.query, self.key = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64)

    def eyes(self, V, item, ids, xy):
        """Patch and offset losses of keypoints ids (n,) at xy (n, 2) on image item (n,), from features V (B, N, C)."""
        side = SIZE // PATCH
        cell = (xy * side).floor().clamp(0, side - 1)
        target = (cell[:, 1] * side + cell[:, 0]).long()
        scores = torch.einsum("nc,nkc->nk", self.patch(ids), V[item])
        offset = torch.einsum("ndc,nc->nd", self.offset(ids).view(-1, 2, EYE_WIDTH), V[item, target])
        loss = F.cross_entropy(scores, target) + 2 * (offset - (xy * side - cell)).abs().mean()
        return loss, (scores.argmax(1) == target).float().mean()

    def forward(self, batch, words):
        pixels, item, ids, xy, branches, answers = batch
        V = self.model.vision(pixels)
        eyes, hit = self.eyes(V, item, ids, xy)
        if not words:
            return eyes, {"eyes": eyes, "patch": hit}
        layer_out = []
        hook = self.model.llm.model.layers[POINTER].register_forward_hook(lambda _, x, out: layer_out.append(out))
        Z, image, position = read_branches(self.model, self.model.projection(V), [[t for t, _ in b] for b in branches])
        hook.remove()
        tapped = layer_out[0]
        labels = torch.tensor([t for b in branches for _, l in b for t in l])
        mark = labels != data.IGNORE
        loss = F.cross_entropy(self.model.llm.logits(Z[image[mark], position[mark] - 1]), labels[mark])
        # The pointer: the token before the first digit is the answer's opening, the first labelled token of a branch.
        first = mark & ~torch.cat([torch.zeros(1, dtype=torch.bool), mark[:-1]])
        query = self.query(tapped[image[first], position[first]])
        key = self.key(tapped[:, 1:1 + self.N])
        scores = torch.einsum("nc,nkc->nk", query, key[image[first]]) / 8
        side = SIZE // PATCH
        cell = (answers * side).floor().clamp(0, side - 1)
        target = (cell[:, 1] * side + cell[:, 0]).long()
        pointer, hit = F.cross_entropy(scores, target), (scores.argmax(1) == target).float().mean()
        return loss + 0.3 * pointer + eyes, {"loss": loss, "pointer": pointer, "eyes": eyes, "patch": hit}


def swap(name):
    """A keypoint's name after mirroring the image: left and right exchanged."""
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def stretch(pixels, points, rng):
    """Pixels (3, S, S) and relative points (K, 3), wider and lower or narrower and higher by up to a fifth, colours exchanged."""
    u = rng.uniform(-0.2, 0.2)
    grid = F.affine_grid(torch.tensor([[[math.exp(-u), 0, 0], [0, math.exp(u), 0]]]), [1, *pixels.shape], align_corners=False)
    pixels = F.grid_sample(pixels[None], grid, padding_mode="border", align_corners=False)[0]
    points[:, :2] = 0.5 + (points[:, :2] - 0.5) * [math.exp(u), math.exp(-u)]
    points[:, 2] *= Codec.has_code(points[:, :2]).all(1)
    return pixels[rng.sample(range(3), 3) if rng.random() < 0.3 else [0, 1, 2]], points


class Sampler:
    """Random training batches: (pixels, item, ids, xy, branches, answers), all keypoints for the eyes, some asked in words."""
    def __init__(self, folders, tokenizer, codec):
        self.sets, self.described, self.codec = [], {}, codec
        for folder in folders:
            instances, names = data.read_split(folder, 1, "train")
            self.described |= data.describe(instances, names)
            self.sets.append(instances)
        distinct = list(dict.fromkeys(tuple(d) for d in self.described.values()))
        start = {d: sum(map(len, distinct[:n])) for n, d in enumerate(distinct)}
        self.start = {c: start[tuple(d)] for c, d in self.described.items()}
        self.keypoints = sum(map(len, distinct))
        self.questions = {k: [data.write_question(tokenizer, k._replace(description="")), data.write_question(tokenizer, k)]
                          for d in distinct for k in d}
        self.mirror = {}
        for c, d in self.described.items():
            index = {k.name: j for j, k in enumerate(d)}
            self.mirror[c] = [index.get(swap(k.name), j) for j, k in enumerate(d)]

    def batch(self, size, rng, described=1.0, rounds=False):
        """size: images; described: share of questions with a description; rounds: the third phase."""
        images, item, ids, xy, branches, answers = [], [], [], [], [], []
        while len(images) < size:
            photo = rounds and len(self.sets) > 1 and rng.random() < PHOTOS
            instances = rng.choice(self.sets[1:]) if photo else self.sets[0]
            i = rng.choice(instances)
            scale, angle = rng.uniform(0.85, 1.2), math.radians(rng.uniform(-20, 20)) if rng.random() < 0.5 else 0.0
            pixels, points = data.load_crop(i, SIZE, scale, angle)
            if rng.random() < 0.5:                      # mirrored: left and right change names
                pixels, points = pixels.flip(2), points[self.mirror[i.category]]
                points[:, 0] = 1 - points[:, 0]
                points[:, 2] *= Codec.has_code(points[:, 0])
            if rounds:
                pixels, points = stretch(pixels, points, rng)
            visible = [j for j in range(len(points)) if points[j, 2] > 0]
            if not visible:
                continue
            gain = torch.tensor([rng.uniform(0.7, 1.3) * g for g in [rng.uniform(0.8, 1.25)] * 3]).view(3, 1, 1)
            pixels = pixels * gain + rng.uniform(-0.3, 0.3)
            item += [len(images)] * len(visible)
            ids += [self.start[i.category] + j for j in visible]
            xy += [points[j, :2] for j in visible]
            asked, chain = rng.sample(visible, min(QUESTIONS, len(visible))), rng.choice(CHAINS) if rounds else 1
            branches.append([([], []) for _ in range(0, len(asked), chain)])
            for n, j in enumerate(asked):
                q, a = self.questions[self.described[i.category][j]][rng.random() < described], self.codec.encode(*points[j, :2])
                for part, more in zip(branches[-1][n // chain], (q + a, [data.IGNORE] * len(q) + a)):
                    part += more
            answers += [points[j, :2] for j in asked]
            images.append(pixels)
        tensor = lambda rows: torch.tensor([list(map(float, r)) for r in rows])
        return torch.stack(images), torch.tensor(item), torch.tensor(ids), tensor(xy), branches, tensor(answers)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al., 2024), for the matrices inside the layers.

    torch.optim.Muon computes it in bfloat16, which a CPU without such units does a hundred times slower than fp32. The
    processes share the work: each makes every world-th update.
    """
    def __init__(self, matrices, lr=0.02, momentum=0.95, weight_decay=0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        (group,), updates = self.param_groups, []
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for n, p in enumerate(group["params"]):
            m = self.state[p].setdefault("momentum", torch.zeros_like(p)) if p.grad is not None else None
            if m is None:
                continue
            m.lerp_(p.grad, 1 - group["momentum"])
            updates.append((p, orthogonal(p.grad.lerp(m, group["momentum"])) if n % world == rank else torch.zeros_like(p)))
        if world > 1 and updates:
            flat = torch.cat([u.view(-1) for _, u in updates])
            dist.all_reduce(flat)
            updates = [(p, u.view_as(p)) for (p, _), u in zip(updates, flat.split([p.numel() for p, _ in updates]))]
        for p, update in updates:
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(g, steps=5):
    """The nearest (semi-)orthogonal matrix, roughly: a quintic Newton-Schulz iteration on the singular values."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def optimisers(module):
    """Muon for the matrices inside the layers, AdamW for the rest."""
    matrices = [p for n, p in module.named_parameters() if p.dim() == 2 and ".layer" in n]
    chosen = set(map(id, matrices))
    rest = [p for p in module.parameters() if id(p) not in chosen]
    return [Muon(matrices), torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)]


def export(model, folder):
    """The backbones in official form, in bf16, and a model folder around them with fresh adapters."""
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    vision = VISION | {"model_type": "dinov2", "architectures": ["Dinov2Model"], "mlp_ratio": 4, "layer_norm_eps": 1e-6,
                       "qkv_bias": True, "use_swiglu_ffn": False, "hidden_act": "gelu"}
    llm = LLM | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": model.llm.config.vocab_size,
                 "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}
    for name, backbone, config in (("vision", model.vision, vision), ("llm", model.llm, llm)):
        (beside / name).mkdir(parents=True)
        (beside / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in backbone.state_dict().items()}
        checkpoints.save(tensors, beside / name / "model.safetensors", {"format": "pt"})
    shutil.copy(folder.parent / "tokenizer.model", beside / "llm")
    tuned = CapeLLM.assemble(CapeLLMConfig(str(beside / "vision"), str(beside / "llm"), SIZE, 3, train.LORA), torch.float32)
    tuned.projection.load_state_dict(model.projection.state_dict())
    tuned.config.vision, tuned.config.llm = "vision", "llm"
    (beside / "config.json").write_text(tuned.config.to_json())
    checkpoints.save({n: t.contiguous() for n, t in tuned.adapter().items()}, beside / "adapter.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", nargs="+", default=["data/figures"], metavar="FOLDER", help="drawings, then folders of photographs")
    p.add_argument("--out", type=Path, default=Path("runs/pretrain"), metavar="FOLDER")
    p.add_argument("--eyes", type=int, default=700, metavar="STEPS", help="steps of the first phase")
    p.add_argument("--words", type=int, default=2300, metavar="STEPS", help="steps of the second phase")
    p.add_argument("--names", type=int, default=1700, metavar="STEPS", help="of these, steps that mostly ask by name")
    p.add_argument("--rounds", type=int, default=3000, metavar="STEPS", help="steps of the third phase")
    p.add_argument("--batch", type=int, default=16, help="images a step, over all processes; twice as many for the eyes")
    p.add_argument("--seed", type=int, default=42)
    a = p.parse_args()
    rank, world, device = launch.setup()
    if world > 1:
        torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    if rank == 0 and not (a.out / "tokenizer.model").exists():
        instances, names = [], {}
        for folder in a.data:
            more, more_names = data.read_split(folder, 1, "train")
            instances, names = instances + more, names | more_names
        write_tokenizer(a.out, [f"{k.name}: {k.description}" for d in data.describe(instances, names).values() for k in d])
    if world > 1:
        dist.barrier()
    tokenizer = Tokenizer.from_pretrained(a.out)
    config = Config(vocab_size=tokenizer.vocab_size, **{k: v for k, v in LLM.items() if k != "max_position_embeddings"})
    model = CapeLLM(DINOv2(DINOv2Config(**VISION)), Llama(config), tokenizer, CapeLLMConfig("", "", SIZE))
    sampler = Sampler(a.data, tokenizer, model.codec)
    module = Grounding(model, sampler.keypoints)
    optims = optimisers(module)
    base = [o.param_groups[0]["lr"] for o in optims]    # before a checkpoint brings the rates of its step
    step, steps, newest = 0, a.eyes + a.words + a.rounds, a.out / "newest.pt"
    if newest.exists():
        state = torch.load(newest, weights_only=True)
        module.load_state_dict(state["module"])
        for o, s in zip(optims, state["optims"]):
            o.load_state_dict(s)
        step = state["step"]
    log = open(a.out / "log.jsonl", "a") if rank == 0 else None
    bar = tqdm(total=steps, initial=step, disable=rank > 0, unit="step", mininterval=5)
    means, began = {}, time.time()
    while step < steps:
        words, rounds = step >= a.eyes, step >= a.eyes + a.words
        factor = (train.schedule(step - a.eyes - a.words, a.rounds) / 2 if rounds else
                  train.schedule(step - a.eyes, a.words) if words else min(1.0, (step + 1) / 20))
        for o, lr in zip(optims, base):
            o.param_groups[0]["lr"] = lr * factor
        described = 0.25 if step < a.eyes + a.names else 0.5
        batch = sampler.batch((1 if words else 2) * a.batch // world, random.Random(f"{a.seed} {step} {rank}"), described, rounds)
        loss, parts = module(batch, words)
        loss.backward()
        if world > 1:                                   # all gradients in one message
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            flat = torch.cat([g.view(-1) for g in grads])
            dist.all_reduce(flat)
            for g, mean in zip(grads, (flat / world).split([g.numel() for g in grads])):
                g.copy_(mean.view_as(g))
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for o in optims:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        for n, v in parts.items():
            means[n] = means.get(n, 0) + v.item() / 20
        if rank == 0 and step % 20 == 0:
            record = {"step": step, "lr": factor, "s": (time.time() - began) / 20} | means
            log.write(json.dumps({n: round(v, 4) for n, v in record.items()}) + "\n")
            log.flush()
            bar.set_postfix({n: f"{v:.3f}" for n, v in means.items()})
        if step % 20 == 0:
            means, began = {}, time.time()
        bar.update()
        if rank == 0 and (step % 200 == 0 or step == steps):
            state = {"step": step, "module": module.state_dict(), "optims": [o.state_dict() for o in optims]}
            torch.save(state, a.out / "newest.partial")
            (a.out / "newest.partial").rename(newest)
    if rank == 0:
        export(model, a.out / "model")
        print(f"done: {a.out / 'model'}")
    if world > 1:
        dist.barrier()                                  # the first process may still be writing


if __name__ == "__main__":
    launch.run("nano.pretrain", main)
