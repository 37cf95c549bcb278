"""A pruned network in a folder: its weights, and a JSON file by which the network is made again anywhere, without pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_method
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

from runners.process.errors import StoreError, first_line
from runners.pruning.remove import remove
from runners.storage.files import write_json
from runners.storage.keys import digest, file_digest
from runners.storage.weights import load_weights, save_weights
from runners.tracing.channels import Channels, Removed, trace_channels

FORMAT = 1
PLAN, WEIGHTS = "plan.json", "weights.safetensors"
MODELS = Path(__file__).parents[2] / "conf" / "model"
# Functions network -> network that a config names beside the arguments of the factory, in the order in which they are applied.
CHANGES = ("attention", "activation", "init")
# Arguments of factories that fetch or read weights, and what they are where the weights come from the folder.
NO_WEIGHTS: Mapping[str, Any] = {"pretrained": False, "weights": None, "weights_backbone": None, "checkpoint_path": ""}


@dataclass(frozen=True)
class Pruned:
    """A network without some of its filters, and what was taken.

    Args:
        network: the smaller one.
        channels: of the network as its factory makes it.
        removed: layer -> filters, in that network's numbering.
        example: an image, for the shape that the network was traced with.
    """

    network: nn.Module
    channels: Channels
    removed: Removed
    example: Float[Tensor, "1 channels h w"]


def save_pruned(folder: Path, pruned: Pruned, model: Mapping[str, Any]) -> None:
    """Writes `weights.safetensors` and, last, `plan.json`, which makes the folder whole.

    Args:
        folder: is made; a network that it holds is replaced.
        pruned: what to write.
        model: the factory (`_target_`) and its arguments.

    Raises:
        ResourceError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    save_weights(pruned.network, folder / WEIGHTS)
    plan = {
        "format": FORMAT,
        "model": _without_weights(model),
        "input": list(pruned.example.shape[1:]),
        "kept": {layer: _kept(len(groups), pruned.removed.get(layer, ())) for layer, groups in pruned.channels.writes.items()},
        "weights_sha256": file_digest(folder / WEIGHTS),
    }
    write_json(folder / PLAN, plan | {"plan_digest": digest(plan)})


def load_pruned(folder: str | Path) -> nn.Module:
    """The network that a run left in `folder`, in eval mode on the CPU.

    Its factory makes it whole, the filters that the plan does not keep are removed, and the weights are put in. Nothing
    in the folder is run; the factory must be one that a file of `conf/model` names. Random generators stay as they are.

    Raises:
        StoreError: files that are missing or were changed, another format, or a factory that no longer fits the plan.
    """
    folder = Path(folder)
    plan = _read_plan(folder)
    network = _build(folder, plan["model"])
    try:
        channels = trace_channels(network, torch.zeros(1, *plan["input"]))
        smaller = remove(network, channels, _removed(plan["kept"], channels))
    except Exception as error:  # the plan is as it was written, so its factory makes another network than it did
        raise StoreError(
            f"{folder / PLAN} does not fit what {plan['model']['_target_']} makes now ({first_line(error)}); the "
            "network must be as it was when the folder was written; use the versions that run.json names"
        ) from error
    load_weights(smaller, folder / WEIGHTS)
    return smaller.eval()


def in_parts(model: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The factory with its arguments, and the functions network -> network that are applied to what it makes, in order."""
    changes = [key for key in CHANGES if isinstance(model.get(key), Mapping)]
    return {key: value for key, value in model.items() if key not in changes}, [dict(model[key]) for key in changes]


def factories() -> frozenset[str]:
    """The factories, and the functions network -> network, that the files of `conf/model` name; no other is called.

    Without this, a plan.json with `_target_: os.system` and `command: ...` would run that command when it is loaded.
    """
    found = [OmegaConf.load(path) for path in MODELS.rglob("*.yaml")]
    named = [OmegaConf.select(config, key) for config in found for key in ("_target_", "model._target_")]
    return frozenset(target for target in named if target)


def _read_plan(folder: Path) -> dict[str, Any]:
    for name in (PLAN, WEIGHTS):
        if not (folder / name).is_file():
            raise StoreError(
                f"{folder} holds no pruned network ({name} is not there); it needs {PLAN} and {WEIGHTS}; check the path"
            )
    try:
        plan = json.loads((folder / PLAN).read_text())
        asked = plan.pop("plan_digest")
        whole = digest(plan) == asked
    except (ValueError, KeyError, TypeError, AttributeError):
        whole, plan = False, {}
    if not whole:
        raise _changed(folder / PLAN)
    if plan["format"] != FORMAT:
        raise StoreError(f"{folder / PLAN} has format {plan['format']}; {FORMAT} is read; use the version that wrote it")
    if file_digest(folder / WEIGHTS) != plan["weights_sha256"]:
        raise _changed(folder / WEIGHTS)
    return plan


def _changed(path: Path) -> StoreError:
    return StoreError(f"{path} was changed after it was written; its hash must be that in {PLAN}; get the folder again")


def _build(folder: Path, model: Mapping[str, Any]) -> nn.Module:
    """The whole network, with weights that do not matter."""
    factory, changes = in_parts(_without_weights(model))
    allowed = factories()
    for part in (factory, *changes):
        if part["_target_"] not in allowed:
            raise StoreError(
                f"{folder / PLAN} names the factory {part['_target_']!r}; it must be one of {', '.join(sorted(allowed))}; "
                "add a file to conf/model if you trust it"
            )
    try:
        with torch.random.fork_rng(devices=[]):
            network = _called(factory)
            for change in changes:
                network = _called(change, network)
            return network
    except Exception as error:  # what a foreign factory says against its arguments
        raise StoreError(
            f"{folder / PLAN}: {model['_target_']} cannot make the network ({first_line(error)}); its arguments must "
            "fit; use the versions that run.json names"
        ) from error


def _called(part: Mapping[str, Any], *given: nn.Module) -> nn.Module:
    return get_method(part["_target_"])(*given, **{key: value for key, value in part.items() if key != "_target_"})


def _without_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: NO_WEIGHTS.get(key, value) for key, value in model.items()}


def _kept(n_filters: int, removed: Any) -> dict[str, Any]:
    gone = set(removed)
    return {"of": n_filters, "filters": [index for index in range(n_filters) if index not in gone]}


def _removed(kept: Mapping[str, Any], channels: Channels) -> Removed:
    widths = {layer: len(groups) for layer, groups in channels.writes.items()}
    if widths != {layer: part["of"] for layer, part in kept.items()}:
        raise ValueError("other layers or widths")
    return {layer: np.setdiff1d(np.arange(part["of"]), part["filters"]).tolist() for layer, part in kept.items()}
