"""Everything of Hydra 1.3 that it does not document; a test says what is relied on, so that another version is noticed.

Hydra documents no way to read a command line as it does, to list the jobs of a grid, or to compose many configs quickly.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from runners.process.errors import ConfigError

Overrides = tuple[str, ...]


def flags(arguments: Sequence[str], refuse: Callable[[str], NoReturn] | None = None) -> Mapping[str, Any]:
    """Flag -> value, and `overrides`, of a command line; `refuse` is told of flags that Hydra does not know."""
    parser = get_args_parser()
    if refuse:
        parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]
    return vars(parser.parse_args(list(arguments)))


def parsed(arguments: Iterable[str]) -> list[Override]:
    """Overrides as Hydra reads them; inside a run also its own functions.

    Raises:
        ConfigError: the first argument that is none, with the quotes that make it one.
    """
    hydra = GlobalHydra.instance()
    parser = OverridesParser.create(config_loader=hydra.config_loader() if hydra.is_initialized() else None)
    found: list[Override] = []
    for argument in arguments:
        try:
            found += parser.parse_overrides([argument])
        except OverrideParseException as error:
            raise ConfigError(_unreadable(argument, str(error))) from error
    return found


def _unreadable(argument: str, reason: str) -> str:
    """A wrong override as one line; Hydra's own message names neither the argument nor, mostly, what is wrong with it."""
    key, sign, value = argument.partition("=")
    if not sign or not re.fullmatch(r"[+~]*[\w.@/:$-]+", key):
        return f"{argument} sets nothing; overrides look like key=value; --help shows examples"
    if value.startswith(("[", "{")):
        advice = "overrides look like key=value, lists like [1,2], mappings like {a: 1}; close the bracket"
    else:
        # Within '...' Hydra reads \' as ', and within "..." the shell reads \" as ".
        quoted = re.sub(r'(["$`])', r"\\\1", value.replace("'", r"\'"))
        advice = f"overrides look like key=value, and text with signs such as = ( # stands in quotes; try \"{key}='{quoted}'\""
    because = re.search(r"Unknown function '\w+'|at input '.*'", reason)
    return f"{argument} cannot be read{f' ({because[0]})' if because else ''}; {advice}"


def chosen_names(override: Override) -> list[str]:
    """The names that an override of a group chooses, or a sweep runs through; patterns choose among those that there are."""
    value: Any = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each != ""]


def unfolded(arguments: Iterable[str]) -> list[Overrides]:
    """The overrides of every job of a grid, in its order."""
    batches = BasicSweeper.split_arguments(parsed(arguments), max_batch_size=None)
    return [tuple(job) for batch in batches for job in batch]


def composer(config: DictConfig) -> Callable[[Overrides], DictConfig]:
    """A function that makes one job's config after another, without Hydra's own part.

    Each choice of files is read once, the names that follow from it are worked out, and the values of a job are set in a copy.
    """
    loader = GlobalHydra.instance().config_loader()

    @cache
    def chosen(groups: Overrides) -> DictConfig:
        whole = loader.load_sweep_config(config, list(groups))
        HydraConfig.instance().set_config(whole)
        for name in whole.names:
            if str(written(whole.names, name)).startswith("${hydra:"):  # slow to work out, and always the same with these files
                whole.names[name] = whole.names[name]
        return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])

    @cache
    def read(override: str) -> Override:
        return parsed([override])[0]

    @cache
    def is_group(name: str) -> bool:
        return bool(loader.get_group_options(name))

    def compose(overrides: Overrides) -> DictConfig:
        groups = tuple(one for one in overrides if is_group(read(one).key_or_group))
        found = deepcopy(chosen(groups))
        ConfigLoaderImpl._apply_overrides_to_config([read(one) for one in overrides if one not in groups], found)
        return found

    return compose


def written(config: DictConfig, key: Any) -> Any:
    """The node of a key as it is written, interpolations not worked out."""
    return config._get_node(key)
