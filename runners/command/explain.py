"""Errors outside of a run (a wrong command line, a config that cannot be composed) as one line on stderr and an exit code."""

import difflib
import re
import sys
import traceback
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from runners.command.arguments import CONF, chosen_files, options
from runners.command.checks import HYDRAS, NO_ARGUMENTS
from runners.process.errors import ConfigError, ResourceError, UserError, error_line, first_line, user_error_behind
from runners.process.redaction import redacted
from runners.storage.keys import FIRST_NAMES

UNEXPECTED = 1
OF_THE_USER = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def told(error: Exception) -> int:
    """Says in one line what went wrong outside of any run; returns the exit code."""
    known = isinstance(error, (UserError, *OF_THE_USER))
    if known and (ours := user_error_behind(error)):
        return failed(str(ours), ours.exit_code)
    if known:
        return failed(explain(error), ConfigError.exit_code)
    if isinstance(error, OSError):
        return failed(
            f"{error.filename} cannot be used ({error.strerror}); files must be readable and folders take files; mend its "
            "rights, or choose outputs=DIR",
            ResourceError.exit_code,
        )
    if "debug=true" in sys.argv:
        show(error)
    return failed(
        f"{type(error).__name__}: {first_line(error)}; this is a fault of Prunescope; debug=true shows where", UNEXPECTED
    )


def failed(message: str, code: int) -> int:
    """Writes an error as one line to stderr; returns the exit code."""
    sys.stderr.write(error_line(redacted(message)))
    return code


def show(error: BaseException) -> None:
    """Writes the traceback to stderr."""
    sys.stderr.write(redacted("".join(traceback.format_exception(error))))


def explain(error: Exception) -> str:
    """Hydra's complaint as one line: what was given; what is allowed; the likely fix."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return f"{where}: {error.problem}; a config is YAML, indented by spaces, each key once; mend that line"
    text = str(error)
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, given = found.groups()
        names = re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE)
        near = [f"{group}={name}" for name in _similar(given, names)]
        return f"{group}={given} is unknown; {group} is one of {', '.join(names)}; {_did_you_mean(near)}"
    if found := re.search(r"(?:Could not override|Could not delete from config|Key) '([^']+)'", text):
        given = found.group(1)
        if now := {first: name for name, first in FIRST_NAMES.items()}.get(given):
            return f"{given} is no option any more; it is called {now} now; try {now}=..."
        if names := options(given.replace(".", "/")):
            way_out = f"{given.replace('.', '/')}={names[0]}"
            return f"{given} is a group, whose options are files; it is one of {', '.join(names)}; try {way_out}"
        if "@" in given:
            return f"{given} replaces nothing that is there; a further one is added with +; try +{given}=NAME"
        return _no_option(given, _known_keys(sys.argv[1:]))
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        given = found.group(1)
        key, _, value = given.partition("=")
        way_out = f"write 0.5 for 0,5, \"{key}='{value}'\" for text, or add --multirun to run every value"
        return f"{given} is a list; one value is allowed here; {way_out}"
    return f"{first_line(error)}; overrides look like key=value; --help shows examples"


def _no_option(given: str, known: list[str]) -> str:
    """An unknown dotted key as one line: the other options of its section, and the most similar key."""
    section, _, name = given.rpartition(".")
    same = [key for key in known if key.rpartition(".")[2] == name]
    if section not in known:
        advice = _did_you_mean([*same, *_similar(given, known)])
        return f"{given} is no option; --help and --cfg job show all; {advice}"
    inside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    advice = _did_you_mean([*same, *(f"{section}.{near}" for near in _similar(name, inside))])
    return f"{given} is no option; {section} takes {', '.join(inside) or 'none'}; {advice}"


def _similar(given: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(given, names, n=3, cutoff=0.5)


def _did_you_mean(near: list[str]) -> str:
    return f"did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?" if near else "check the spelling"


def _known_keys(arguments: list[str]) -> list[str]:
    """Every dotted key that can be set, of the config with the files that the command line chooses, if those are there."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("config", chosen_files(arguments))
        except HydraException:
            config = compose("config")
    values: Any = OmegaConf.to_container(config)
    del values["names"]
    return [key for key in _keys(values) if key.rpartition(".")[2] not in HYDRAS | NO_ARGUMENTS]


def _keys(config: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{key}.")
    return found
