"""Grouped convolutions: their filters and the channels they read must stay equally many in every group."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

Groups = Int64[np.ndarray, " channels"]
Parts = Int64[np.ndarray, " filters"]


def even_parts(
    writes: Mapping[str, Groups], reads: Mapping[str, Groups], grouped: Mapping[str, int]
) -> tuple[dict[str, Parts], dict[int, str]]:
    """Part of each filter of the layers that must stay even, and why groups are fixed where no partition does it.

    Two filters are alike if they count alike in every part of every grouped convolution. Taking equally many of each
    kind keeps all convolutions even, if one filter of each kind together count the same in all parts.
    """
    tables = _counts(writes, reads, grouped)
    parts: dict[str, Parts] = {}
    uneven: dict[int, str] = {}
    for layer, written in writes.items():
        touching = {name: table[:, written] for name, table in tables.items() if table[:, written].any()}
        if not touching:
            continue
        table = np.concatenate(list(touching.values()))
        kinds, first, kind = np.unique(table, axis=1, return_index=True, return_inverse=True)
        ends = np.cumsum([len(table) for table in touching.values()])[:-1]
        balanced = [len(set(block.sum(1).tolist())) == 1 for block in np.split(kinds, ends)]
        sizes = np.bincount(kind)
        if not all(balanced) or (sizes != sizes[0]).any():
            reason = f"is read or written unevenly by the groups of {next(iter(touching)).split(' ')[1]}"
            uneven |= dict.fromkeys(written.tolist(), reason)
        elif len(sizes) > 1:
            parts[layer] = first.argsort().argsort()[kind].astype(np.int64)  # numbered as they come
    return parts, uneven


def _counts(writes: Mapping[str, Groups], reads: Mapping[str, Groups], grouped: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Side of a grouped convolution -> how often each group of channels lies in each of its parts (part x group)."""
    n_groups = 1 + max((int(groups.max()) for groups in (*writes.values(), *reads.values()) if len(groups)), default=0)
    tables: dict[str, np.ndarray] = {}
    for name, n_parts in grouped.items():
        for side, of in (("writes", writes), ("reads", reads)):
            table = np.zeros((n_parts, n_groups), dtype=np.int64)
            np.add.at(table, (np.repeat(np.arange(n_parts), len(of[name]) // n_parts), of[name]), 1)
            tables[f"{side} {name}"] = table
    return tables
