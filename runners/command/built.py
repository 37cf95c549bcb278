"""Every part of an experiment, built from the config when a runner first names it."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from runners.command import normalisation
from runners.data.splits import Splits, make_splits, parted, relabelled
from runners.process import threads
from runners.process.counter import fold
from runners.process.errors import ConfigError, UserError, first_line, is_out_of_memory, plain
from runners.process.redaction import redacted
from runners.pruning.saved import in_parts
from runners.scoring.score import Ranking, check_criteria
from runners.selection.rule import Rule
from runners.storage import facts, keys
from runners.storage import folder as run_folder
from runners.storage.convolutions import Convolutions, read_convolutions
from runners.storage.fingerprints import remembered
from runners.storage.stages import Stages, Watch, unwatched
from runners.storage.store import Store
from runners.storage.weights import Taken, load_weights, told
from runners.tasks.classification import CLASSIFICATION
from runners.training.engine import Engine, cuda_graph
from runners.training.fit import Fit, Fitted, fit
from runners.training.precision import precision
from runners.training.recipe import Recipe, check_changes, check_recipe
from runners.training.retrain import scratch_b
from runners.training.tensorboard import tensorboard

log = logging.getLogger(__name__)


class Built:
    """Every part of an experiment, built when a runner first names it; the arguments of runners are named here.

    A supply of `runners.process.inject`: `"model" in built`, `built["model"]`.
    """

    def __init__(self, config: DictConfig, values: Mapping[str, Any], folder: Path) -> None:
        self.config, self.values, self.folder = config, values, folder
        self.taken: Taken | None = None  # of the file of given weights
        take_threads(values["threads"], run_folder.begun_threads(folder, keys.run_name(values)))
        _prepare_torch()

    def __contains__(self, name: object) -> bool:
        """True if there is such a part, built or not."""
        return isinstance(getattr(type(self), str(name), None), cached_property)

    def __getitem__(self, name: str) -> Any:
        """The part; it is built now if it was not yet."""
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        """The names of all parts."""
        return (name for name in dir(type(self)) if name in self)

    def has(self, name: str) -> bool:
        """True if a part was asked for, and so built."""
        return name in vars(self)

    @property
    def columns(self) -> dict[str, Any]:
        """Columns that are true of every row of this run: names of the parts that were built."""
        names = {"model": self.has("model"), "dataset": self.has("splits") or self.has("example")}
        found = {name: self.values["names"][name] for name, built in names.items() if built}
        if self.has("splits"):
            found |= self._of_data(self.splits)
        return found | ({"seed": self.values["seed"]} if found or self.has("seed") else {})

    @property
    def pruning_columns(self) -> dict[str, Any]:
        """Columns that are true of rows about the pruned network, of the parts that were built.

        Shares layer by layer are in selection.csv, and leave `ratio` empty.
        """
        found: dict[str, Any] = {"pruned_by": self.chosen} if self.has("chosen") else {}
        if self.has("rule"):
            rule = {key: keys.canonical(self.values[key]) for key in keys.RULE if key != "skip"}
            found |= {"preset": keys.preset(self.values)} | rule
            found["ratio"] = None if isinstance(found["ratio"], dict) else found["ratio"]
        return found

    @cached_property
    def device(self) -> torch.device:
        """The device on which data and networks lie."""
        return _device(self.values["device"])

    @cached_property
    def splits(self) -> Splits:
        """The data set, on the device."""
        device, target = self.device, self.values["dataset"]["_target_"]
        own, common = parted(get_method(target), self.values["dataset"])
        raw = _instantiate(OmegaConf.create({"_target_": target, **own}), "dataset")
        found = make_splits(relabelled(raw, self.values["labels"], self.values["seed"]), **common)
        size = "x".join(map(str, found.example.shape[1:]))
        log.info(
            f"dataset={self.values['names']['dataset']}: {len(found.train):,} training and {len(found.test):,} test "
            f"images of {size}; {self.values['dataset']['about']}"
        )
        if self.weights:
            log.info(plain(f"weights={redacted(str(self.weights))}: {normalisation.told(self.values)}"))
        for column, value in self._of_data(found).items():
            log.info(f"{column}: {value}")
        return found.to(device)

    def _of_data(self, splits: Splits) -> dict[str, Any]:
        """Columns that say that a data set is not what its name promises: permuted labels, and a part of a set."""
        found: dict[str, Any] = {} if self.values["labels"] == "given" else {"labels": self.values["labels"]}
        dataset = self.values["dataset"]
        if whole := dataset.get("part_of") or (dataset.get("train_images") and self.values["names"]["dataset"]):
            sizes = f"{len(splits.train):,} + {len(splits.test):,} images"
            found["dataset_part"] = f"{sizes} of {whole}"
        return found

    @cached_property
    def example(self) -> Float[Tensor, "1 channels h w"]:
        """One image, for tracing; only a data set whose YAML has no `image_size` is loaded for it, others give zeros."""
        dataset = self.values["dataset"]
        if dataset.get("image_size") is None:
            return self.splits.example
        return torch.zeros(1, dataset["channels"], dataset["image_size"], dataset["image_size"], device=self.device)

    @cached_property
    def data(self) -> str:
        """Hash of the images and labels; of files that were hashed before and are as they were then, it is looked up."""
        read_as = {**self.values["dataset"], "labels": self.values["labels"]}
        return remembered(Path(self.values["store"]), self.splits.read, read_as, self.splits.content)

    @cached_property
    def model(self) -> nn.Module:
        """The network as training starts from it, or with the given weights."""
        torch.manual_seed(self.values["seed"])
        network = self._network()
        if self.weights:
            self._take(load_weights(network, self.weights, self.values["weights_set"]))
        return network

    @cached_property
    def convolutions(self) -> Convolutions:
        """The convolutions in the file of given weights, without a network."""
        assert self.weights
        found = read_convolutions(self.weights, self.values["weights_set"])
        self._take(found.taken)
        return found.to(self.device)

    def _take(self, taken: Taken) -> None:
        """Notes what was read of the file of given weights, and says it."""
        self.taken = taken
        for line in told(taken):
            log.info(plain(f"weights={redacted(str(self.weights))}: {line}"))

    def _network(self) -> nn.Module:
        factory, changes = in_parts(self.values["model"])
        network: nn.Module = _instantiate(OmegaConf.create(factory), "model")
        for change in changes:
            network = _instantiate(OmegaConf.create(change), change["_target_"], network)
        return network.to(self.device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]

    @cached_property
    def weights(self) -> Path | None:
        """The file of given weights."""
        return None if self.values["weights"] is None else Path(self.values["weights"])

    @cached_property
    def chosen(self) -> str:
        """The name of the criterion to prune by."""
        return keys.chosen(self.values)

    @cached_property
    def criteria(self) -> dict[str, Ranking]:
        """The set to compare, and the chosen criterion if it is not in it."""
        specs = keys.compared(self.values)
        found = {name: _instantiate(OmegaConf.create(spec), f"criterion {name}") for name, spec in specs.items()}
        check_criteria(found)
        return found

    @cached_property
    def score_batch_size(self) -> int:
        """Images at a time when they score."""
        return self.values["score_batch_size"]

    @cached_property
    def rule(self) -> Rule:
        """The rule of selection: how many filters go, and where from."""
        return Rule(**{key: keys.canonical(self.values[key]) for key in keys.RULE})

    @cached_property
    def seed(self) -> int:
        """The run's seed."""
        return self.values["seed"]

    @cached_property
    def train(self) -> Fit:
        """Training; with given weights, none."""
        if self.weights:
            log.info(f"weights={redacted(str(self.weights))}: nothing is trained before pruning")
        return self._fit("recipe", "train", "trained", epochs=0 if self.weights else None)

    @cached_property
    def finetune(self) -> Fit:
        """Training of the pruned network: fine-tuning, or, from new weights, the recipe of training."""
        if self.values["after"] == "finetune":
            return self._fit("finetune", "finetune", "tuned")
        fitting = self._fit("recipe", "scratch", "tuned")
        if self.values["after"] == "scratch_e":
            return fitting
        return partial(scratch_b, fit=fitting, recipe=self._recipe("recipe"), full=self.model)

    @cached_property
    def finetune_as(self) -> Callable[[str, int], Fit]:
        """Fine-tuning as a stage of any name, with any seed."""
        finetune = cast("Callable[..., Fitted]", self.finetune)
        return lambda stage, seed: partial(finetune, seed=seed, watch=self.watch(stage))

    @cached_property
    def fresh(self) -> nn.Module | None:
        """A freshly initialised full network for `after=scratch_*`; None for `after=finetune`."""
        if self.values["after"] == "finetune":
            return None
        torch.manual_seed(fold(self.values["seed"], *b"scratch"))
        return self._network()

    def _recipe(self, section: str, epochs: int | None = None) -> Recipe:
        given = self.values[section] | ({} if epochs is None else {"epochs": epochs})
        return _instantiate(OmegaConf.create(given), section)

    def _fit(self, section: str, label: str, stage: str, epochs: int | None = None) -> Callable[..., Fitted]:
        recipe = self._recipe(section, epochs)
        optimizer: Callable[..., torch.optim.Optimizer] = _instantiate(self.config.optimizer, "optimizer")
        check_recipe(recipe, optimizer, section, len(self.splits.train))
        check_changes(recipe.changes, section, self.splits.example)
        settings = {"engine": self.engine, "seed": self.values["seed"], "label": label, "watch": self.watch(stage)}
        return partial(fit, recipe=recipe, optimizer=optimizer, **settings)

    def watch(self, stage: str) -> Watch:
        """Receiver of a stage's history, row by row, while it grows."""
        return tensorboard(self.folder / run_folder.TENSORBOARD / stage) if self.values["tensorboard"] else unwatched

    @cached_property
    def engine(self) -> Engine:
        """The engine of training steps: precision, compilation, graphs; the network is one that the task can train."""
        CLASSIFICATION.check(self.model, self.splits.example, num_classes=self.values["dataset"]["num_classes"])
        captured = self.device.type == "cuda" and self.values["cuda_graph"] == "auto"
        found = precision(self.values["precision"], self.model, self.splits.example)
        return Engine(found, compiled=self.values["compile"], capture=cuda_graph if captured else None)

    @cached_property
    def stages(self) -> Stages:
        """The store, with this run's keys."""
        contents = {"data": lambda: self.data, "precision": lambda: self.engine.arithmetic}
        return Stages(
            Store(Path(self.values["store"]).resolve()),
            keys.Keys(keys.stage_options(self.values), contents),
            rerun=self.values["rerun"],
            lock=self.values["lock"],
            numerics=facts.numerics(self.device),
            watch=self.watch,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; cpu always works; try device=cpu"
        )
    return device


