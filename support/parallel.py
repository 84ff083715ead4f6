"""Training on several processes: DDP, FSDP, and what is gathered from all of them.

With one process nothing here does anything. DDP keeps the model on every process and averages
gradients. FSDP, for models that no GPU can hold, keeps a shard of every layer on each process. Both
were tested on CPUs, and never run on several GPUs.
"""

from functools import partial
from typing import Callable, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from support import launch, meeting


class Loss(torch.nn.Module):
    """The model's loss as a module: DDP synchronises what is called as one."""

    def __init__(self, model, share_image, autocast):
        super().__init__()
        self.model, self.share_image, self.autocast = model, share_image, autocast

    def forward(self, pixels, conversations):
        """conversations: one an image, or, if images are shared, a list of them an image."""
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast):
            if self.share_image:
                return self.model.loss_of_branches(pixels, conversations)
            return self.model.loss(pixels, conversations)


class Distributed(NamedTuple):
    loss: torch.nn.Module  # (pixels, conversations) -> the loss, and that of digits alone
    synchronise: Callable  # of a bool


def distribute_model(model, share_image, fsdp, device, world):
    """The module to call for a loss, and `synchronise`.

    synchronise(False): the next backward pass keeps its gradients to this process.
    """
    # A language model trained in whole is fp32; a GPU multiplies it in bf16 all the same. Shards
    # are gathered in bf16: autocast would keep a bf16 copy of every layer.
    autocast = device.type == "cuda" and "llm" in model.config.whole and not fsdp
    loss = Loss(model, share_image, autocast)
    if fsdp:
        shard_model(model, launch.choose_dtype(device), device, world)
        if "llm" in model.config.whole:
            # Gradients are as large as the model: they are added to shards in each pass.
            return Distributed(loss, do_nothing)
        return Distributed(loss, model.set_requires_gradient_sync)
    if world == 1:
        return Distributed(loss, do_nothing)
    # All processes have loaded the same weights: none are sent at the start.
    loss = DistributedDataParallel(loss, init_sync=False, gradient_as_bucket_view=True)
    return Distributed(loss, partial(setattr, loss, "require_backward_grad_sync"))


def list_layers(model):
    return [*model.vision.layers, *model.llm.model.layers]


def checkpoint_activations(model):
    """Keep no activations within a layer: going backward, each is computed again."""
    for layer in list_layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def do_nothing(_):
    pass


def shard_model(model, dtype, device, world):
    """Move the model to the device, layer by layer, and keep this process's shard of each layer.

    What is trained in whole becomes fp32 then, each layer on its way; it is gathered and computes
    in `dtype`, and its gradients add up in fp32.
    """
    mesh = dist.device_mesh.init_device_mesh(device.type, (world,))
    gathered = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        # A layer's inputs have the dtype, but for angles of positions, which stay fp32.
        cast_forward_inputs=False,
    )

    def shard(module, part, **options):
        if part in model.config.whole:
            widen(module)
            options["mp_policy"] = gathered
        fully_shard(module, mesh=mesh, **options)

    for layer in model.vision.layers:
        shard(layer, "vision")
    # Its features are a part of a larger tensor, which FSDP's hooks do not like.
    model.vision.register_forward_hook(copy_output)
    shard(model.vision, "vision")
    for layer in model.llm.model.layers:
        shard(layer, "llm")
    # Small, and fp32 in every model: gathered once a step.
    for module in list_added(model):
        shard(module, None, reshard_after_forward=False)
    # What is left is the embedding, the head and a norm.
    shard(model, "llm")
    model.answer = partial(answer_in_company, model, model.answer)
    for method in ("loss", "loss_of_branches", "answer"):
        register_fsdp_forward_method(model, method)


def is_sharded(model):
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def copy_output(module, arguments, output):
    return output.clone()


def list_added(model):
    """The modules of a model that are part of neither backbone."""
    return [m for name, m in model.named_children() if name not in ("vision", "llm")]


def widen(module):
    """Make fp32 what is not sharded yet."""
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.float()


def answer_in_company(model, answer, *arguments, **named):
    """model.answer of this process's image, while other processes ask about theirs.

    A layer's shards are gathered whenever all processes come to it, and images differ in how often
    they need the language model. So before each of its passes processes count who has one; whoever
    has no more reads a token in company until nobody has.
    """
    for module in list_added(model):
        module.unshard()

    def ask(*_):
        count_askers(model, 1)

    hook = model.llm.register_forward_pre_hook(ask)
    try:
        answers = answer(*arguments, **named)
    finally:
        hook.remove()
    token = torch.full((1, 1), model.tokenizer.bos_id, device=model.device)
    with torch.inference_mode():
        while count_askers(model, 0) > 0:
            model.llm(model.llm.embed(token))
    return answers


