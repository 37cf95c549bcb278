"""The ranges of options that no function of ours takes: those of the top level, of other libraries, of the Slurm launcher.

These classes are never made; `signatures` reads their annotations.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, doc

Seed = Annotated[int, Ge(0), Le(9223372036854775807), doc("a whole number from 0 to 2^63 - 1")]
# Part of a run folder's name; a path or an address could fetch code.
PlainName = Annotated[str, re.compile(r"\w[\w.-]{0,99}"), doc("a network's name of letters, digits, '_', '.' and '-'")]
Share = Annotated[float, Ge(0), Lt(1)]
Layer = str | Annotated[int, Ge(1)]


class TopLevel:
    """Options of conf/config.yaml, the rule's own fields after these; the rest have the type of their default."""

    ratio: Annotated[
        Share | Annotated[Mapping[Layer, Share], MinLen(1)],
        doc("a share of filters to remove, from 0 up to but not 1 (which is every filter), or layers with their shares"),
    ]
    min_keep: Annotated[
        Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)],
        doc("a whole number from 1 on (a layer never loses its last filter), or a share above 0 and below 1"),
    ]
    skip: Annotated[Sequence[Layer], doc("a list of layers by name, pattern or index from 1 on")]
    after: Literal["finetune", "scratch_e", "scratch_b"]
    seed: Seed
    labels: Literal["given", "random"]
    precision: Literal["auto", "fp32", "bf16"]
    score_batch_size: Annotated[int, Ge(1)]
    weights: Annotated[str | None, doc("a file, or null to train (an unset shell variable is neither)")]
    weights_set: Annotated[str | None, doc("the name of a set of weights in the file, as ema, or null for the plain weights")]
    data_root: Annotated[str | None, doc("a folder, or null to download")]
    device: Annotated[str, re.compile(r"auto|cpu|cuda(:\d+)?"), doc("auto, cpu, cuda or cuda:0, cuda:1, ...")]
    cuda_graph: Literal["auto", False]
    threads: Literal["auto"] | Annotated[int, Ge(1)]
    lock: Literal["auto", "flock", "lease", "none"]
    sweep: Annotated[str | None, doc("the folder of a sweep, or null for the newest")]
    hang_minutes: Annotated[float, Gt(0)] | None


class Dataset:
    """Of every data set."""

    num_classes: Annotated[int, Ge(2)]
    channels: Annotated[int, Ge(1)]
    image_size: Annotated[int, Ge(1), Le(4096)] | None
    num_images: Annotated[int, Ge(4)]
    test_share: Annotated[float, Gt(0), Lt(1)]
    score_share: Annotated[float, Gt(0), Le(1)]
    mean: Annotated[Sequence[float], MinLen(1)]
    std: Annotated[Sequence[Annotated[float, Gt(0)]], MinLen(1)]
    crop_padding: Annotated[int, Ge(0)]
    random_labels: Annotated[float, Ge(0), Le(1)]
    seed: Seed


class Sgd:
    """Of torch.optim.SGD."""

    momentum: Annotated[float, Ge(0), Lt(1)]


class Adam:
    """Of torch.optim.Adam and its kin."""

    betas: Annotated[Sequence[Share], MinLen(2), MaxLen(2)]
    eps: Annotated[float, Gt(0)]


class Adagrad:
    """Of torch.optim.Adagrad."""

    lr_decay: Annotated[float, Ge(0)]
    initial_accumulator_value: Annotated[float, Ge(0)]
    eps: Annotated[float, Gt(0)]


class Adadelta:
    """Of torch.optim.Adadelta."""

    rho: Annotated[float, Ge(0), Le(1)]
    eps: Annotated[float, Gt(0)]


class Asgd:
    """Of torch.optim.ASGD."""

    lambd: Annotated[float, Ge(0)]
    alpha: Annotated[float, Ge(0)]
    t0: Annotated[float, Ge(0)]


class Timm:
    """Of timm.create_model. What a library fetches has no hash of ours, and would be in no key."""

    model_name: PlainName
    num_classes: Annotated[int, Ge(2)]
    in_chans: Annotated[int, Ge(1)]
    pretrained: Annotated[Literal[False], doc("false; weights come from a file, by its content: weights=FILE")]


class Torchvision:
    """Of torchvision.models.get_model."""

    name: PlainName
    num_classes: Annotated[int, Ge(2)]
    weights: Annotated[None, doc("null; weights come from a file, by its content: weights=FILE")]


class Slurm:
    """Of the launcher of a Slurm cluster."""

    partition: str | None
    account: str | None
    gres: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    gpus_per_node: Annotated[int, Ge(1)] | None
    cpus_per_task: Annotated[int, Ge(1)] | None
    mem_gb: Annotated[float, Gt(0)] | None
    timeout_min: Annotated[int, Ge(1)]
    array_parallelism: Annotated[int, Ge(1)]
    max_num_timeout: Annotated[int, Ge(0)]
    signal_delay_s: Annotated[int, Ge(1)]
    setup: Sequence[str]


# Function -> the class here that says what it takes.
INSTEAD: Mapping[str, str] = {
    "torch.optim.SGD": "runners.command.limits.Sgd",
    "torch.optim.Adam": "runners.command.limits.Adam",
    "torch.optim.AdamW": "runners.command.limits.Adam",
    "torch.optim.Adamax": "runners.command.limits.Adam",
    "torch.optim.Adagrad": "runners.command.limits.Adagrad",
    "torch.optim.Adadelta": "runners.command.limits.Adadelta",
    "torch.optim.ASGD": "runners.command.limits.Asgd",
    "timm.create_model": "runners.command.limits.Timm",
    "torchvision.models.get_model": "runners.command.limits.Torchvision",
    "hydra_plugins.prunescope.slurm.SlurmLauncher": "runners.command.limits.Slurm",
}
