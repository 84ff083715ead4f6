"""Training on several processes: DDP, FSDP, and what is gathered from all of them.

With one process nothing here does anything. DDP keeps the model on every process and averages
gradients. FSDP, for models that no GPU can hold, keeps a shard of every layer on each process; it
was tested on CPUs and never run on a GPU.
"""

from functools import partial
from typing import Callable, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from support import meeting


class Loss(torch.nn.Module):
    """The model's loss as a module: DDP synchronises what is called as one."""

    def __init__(self, model, share_image):
        super().__init__()
        self.model, self.share_image = model, share_image

    def forward(self, pixels, conversations):
        """conversations: one an image, or, if images are shared, a list of them an image."""
        # A language model trained in whole is fp32; a GPU multiplies it in bf16 all the same.
        device = self.model.device.type
        use_bf16 = device == "cuda" and "llm" in self.model.config.whole
        with torch.autocast(device, torch.bfloat16, enabled=use_bf16):
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
    loss = Loss(model, share_image)
    if fsdp:
        shard_model(model, device, world)
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


def shard_model(model, device, world):
    """Move the model to the device, layer by layer, and keep this process's shard of each layer."""
    mesh = dist.device_mesh.init_device_mesh(device.type, (world,))
    for layer in list_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("loss", "loss_of_branches", "answer"):
        register_fsdp_forward_method(model, method)


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
    # AdamW's count of steps stays on the CPU.
    if tensor.dim() == 0:
        return tensor
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


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
    """Go on from what gather_state returned on rank 0."""
    for name, parameter in parameters.items():
        moments = state["optimiser"][name]
        optimiser.state[parameter] = {k: spread_tensor(t, parameter) for k, t in moments.items()}
    set_random_state = torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state
    set_random_state(state["random"][rank].clone())


def gather_random_states(device, world):
    """The random state of every process, (world, n) bytes: dropout continues where it stopped."""
    own = torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()
    own = own.to(device)
    if world == 1:
        return own[None].cpu()
    states = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(states, own)
    return torch.stack(states).cpu()
