"""Names of the operations of networks, what they do to a zero, and what their arguments say."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

ZERO_STAYS_ZERO = frozenset(
    "relu relu6 leakyrelu prelu elu celu selu silu gelu mish hardswish tanh softsign dropout dropout1d dropout2d "
    "dropout3d stochasticdepth maxpool1d maxpool2d maxpool3d avgpool1d avgpool2d avgpool3d adaptiveavgpool1d "
    "adaptiveavgpool2d adaptiveavgpool3d adaptivemaxpool1d adaptivemaxpool2d adaptivemaxpool3d interpolate upsample "
    "neg abs square sqrt".split()
)
ZERO_BECOMES_NUMBER = frozenset("sigmoid hardsigmoid logsigmoid exp cos softplus".split())
SUMS = frozenset("add iadd sub isub".split())
PRODUCTS = frozenset("mul imul".split())
QUOTIENTS = frozenset("truediv itruediv div".split())
# Where layers compute as PyTorch's do; the timm ones pad by the size of the image, or cast.
PLAIN_LAYERS = ("torch.nn.modules.", "timm.layers.conv2d_same", "timm.layers.linear")
IN_PLACE = frozenset("iadd isub imul itruediv".split())
ZEROS = frozenset("zeros newzeros zeroslike".split())
REDUCTIONS = frozenset("mean sum amax amin".split())
JOINS = frozenset("cat concat concatenate".split())
MOVES = frozenset("flatten squeeze unsqueeze permute transpose identity clone contiguous detach size dim".split())
MOVES_BY_WIDTH = frozenset("view reshape chunk split getitem channelshuffle pixelshuffle pixelunshuffle".split())


def tensors_in(found: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if isinstance(found, Mapping) else found if isinstance(found, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def is_special(module: nn.Module) -> bool:
    """True for a layer that does more than PyTorch's: standardises its weights, or computes them from others."""
    return not type(module).forward.__module__.startswith(PLAIN_LAYERS) or "weight" not in module._parameters


def operands(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The two sides of a sum or product, however they were passed."""
    first, second, *_ = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
    return first, second


def pads_with_own(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """True where F.pad puts nothing but zeros, or the image's own pixels, around it."""
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    return mode != "constant" or not kwargs.get("value", args[3] if len(args) > 3 else 0)


def leaves_channels(index: Any) -> bool:
    """True where x[index] takes all channels: x[:, :, ::2], or an item of a tuple or size."""
    return isinstance(index, tuple) and index[:2] == (slice(None), slice(None))


def flattens(kind: str, args: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """True where a view keeps the images and leaves the rest to be worked out: x.view(n, -1)."""
    sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    return kind in ("view", "reshape") and len(shape) == 2 and len(sizes) == 2 and sizes[1] == -1
