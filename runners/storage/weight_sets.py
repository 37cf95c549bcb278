"""Sets of weights in what a file holds, found by the names of the network that they are for.

A network with `conv.weight`, and a file `{"state_dict": {"model.conv.weight": a, "ema_model.module.conv.weight": b,
"loss.weight": c}, "epoch": 3}`: the sets are `state_dict.model` (a) and `state_dict.ema_model` (b, averaged); `loss.weight`
and `epoch` belong to neither, and are left out.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runners.process.errors import StoreError, some

# Name parts that wrappers add where they wrap a module: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Entries and prefixes of plain weights, the most usual first.
USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "backbone")
AVERAGED = {"ema", "swa", "avg", "average", "averaged", "averaging", "polyak", "shadow"}
# Lightning's WeightAveraging puts the average under `state_dict`, and adds these two: the plain weights, and counters.
SWAPPED = ("current_model_state", "averaging_state")
# Tensors of losses, optimizers and metrics go by the first part of their name, counters by the last.
BESIDE = re.compile(r"(\w+_)?(criterion|criterions|loss|losses|optimizers?|optim|schedulers?|metrics?|acc|accuracy)(_\w+)?")
COUNTERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
DEPTH = 2  # of mappings in mappings, as {"ema": {"module": {...}}}
NAMES_SHOWN, LETTERS_SHOWN = 8, 40

Entries = tuple[str, ...]  # that lead to a mapping


@dataclass(frozen=True)
class WeightSet:
    """One set of weights of a file.

    Args:
        name: the entries and the prefix that lead to it (`state_dict.model`); empty for the whole file.
        path: the entries alone.
        values: the tensors that the network has too, by its names.
        unknown: names in the file of weights that the network lacks.
        beside: names in the file of what lies in its mapping and is no weight of the network: losses, counters, other modules.
        complete: true if only counters of the network are missing.
        averaged: true for averages over training (EMA, SWA).
    """

    name: str
    path: Entries
    values: Mapping[str, Tensor]
    unknown: Sequence[str]
    beside: Sequence[str]
    complete: bool
    averaged: bool


def weight_sets(found: Mapping[Any, Any], names: Collection[str]) -> list[WeightSet]:
    """The sets that have all `names` of a network; if there are none, the best attempt in each mapping of tensors."""
    known = {bare(name): name for name in names}
    if len(known) < len(names):  # layers whose names differ in a wrapper's part only
        known = {name: name for name in names}
    swapped = set(SWAPPED) <= found.keys()
    sets = [
        each
        for path, tensors in _mappings(found)
        for each in _sets(path, tensors, known, averaged=swapped and path[:1] == ("state_dict",))
    ]
    return [each for each in sets if each.complete] or sets


def own_sets(found: Mapping[Any, Any]) -> list[WeightSet]:
    """The sets of a file whose network is not known: each mapping that holds a convolution, averages in it apart."""
    sets: dict[tuple[Entries, str], WeightSet] = {}
    for path, tensors in _mappings(found):
        if any(BESIDE.fullmatch(entry) for entry in path) or not any(map(is_convolution, tensors.values())):
            continue
        for each in weight_sets(found, _own_names(tensors)):
            known = sets.get((each.path, each.name), each)  # by the names of another mapping, which may lack some
            sets[each.path, each.name] = max(known, each, key=lambda one: len(one.values))
    return [each for each in sets.values() if any(map(is_convolution, each.values.values()))]


def is_convolution(value: Tensor) -> bool:
    """True if a tensor can be the weights of a convolution: four dimensions of plain numbers."""
    plain = value.layout == torch.strided and not (value.is_quantized or value.is_meta)
    return plain and value.ndim == 4 and value.numel() > 0 and value.is_floating_point()


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which names are sorted with their numbers as numbers: `block2` before `block10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def choose(sets: Sequence[WeightSet], asked: str | None, file: object) -> WeightSet:
    """The set that `asked` names, by its whole name or by words of it (`ema` for `model_ema`); the plain one for None.

    Raises:
        StoreError: no set of that name, or several; several plain ones of which none has a usual name.
    """
    if asked is None:
        return _plain(sets, file)
    named = [each for each in sets if each.name == asked] or [each for each in sets if _words(asked) <= _words(each.name)]
    if len(named) == 1:
        return named[0]
    others = [each.name for each in named or sets if each.name]
    if not others:
        raise StoreError(
            f"weights_set={shown(asked)} is not in {file}; it holds one set, without a name; leave weights_set out"
        )
    what = "fits several names" if named else "is no name of a set"
    raise StoreError(
        f"weights_set={shown(asked)} {what} in {file}; it holds {listed(others)}; try weights_set={shown(others[0])}"
    )


def left_out(found: Mapping[Any, Any], sets: Sequence[WeightSet], chosen: WeightSet) -> list[str]:
    """Names of what belongs to no set: entries of the file, and tensors beside the chosen set."""
    return [*_other_entries(found, {each.path for each in sets}), *chosen.beside]


def bare(name: str) -> str:
    """A name without the parts that wrappers add: `features.module.0.weight` is `features.0.weight`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def is_counter(name: str) -> bool:
    """True for a tensor that counts steps, or operations."""
    return name.rpartition(".")[2] in COUNTERS


