"""Runners that only look at what is there: they make no run folder, and print what they found."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_method

from runners.looking.seen import Seen
from runners.process.inject import call


def look(values: Mapping[str, Any]) -> Seen:
    """Result of a runner that only looks; its arguments are options of its YAML, or of the whole config.

    Raises:
        UserError: there is nothing to look at, or it is damaged.
    """
    runner = get_method(values["runner"]["_target_"])
    options = {**values, **values["runner"], "sweep": values["sweep"] or experiment(values)}
    if "reports" in inspect.signature(runner).parameters:
        from runners.reporting.reports import build_reports  # brings pandas in

        options["reports"] = build_reports(values["reports"])
    return call(runner, options)


def experiment(values: Mapping[str, Any]) -> str | None:
    """The name of the experiment, which its sweeps' folders begin with."""
    name = values["names"]["experiment"]
    return None if name in (None, "null") else name
