"""Runs without a network (`model=none`): of runners whose YAML names what to do then, with a weights file."""

from collections.abc import Mapping
from typing import Any

from runners.command.arguments import options
from runners.command.checks import file, whole
from runners.process.errors import ConfigError

WITHOUT = "without_network"  # key of a runner's YAML: the function in place of its `_target_`


def has_network(config: Mapping[str, Any]) -> bool:
    """True if the config's model is a factory."""
    return not isinstance(config["model"], Mapping) or "_target_" in config["model"]


def runner_of(config: Mapping[str, Any]) -> str:
    """The dotted path of the function that makes the run."""
    runner = config["runner"]
    return runner["_target_"] if has_network(config) else runner[WITHOUT]


def check_network(config: Mapping[str, Any]) -> None:
    """Refuses a run without a network that needs one, and changes of a network that is not there.

    Raises:
        ConfigError: the runner needs a network, no weights are given, or `model` has arguments.
    """
    given, written = config["runner"].get(WITHOUT), whole(f"runner/{config['names']['runner']}.yaml").get(WITHOUT)
    if given != written:
        way_out = f"leave runner.{WITHOUT} out"
        raise ConfigError(f"runner.{WITHOUT}={given} cannot be used; it is what the runner's YAML says; {way_out}")
    if has_network(config) or config["runner"].get("looks"):
        return
    nothing = file("model/none.yaml")["model"]
    if changed := sorted(key for key, value in config["model"].items() if nothing.get(key) != value):
        raise ConfigError(
            f"model.{changed[0]} with model=none cannot be used; there is no network to build; leave it out, or choose model="
        )
    if written is None:
        able = [name for name in options("runner") if WITHOUT in whole(f"runner/{name}.yaml")]
        raise ConfigError(
            f"runner={config['names']['runner']} with model=none cannot be used; it needs a network, and without one there is "
            f"runner={', '.join(able)}; choose that, or the model= of these weights"
        )
    if config["weights"] is None:
        raise ConfigError("model=none without weights cannot be used; it scores what a file holds; try weights=FILE")