def listed(names: Sequence[str]) -> str:
    """The first names of a file, each cut, for a line of text."""
    return some([shown(name) for name in names], NAMES_SHOWN)


def shown(name: str) -> str:
    """A name of a file, cut."""
    return name if len(name) <= LETTERS_SHOWN else f"{name[:LETTERS_SHOWN]}..."


def counted(names: Iterable[str]) -> list[str]:
    """Names with a common first part as one, counters by their last: `head.* (2)`, `total_ops (9)`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        label = name.rpartition(".")[2] if is_counter(name) else f"{name.partition('.')[0]}.*"
        groups.setdefault(label, []).append(name)
    return [group[0] if len(group) == 1 else f"{label} ({len(group)})" for label, group in groups.items()]


def _mappings(found: Mapping[Any, Any]) -> Iterator[tuple[Entries, dict[str, Tensor]]]:
    """Every mapping that holds tensors, once, with the entries that lead to it."""
    waiting: list[tuple[Entries, Mapping[Any, Any]]] = [((), found)]
    seen: set[int] = set()
    for path, node in waiting:  # which grows
        if id(node) in seen:
            continue
        seen.add(id(node))
        if tensors := {str(key): value for key, value in node.items() if isinstance(value, Tensor)}:
            yield path, tensors
        if len(path) < DEPTH:
            waiting += [((*path, str(key)), value) for key, value in node.items() if isinstance(value, Mapping)]


def _sets(path: Entries, tensors: Mapping[str, Tensor], known: Mapping[str, str], *, averaged: bool) -> Iterator[WeightSet]:
    """The sets of one mapping, one for each prefix under which the network is complete; or one, where most of it is.

    Args:
        known: bare name -> the network's name.
        averaged: true if they are averages whatever they are called.
    """
    names = _bare_names(tensors, known)
    ends = _ends(names, known)
    needed = {name for name in known if not is_counter(name)}
    complete = [prefix for prefix in ends if needed <= ends[prefix]]
    prefixes = complete or [max(ends, key=lambda prefix: (len(ends[prefix]), -len(prefix)), default="")]
    owned = {prefix + end for prefix in prefixes for end in ends.get(prefix, ())}
    others: dict[str | None, list[str]] = {}  # prefix -> bare names that are not the network's
    for name in names.keys() - owned:
        others.setdefault(max((each for each in prefixes if name.startswith(each)), key=len, default=None), []).append(name)
    for prefix in prefixes:
        unknown = {name for name in others.get(prefix, ()) if not _is_beside(name.removeprefix(prefix), tensors[names[name]])}
        beside = {*others.get(prefix, ()), *others.get(None, ())} - unknown
        name = ".".join(filter(None, (bare(".".join(path)), prefix.removesuffix("."))))
        yield WeightSet(
            name=name,
            path=path,
            values={known[end]: tensors[names[prefix + end]] for end in known if end in ends.get(prefix, ())},
            unknown=[names[each] for each in names if each in unknown],
            beside=counted(names[each] for each in names if each in beside),
            complete=prefix in complete,
            averaged=averaged or bool(_words(name) & AVERAGED) or f"{prefix}n_averaged" in names,
        )


def _ends(names: Iterable[str], known: Collection[str]) -> dict[str, set[str]]:
    """Prefix -> the names of the network that some of `names` are, behind that prefix."""
    found: dict[str, set[str]] = {}
    for name in names:
        end = name
        while end:
            if end in known:
                found.setdefault(name[: len(name) - len(end)], set()).add(end)
            end = end.partition(".")[2]
    return found


def _own_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of a network's tensors among those of a mapping: without wrappers, averages and what lies beside."""
    names = [name for name in map(bare, tensors) if not BESIDE.fullmatch(name.partition(".")[0])]
    plain = [name for name in names if not _words(name.partition(".")[0]) & AVERAGED] or names
    while len(firsts := {name.partition(".")[0] for name in plain}) == 1 and firsts <= set(USUAL):
        plain = [name.partition(".")[2] for name in plain]
    return list(dict.fromkeys(plain))


