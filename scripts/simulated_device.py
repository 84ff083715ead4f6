"""A GPU that is not there: it computes on the CPU, refuses what CUDA refuses, and counts.

    device = SimulatedDevice()
    with device:
        move_model(model, device)
        model.answer(pixels.to(DEVICE, non_blocking=True), keypoints)
    device.launches, device.bytes, device.read_backs, device.blocking_copies, device.kernels

Tests run on machines without a GPU. What can be known there: tensors of two devices meet in no
operation; each wait for the device is seen; and PyTorch's sources say which of its attention
kernels takes which call (`choose_kernel`). How fast a kernel is scripts/gpu.py measures.

A tensor "on the device" says so to Python, and PyTorch's C++ takes it for one on the CPU, so that
gradients are computed as usual. With SimulatedDevice("meta") nothing is computed: shapes alone
count, so that models fit of which no machine at hand could hold the weights.
"""

import math
from collections import Counter
from functools import cache, partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
HALF = (torch.bfloat16, torch.float16)
# A GPU must be waited for, because the shape of the result depends on numbers.
SHAPED_BY_NUMBERS = ("nonzero", "_unique2", "unique_dim", "masked_select", "bincount")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# Nothing is computed: memory is named, or taken.
FREE = ("detach", "_unsafe_view", "lift_fresh", "_reshape_alias")
TAKES_MEMORY = ("empty", "empty_like", "new_empty", "empty_strided")
# CUDA has a kernel for each of them. Here only their first input gets a gradient.
FUSED = (F.rms_norm, F.dropout)
# What they read of their first input is as much as they write.
LOOKUPS = ("embedding", "index", "index_select", "gather")


class DeviceTensor(torch.Tensor):
    """A tensor on the device; its numbers are those of `host`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    # Views of tensors from outside of inference mode are no inference tensors.
    @torch.inference_mode(False)
    def __new__(cls, host, simulated):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype,
        )
        tensor.host, tensor.simulated = host, simulated
        return tensor

    @property
    def device(self):
        return DEVICE

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), named=None):
        raise RuntimeError(f"{operation} of a tensor on the device, which is left: use `with`")

    def to(self, *arguments, **named):
        device, dtype, *_ = torch._C._nn._parse_to(*arguments, **named)
        moved = self.cpu() if device is not None and device.type == "cpu" else self
        return moved if dtype is None else torch.Tensor.to(moved, dtype)

    def cpu(self):
        return self.simulated.read_back(self.host)

    def tolist(self):
        return self.cpu().tolist()


class SimulatedDevice:
    """Counts, and refuses: RuntimeError where CUDA raises one."""

    def __init__(self, where="cpu"):
        """where: the device of PyTorch's that computes, "cpu" or, for shapes alone, "meta"."""
        self.where = where
        self.functions, self.operations = Functions(self), Operations(self)
        # CUDA would be initialised for every tensor made there.
        self.cuda = patch.object(torch.cuda, "_lazy_init", lambda: None)
        self.reset()

    def reset(self):
        """Count anew."""
        self.launches = self.bytes = self.read_backs = self.copies = 0
        # Texts: which operation waited to send numbers to the device.
        self.blocking_copies = []
        # Which kernel takes how many calls of attention.
        self.kernels = Counter()
        self.is_fused = False

    def __enter__(self):
        self.cuda.start()
        self.functions.__enter__()
        self.operations.__enter__()
        return self

    def __exit__(self, *error):
        self.operations.__exit__(*error)
        self.functions.__exit__(*error)
        self.cuda.stop()

    def read_back(self, host):
        self.read_backs += 1
        return torch.zeros(host.shape, dtype=host.dtype) if host.is_meta else host.clone()

    def send(self, tensor, dtype, non_blocking):
        self.copies += 1
        if not non_blocking:
            self.blocking_copies.append(f"{tensor.dtype} of the shape {list(tensor.shape)}")
        return DeviceTensor(tensor.to(self.where, dtype or tensor.dtype, copy=True), self)

    def run(self, operation, arguments, named):
        """Any operation, of the device or not."""
        named = dict(named)
        name = find_name(operation)
        inputs = list_tensors([*arguments, *named.values()])
        here = [x for x in inputs if isinstance(x, DeviceTensor)]
        device = named.get("device")
        to_device = device is not None and device.type == DEVICE.type
        if not here and not to_device:
            return operation(*arguments, **named)
        if not here and name == "_to_copy":
            return self.send(arguments[0], named.get("dtype"), named.get("non_blocking", False))
        if name == "copy_" and not isinstance(arguments[1], DeviceTensor):
            self.send(arguments[1], None, len(arguments) > 2 and arguments[2])
        else:
            self.check(operation, name, inputs)
        if device is not None:
            named["device"] = self.where
        if name == "_local_scalar_dense":
            return self.read_back(here[0].host).item()
        return self.compute(operation, name, here, arguments, named)

    def check(self, operation, name, inputs):
        """Refuse tensors of two devices. What CUDA copies in spite of that, it waits for."""
        for tensor in inputs:
            if isinstance(tensor, DeviceTensor):
                continue
            if name in INDEXING:
                self.send(tensor, None, False)
            elif tensor.dim() or torch.Tag.pointwise not in operation.tags:
                raise RuntimeError(
                    f"{operation}: expected all tensors to be on the same device, "
                    f"but found {DEVICE} and {tensor.device}"
                )

    def compute(self, operation, name, here, arguments, named):
        if is_shaped_by_numbers(name, arguments, named):
            self.read_backs += 1
        owners = {id(x.host): x for x in here}

        def unwrap(tensor):
            if isinstance(tensor, DeviceTensor):
                return tensor.host
            return tensor.to(self.where)

        def wrap(host):
            return owners[id(host)] if id(host) in owners else DeviceTensor(host, self)

        found = operation(
            *map_tensors(unwrap, arguments),
            **{key: map_tensors(unwrap, value) for key, value in named.items()},
        )
        outputs = list_tensors([found])
        if not (operation.is_view or name in FREE or name in TAKES_MEMORY or self.is_fused):
            self.launches += 1
            self.bytes += count_bytes(name, [x.host for x in here], outputs)
        return map_tensors(wrap, found)

    def run_fused(self, function, *arguments):
        """Count as one operation what one kernel computes; (numbers in, numbers out)."""
        self.is_fused = True
        try:
            found = function(*arguments)
        finally:
            self.is_fused = False
        self.launches += 1
        self.bytes += count_bytes("fused", [arguments[0].host], [found.host])
        return found


