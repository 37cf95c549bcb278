"""Names of the operations of networks, what they do to a zero, and what their arguments say."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

# Functions of every number alone.
ZERO_STAYS_ZERO = frozenset(
    "relu relu6 leakyrelu rrelu prelu elu celu selu silu gelu mish hardswish tanh softsign hardshrink softshrink tanhshrink "
    "dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout stochasticdepth droppath neg abs square sqrt sign "
    "sin sinh tan asin asinh atan atanh erf expm1 log1p floor ceil round trunc frac to type typeas float double half "
    "bfloat16".split()
)
ZERO_BECOMES_NUMBER = frozenset(
    "sigmoid hardsigmoid logsigmoid exp exp2 cos cosh acos erfc softplus log log2 log10 rsqrt reciprocal oneslike "
    "emptylike randlike randnlike bernoulli".split()  # random draws too
)
# As those, of one or several tensors; the numbers beside them decide what becomes of a zero.
BY_VALUE = frozenset(
    "clamp clip clampmin clampmax hardtanh threshold pow gt lt ge le eq ne maximum minimum lerp addcmul fmod remainder mod "
    "floordiv logicaland logicalor logicalxor logicalnot and or xor bool absolute negative positive sgn signbit sinc fix angle "
    "arcsin arccos arctan arcsinh arccosh arctanh acosh deg2rad rad2deg digamma erfinv lgamma logit nantonum isnan isinf "
    "isfinite".split()
)
# Several neighbours make one number, along the last dimensions, as many as the name says or all behind the second.
WINDOWS = frozenset(
    "maxpool1d maxpool2d maxpool3d avgpool1d avgpool2d avgpool3d lppool1d lppool2d lppool3d adaptiveavgpool1d "
    "adaptiveavgpool2d adaptiveavgpool3d adaptivemaxpool1d adaptivemaxpool2d adaptivemaxpool3d interpolate upsample "
    "upsamplingnearest2d upsamplingbilinear2d reflectionpad1d reflectionpad2d reflectionpad3d replicationpad1d "
    "replicationpad2d replicationpad3d circularpad1d circularpad2d circularpad3d zeropad1d zeropad2d zeropad3d".split()
)
SUMS = frozenset("add iadd sub isub rsub".split())
PRODUCTS = frozenset("mul imul".split())
QUOTIENTS = frozenset("truediv itruediv div".split())
# Where layers compute as PyTorch's do; the timm ones pad by the size of the image, or cast.
PLAIN_LAYERS = ("torch.nn.modules.", "timm.layers.conv2d_same", "timm.layers.linear")
IN_PLACE = frozenset("iadd isub imul itruediv".split())
ZEROS = frozenset("zeros newzeros".split())
REDUCTIONS = frozenset("mean sum amax amin max min prod".split())
DEVIATIONS = frozenset("std var norm".split())
JOINS = frozenset("cat concat concatenate".split())
MOVES = frozenset(
    "flatten squeeze unsqueeze permute transpose swapaxes swapdims movedim flip repeat tile identity clone contiguous detach "
    "dim".split()
)
VIEWS = frozenset("view reshape".split())
MOVES_BY_WIDTH = frozenset("chunk split unbind select narrow channelshuffle pixelshuffle pixelunshuffle".split())
# Along one dimension, which is the second or third argument.
DIMENSION = {"chunk": 2, "split": 2, "unbind": 1, "select": 1, "narrow": 1}
# They may use numbers that follow the width, each in its own way.
SIZED = VIEWS | ZEROS | {"expand"}


def tensors_in(found: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(found, Tensor):
        return [found]
    parts = found if isinstance(found, tuple | list) else found.values() if isinstance(found, dict) else ()
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


def numbers_in(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes however they were passed: one by one, or as one tuple."""
    return tuple(found[0]) if len(found) == 1 and isinstance(found[0], tuple | list) else found