def _bare_names(tensors: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
    """Bare name -> name in the file; of two with the same bare name the network's own gets it, the other stays whole."""
    first: dict[str, str] = {}
    for name in sorted(tensors, key=lambda name: known.get(bare(name)) != name):
        first.setdefault(bare(name), name)
    return {bare(name) if first[bare(name)] == name else name: name for name in tensors}


def _is_beside(name: str, value: Tensor) -> bool:
    """True for tensors of a loss, an optimizer or a metric, and for counters."""
    whole_number = value.ndim == 0 and not (value.is_floating_point() or value.is_complex())
    return is_counter(name) or whole_number or BESIDE.fullmatch(name.partition(".")[0]) is not None


def _words(name: str) -> set[str]:
    return set(re.split(r"[._-]", name.lower()))


def _plain(sets: Sequence[WeightSet], file: object) -> WeightSet:
    if not sets[0].complete:  # the error will tell what is missing in the one that fits best
        return min(sets, key=lambda each: (-len(each.values), *_rank(each)))
    plain = [each for each in sets if not each.averaged] or list(sets)
    first, *others = sorted(plain, key=_rank)
    if others and _is_unusual(first):
        names = [each.name for each in plain]
        raise StoreError(
            f"weights={file} holds several sets of weights that fit ({listed(names)}); one is read; "
            f"choose it, as weights_set={shown(names[0])}"
        )
    return first


def _rank(each: WeightSet) -> tuple[bool, list[int]]:
    """Place among the usual names of plain weights; others come after them."""
    return _is_unusual(each), [USUAL.index(part) for part in each.name.split(".") if part in USUAL]


def _is_unusual(each: WeightSet) -> bool:
    return not set(filter(None, each.name.split("."))) <= set(USUAL)


def _other_entries(node: Mapping[Any, Any], used: Collection[Entries], path: Entries = ()) -> Iterator[str]:
    """Entries that lead to no mapping in `used`; not the tensors of those."""
    on_the_way = {each[: len(path) + 1] for each in used if each[: len(path)] == path}
    for key, value in node.items():
        here = (*path, str(key))
        if here in on_the_way and isinstance(value, Mapping):
            yield from _other_entries(value, used, here)
        elif not (isinstance(value, Tensor) and path in used):
            yield ".".join(here)