class Fused(torch.autograd.Function):
    """A call for which CUDA has a kernel, and one for its gradient; on a CPU it is many."""

    @staticmethod
    def forward(context, x, simulated, function):
        def compute(x):
            with torch.enable_grad():
                context.y = function(x)
            return context.y.detach()

        context.simulated, context.x = simulated, x.detach().requires_grad_()
        return simulated.run_fused(compute, context.x)

    @staticmethod
    def backward(context, gradient):
        def compute(gradient):
            return torch.autograd.grad(context.y, context.x, gradient)[0]

        return context.simulated.run_fused(compute, gradient), None, None


class Operations(TorchDispatchMode):
    """Sees each operation that PyTorch takes a call apart into, forward and backward."""

    def __init__(self, simulated):
        super().__init__()
        self.simulated = simulated

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        named = named or {}
        if is_composite(operation):
            # In inference mode calls come here whole.
            with self:
                return operation.decompose(*arguments, **named)
        return self.simulated.run(operation, arguments, named)


@cache
def is_composite(operation):
    return operation._can_decompose()


@cache
def find_name(operation):
    return operation.name().removeprefix("aten::").partition(".")[0]


class Functions(TorchFunctionMode):
    """Sees Python's calls, before PyTorch takes them apart."""

    def __init__(self, simulated):
        super().__init__()
        self.simulated = simulated

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function is torch.tensor and named.get("device") is not None:
            # It waits for what it sends.
            device = named.pop("device")
            return torch.tensor(*arguments, **named).to(device)
        if function in FUSED and isinstance(arguments[0], DeviceTensor):
            x, *others = arguments
            return Fused.apply(x, self.simulated, partial(call_on, function, others, named))
        if function is F.scaled_dot_product_attention and isinstance(arguments[0], DeviceTensor):
            self.simulated.kernels[choose_kernel(*arguments, **named)] += 1
        return function(*arguments, **named)


def call_on(function, others, named, x):
    return function(x, *others, **named)


def choose_kernel(q, k, v, attn_mask=None, is_causal=False, enable_gqa=False):
    """Which kernel of PyTorch 2.13 computes attention on a GPU: "flash", "efficient" or "math".

    As in its sources, aten/src/ATen/native/transformers/: sdp_utils_cpp.h, cuda/sdp_utils.cpp and
    attention.cpp, with cuDNN's switched off. "efficient, mask copied": `preprocess_mask` pads a
    mask whose rows do not begin at multiples of 8. "math" keeps all scores.
    """
    width, tensors = q.shape[-1], (q, k, v)
    shapes_fit = all(x.dim() == 4 and x.stride(-1) == 1 and x.shape[-2] > 0 for x in tensors)
    same_type = {x.dtype for x in tensors} == {q.dtype}
    same_heads = q.shape[-3] == k.shape[-3] == v.shape[-3]
    if not (shapes_fit and same_type and k.shape[-1] == v.shape[-1] == width):
        return "math"
    square = q.shape[-2] == k.shape[-2] or not is_causal
    heads_fit = same_heads or (enable_gqa and q.shape[-3] % k.shape[-3] == 0)
    if attn_mask is None and q.dtype in HALF and width <= 256 and heads_fit and square:
        return "flash"
    alignment = 8 if q.dtype in HALF else 4
    if not same_heads or q.dtype not in (*HALF, torch.float32) or width % alignment:
        return "math"
    if attn_mask is None:
        return "efficient"
    if attn_mask.stride(-1) != 1 or attn_mask.dtype not in (torch.bool, q.dtype):
        return "math"
    rows_fit = all(stride % 8 == 0 for stride in attn_mask.stride()[:-1])
    if rows_fit and attn_mask.dtype == q.dtype:
        return "efficient"
    return "efficient, mask copied"


def list_tensors(values):
    """All tensors in a list, whose entries may be lists, too."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += list_tensors(value)
    return found


def map_tensors(function, value):
    """A value with function(tensor) in the place of each tensor in it."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([map_tensors(function, part) for part in value])
    return value


def is_shaped_by_numbers(name, arguments, named):
    if name in INDEXING:
        return any(x is not None and x.dtype == torch.bool for x in arguments[1])
    if name == "repeat_interleave":
        return named.get("output_size") is None
    return name in SHAPED_BY_NUMBERS


def count_bytes(name, inputs, outputs):
    """Bytes that an operation reads and writes if it touches each number once."""
    if name in LOOKUPS:
        inputs = [*outputs, *inputs[1:]]
    return sum(count_numbers(x) * x.itemsize for x in [*inputs, *outputs])


def count_numbers(tensor):
    """How many numbers are in memory: what is expanded is there once."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(side for side, stride in sides if stride)


def move_model(model, simulated):
    """Put all parameters and buffers of a model on the device. To be called within it."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                tensor = DeviceTensor(parameter.data.to(simulated.where), simulated)
                module._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = DeviceTensor(buffer.to(simulated.where), simulated)
    return model
