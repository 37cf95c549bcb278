"""The origin of a report's rows: code, numerics, keys; and the check that they may stand in one table."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runners.looking.escapes import shown
from runners.process.errors import StoreError, plain, some
from runners.reporting.gathered import Finished
from runners.storage.folder import mixed
from runners.storage.keys import BOOKKEEPING

MOST_LISTED = 10
TRAINING = ("dataset", "trained", "given")
# Options that change nothing up to the trained network, besides those that only later stages depend on.
AFTER_TRAINING = {"criterion", "criteria", "preset", "runner", "after", *BOOKKEEPING}
# The options of each stage, for runs of an earlier version, which do not note them.
FIRST_OPTIONS: Mapping[str, Sequence[str]] = {
    "dataset": ("dataset",),
    "trained": ("model", "optimizer", "recipe", "precision", "seed"),
    "given": ("model", "weights"),
    "scores": ("compared", "score_share", "score_batch_size"),
    "selection": ("ratio", "scope", "rounding", "min_keep", "start_layer", "normalise", "skip", "budget", "coupled"),
    "tuned": ("optimizer", "finetune", "after", "precision", "seed"),
}


def check_baselines(done: Sequence[Finished]) -> None:
    """Refuses rows whose trained networks differ where the sweep asked for one and the same.

    The trained network of a model, data set and seed (and of whatever else in its training the sweep varies) has one key.
    Another key means other data, given weights or code. Only where hardware chose another precision may it differ. Runs without
    data or without a trained network have no such key, and are not compared.

    Raises:
        StoreError: the jobs that differ from most.
    """
    groups: defaultdict[tuple[str, ...], list[Finished]] = defaultdict(list)
    for each in done:
        groups[_training(each)].append(each)
    odd = [text for group in groups.values() if (text := _odd_ones(group))]
    if odd:
        raise StoreError(
            f"{some(odd, MOST_LISTED)}; rows of one table must share the data and the trained network; "
            "delete the folders of the jobs that are out of date and give the sweep's command again"
        )


def origins(done: Sequence[Finished]) -> list[tuple[str, str]]:
    """Models, data sets, seeds, code, numerics and keys of the rows, each as a name and a text; without those that none has."""
    kinds = dict.fromkeys(kind for each in done for kind in each.facts["keys"])
    keys = [f"{kind} {len({shown(each.facts['keys'].get(kind)) for each in done})}" for kind in kinds]
    mixed_up = [str(each.job.number) for each in done if each.facts.get("numerics_mixed")]
    found = [
        ("Models", _distinct(_named(each, "model") for each in done)),
        ("Data sets", _distinct(_named(each, "dataset") for each in done)),
        ("Parts of data sets", _distinct(_named(each, "dataset_part") for each in done)),
        ("Labels", _distinct(_named(each, "labels") for each in done)),
        ("Seeds", _distinct(each.facts["seed"] for each in done)),
        ("Code versions", _classes(done, code_version)),
        ("Numerics classes", _classes(done, numerics_class)),
        ("Different keys of each stage", ", ".join(keys)),
        ("Runs that several kinds of machine or versions had a part in", listed(mixed_up) or "none"),
        (
            "Results of one key that came out differently",
            _distinct(mixed({each.job.name: each.facts for each in done})) or "none",
        ),
    ]
    return [(name, text) for name, text in found if text]


def code_version(each: Finished) -> str:
    """The commit, and the hash of what was not committed."""
    code = each.facts["code"]
    if not code.get("commit"):
        return "no git checkout"
    changes = f" with changes {shown(code.get('diff_sha256'))[:10]}" if code.get("dirty") else ""
    return f"commit {shown(code['commit'])[:10]}{changes}"


def numerics_class(each: Finished) -> str:
    """Hardware, versions and precision: rows of one class repeat bit for bit, others to within rounding."""
    hardware, versions = each.facts["hardware"], each.facts["versions"]
    cuda = f", CUDA {shown(hardware['cuda'])}" if hardware.get("cuda") else ""
    precision = f", {shown(each.facts['precision'])}" if each.facts.get("precision") else ""
    fused = ", fused" if each.facts.get("fused") else ""
    return (
        f"{shown(hardware.get('device'))}, {shown(hardware.get('machine'))}, {shown(hardware.get('threads'))} threads, "
        f"torch {shown(versions.get('torch'))}{cuda}{precision}{fused}"
    )


def _training(each: Finished) -> tuple[str, ...]:
    """The model, data set and seed, and all else that the sweep varies of the training."""
    own = {name: named for name in ("model", "dataset") if (named := _named(each, name))} | {"seed": each.facts["seed"]}
    # `finetune.epochs` and `criterion@criteria.mine` go by their first word.
    later = after_training(each.facts.get("options", FIRST_OPTIONS))
    varied = {key: value for key, value in each.job.values.items() if re.split("[.@]", key)[0] not in later}
    return tuple(f"{key}={shown(value)}" for key, value in (own | varied).items())


def after_training(options: Mapping[str, Sequence[str]]) -> set[str]:
    """The options that change nothing up to the trained network; any other that a sweep varies may.

    Args:
        options: stage -> the options that go into it.
    """
    during = {option for stage in TRAINING for option in options.get(stage, ())}
    return (AFTER_TRAINING | {option for each in options.values() for option in each}) - during


def _named(each: Finished, column: str) -> str:
    """The run's model or data set, from the first of its tables that has such a column; empty if none has."""
    return next((cells[column][0] for cells in each.tables.values() if cells.get(column)), "")


def _odd_ones(group: Sequence[Finished]) -> str:
    """The jobs that do not share the most frequent data and network, in words; empty if all do."""
    others = f"the other jobs of {' '.join(_training(group[0]))}"
    if found := _minority(group, lambda each: each.facts["keys"].get("dataset")):
        return f"{found} saw other data than {others}"
    for precision in dict.fromkeys(shown(each.facts.get("precision")) for each in group):
        alike = [each for each in group if shown(each.facts.get("precision")) == precision]
        if found := _minority(alike, lambda each: each.facts["keys"].get("trained")):
            return f"{found} began from another trained network than {others}"
        if found := _minority(alike, lambda each: each.facts.get("contents", {}).get("trained")):
            return f"{found} began from a trained network that was made again, and differs from that of {others}"
    return ""


def _minority(group: Sequence[Finished], key: Callable[[Finished], Any]) -> str:
    """The jobs whose key is not the most frequent one (of equally frequent ones, the first); those without a key pass."""
    keyed = [(each, shown(key(each))) for each in group if key(each) is not None]
    if not keyed:
        return ""
    usual = Counter(found for _, found in keyed).most_common(1)[0][0]
    return listed([f"{each.job.number} ({plain(each.job.name)})" for each, found in keyed if found != usual])


def listed(jobs: Sequence[str]) -> str:
    """Jobs in words; empty if there are none."""
    if not jobs:
        return ""
    return f"job{'s' if len(jobs) > 1 else ''} {some(jobs, MOST_LISTED)}"


def _classes(done: Sequence[Finished], of: Callable[[Finished], str]) -> str:
    """The number of classes, and each with its jobs."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in sorted(done, key=lambda each: each.job.number):
        found[of(each)].append(str(each.job.number))
    if len(found) == 1:
        return f"1: {next(iter(found))}"
    return f"{len(found)}: " + "; ".join(f"{name} ({listed(jobs)})" for name, jobs in sorted(found.items()))


def _distinct(values: Any) -> str:
    return ", ".join(shown(value) for value in dict.fromkeys(values) if value != "")