def take_threads(asked: int | str, begun: int | None) -> None:
    """Sets the CPU threads: OMP_NUM_THREADS, else `asked`, else Slurm's CPUs, else `begun`, else as many as CPUs are idle.

    Args:
        asked: a number or `auto`.
        begun: threads of an earlier leg of this run, or of the run that rerun=true repeats.
    """
    if "OMP_NUM_THREADS" in os.environ:  # torch has read it
        return
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if asked != "auto" or cpus.isdigit():
        torch.set_num_threads(int(cpus if asked == "auto" else asked))
        return
    most = torch.get_num_threads()
    found = min(most, begun or (threads.idle_cpus() if most > 1 else None) or most)
    if found < most:
        torch.set_num_threads(found)
        why = "as this run began" if begun else "other processes use the rest, and threads that wait for each other are slow"
        log.info(f"threads: {found} of {most} CPUs, {why}; threads={most} takes all")


def _prepare_torch() -> None:
    """fp32 means fp32, and a sum has one order: no TF32, no algorithm picked by timing."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        # cuBLAS reads this once, before its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.use_deterministic_algorithms(True, warn_only=True)


def _instantiate(node: Any, what: str, *given: Any) -> Any:
    """Builds one node; what its function says against its arguments becomes one line."""
    try:
        return instantiate(node, *given, _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError) or is_out_of_memory(cause):
            raise cause from error
        raise ConfigError(
            f"{what} cannot be built ({first_line(cause)}); its arguments must fit; see {node.get('_target_')}"
        ) from error
