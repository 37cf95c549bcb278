"""Random numbers as functions of counters: the same on every device, in any order, for any number of workers."""

from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

_LOW = 0xFFFFFFFF
Word = TypeVar("Word", int, Tensor)


def _mix(x: Word) -> Word:
    x = (x ^ (x >> 16)) * 0x85EBCA6B & _LOW
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & _LOW
    return x ^ (x >> 16)


def fold(*counters: int) -> int:
    """One 32-bit number for a tuple of whole numbers; other tuples give unrelated numbers."""
    state = len(counters)
    for counter in counters:
        state = _mix(_mix((state + 0x9E3779B9 + counter) & _LOW) ^ (counter >> 32 & _LOW))
    return state


def random_bits(index: Int64[Tensor, " n"], word: int | Int64[Tensor, ""]) -> Int64[Tensor, " n"]:
    """32 random bits for every index, others for every `word` (made by `fold`).  [0 .. 2^32 - 1]

    The finaliser is MurmurHash3's (Appleby 2011, public domain), applied twice around the word. 64-bit products wrap,
    and only their low half is used: the same on CPU and CUDA.
    """
    return _mix(_mix(index & _LOW) ^ word)


def random_integers(index: Int64[Tensor, " n"], below: int, word: int | Int64[Tensor, ""]) -> Int64[Tensor, " n"]:
    """A uniform whole number in [0, `below`) for every index (bias under `below` / 2^32)."""
    return random_bits(index, word) * below >> 32


def permutation(n: int, *counters: int, device: torch.device | str = "cpu") -> Int64[Tensor, " n"]:
    """A random order of 0 .. n - 1 (n below 2^31)."""
    return ordered(random_bits(torch.arange(n, device=device), fold(*counters)))


def ordered(bits: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The order of 0 .. n - 1 by 32 random bits of each (n below 2^31)."""
    # The index in the low bits makes all keys distinct, so that no sort can order them differently.
    return ((bits >> 1) << 31 | torch.arange(len(bits), device=bits.device)).argsort()