def reshard_model(model):
    """Let go of what answers have gathered: training, and a checkpoint, go on from shards alone."""
    for module in (model, *list_added(model)):
        module.reshard()


def count_askers(model, own):
    """How many processes have a pass of the language model to compute. All must call."""
    askers = torch.tensor(own, device=model.device)
    dist.all_reduce(askers)
    return int(askers)


def compute_norm(parameters):
    """The norm of all gradients, the same on all processes. All must call."""
    gradients = list_gradients(parameters)
    norm = torch.nn.utils.get_total_norm(gradients)
    if any(isinstance(p.grad, DTensor) for p in parameters):
        # Each process holds a shard of each gradient.
        square = norm.square()
        dist.all_reduce(square)
        norm = square.sqrt()
    return norm


def list_gradients(parameters):
    """The gradients, or this process's shards of them."""
    gradients = []
    for p in parameters:
        if p.grad is not None:
            gradients.append(p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad)
    return gradients


def clip_gradients(parameters, norm, highest):
    """Scale the gradients, whose norm is known, so that it is at most `highest`; 0: leave them."""
    if highest and norm > highest:
        for gradient in list_gradients(parameters):
            gradient.mul_(highest / norm)


def wait_for_all(world):
    """Wait until all processes are here: one may still be writing, or have more to do."""
    if world > 1:
        meeting.wait()


def gather_lists(own, world):
    """The lists of all processes, one after the other."""
    if world == 1:
        return own
    wait_for_all(world)
    lists = [None] * world
    dist.all_gather_object(lists, own)
    return [item for one in lists for item in one]


def gather_tensor(tensor, rank):
    """A tensor, its shards put together, on the CPU of rank 0; None elsewhere. All must call."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.contiguous().cpu() if rank == 0 else None


def spread_tensor(tensor, parameter):
    """The inverse: a whole tensor, put where the parameter is and sharded like it."""
    # AdamW's count of steps stays on the CPU, but where it is fused, on a GPU.
    if tensor.dim() == 0 and parameter.device.type != "cuda":
        return tensor
    if tensor.dim() == 0 or not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    mesh = parameter.device_mesh
    # Every process reads its own rows of the file, dealt out as FSDP does.
    shards = tensor.chunk(mesh.size())
    rank = mesh.get_local_rank()
    own = shards[rank] if rank < len(shards) else tensor[:0]
    return DTensor.from_local(
        own.to(parameter.device), mesh, parameter.placements, run_check=False,
        shape=tensor.shape, stride=tensor.stride(),
    )


def gather_state(optimiser, parameters, device, rank, world):
    """What resuming needs besides the weights. All must call; rank 0 gets all of it.

    parameters: {name: parameter}. Returns {"optimiser": {name: moments}, "random": (world, n)
    bytes}.
    """
    moments = {}
    for name, parameter in parameters.items():
        state = optimiser.state[parameter]
        moments[name] = {key: gather_tensor(tensor, rank) for key, tensor in state.items()}
    return {"optimiser": moments, "random": gather_random_states(device, world)}


def restore_state(state, optimiser, parameters, device, rank):
    """Go on from what gather_state returned on rank 0, which is used up."""
    moments = state.pop("optimiser")
    for name, parameter in parameters.items():
        of_parameter = moments.pop(name)
        optimiser.state[parameter] = {
            key: spread_tensor(tensor, parameter) for key, tensor in of_parameter.items()
        }
    find_generator(device).set_rng_state(state.pop("random")[rank].clone())


def find_generator(device):
    """The module that keeps the random state that dropout draws from on a device."""
    return torch if device.type == "cpu" else torch.get_device_module(device)


def gather_random_states(device, world):
    """The random state of every process, (world, n) bytes: dropout continues where it stopped."""
    own = find_generator(device).get_rng_state().to(device)
    if world == 1:
        return own[None].cpu()
    states = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(states, own)
    return torch.stack(states).cpu()


def ask_first(decide, rank, world):
    """What decide() returns on the first process, on all of them.

    So whatever a disk shows is found by one: on a shared disk processes may see different states of
    it.
    """
    found = [decide() if rank == 0 else None]
    if world > 1:
        wait_for_all(world)
        dist.broadcast_object_list(found)
    return found[0]


def check_equal(settings, rank, world):
    """ValueError if processes, on several machines, differ in {what decides the result: value}."""
    first = ask_first(settings.copy, rank, world)
    for name, value in settings.items():
        if first[name] != value:
            raise ValueError(
                f"process {rank} has another value of {name} than the first one: give each "
                "machine the same code, models and data"
            )
