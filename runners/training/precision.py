"""The precision of training steps, and the layers for which bf16 cannot be trusted."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from runners.process.errors import ConfigError


def precision(asked: str, network: nn.Module, example: Float[Tensor, "images channels h w"]) -> str:
    """`bf16` or `fp32`; `auto` is bf16 where the hardware multiplies it natively and its gradients are defined.

    Raises:
        ConfigError: bf16 is asked for where they are not.
    """
    undefined = undefined_in_bf16(network, example) if asked != "fp32" and example.device.type == "cpu" else []
    if asked == "bf16" and undefined:
        raise ConfigError(
            f"precision=bf16: on a CPU PyTorch computes the weight gradient of {undefined[0]}, whose steps are longer than its "
            f"input, from memory that nothing has written ({len(undefined)} such layers); fp32 is exact; choose "
            "precision=fp32 or larger images"
        )
    if asked != "auto":
        return asked
    return "bf16" if has_bf16(example.device) and not undefined else "fp32"


def undefined_in_bf16(network: nn.Module, example: Float[Tensor, "images channels h w"]) -> list[str]:
    """Convolutions with steps longer than their input, which kernels beyond 1x1 reach past.

    oneDNN 3.13 (PyTorch 2.15) reads unwritten memory for their weight gradient in bf16, and in no other case that was tried:
    inputs of 1 to 32 pixels, kernels to 7, strides to 4, with and without groups.
    """
    found: list[str] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        pixels = given[0].shape[2:]
        steps_over = any(size < stride for size, stride in zip(pixels, module.stride, strict=True))
        if steps_over and max(module.kernel_size) > 1:
            found.append(names[module])

    names = {module: name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.inference_mode():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def has_bf16(device: torch.device) -> bool:
    """True if the hardware multiplies bf16 natively (elsewhere it is slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
