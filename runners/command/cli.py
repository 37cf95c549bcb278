"""The command line: composing, the gate, one line an error, the exit code. torch comes in only after the gate."""

import difflib
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from runners.command.arguments import CONF, check_arguments, chosen_files, options
from runners.command.gate import resolved
from runners.command.summary import summary
from runners.command.watchdog import watched
from runners.process import threads
from runners.process.environment import variable
from runners.process.errors import (
    INTERRUPTED,
    SOME_JOBS_FAILED,
    ConfigError,
    ResourceError,
    UserError,
    error_line,
    first_line,
    is_out_of_memory,
    lost_worker,
    user_error_behind,
)
from runners.process.interruption import Preempted, listen, requested
from runners.storage import folder as run_folder
from runners.storage.keys import FIRST_NAMES, run_name
from runners.sweeping.child import check_code, follow_parent

UNEXPECTED = 1


def main(root: Path) -> int:
    """Composes and runs what the arguments say; returns the exit code."""
    threads.begin()
    OmegaConf.register_new_resolver("root", lambda name: str(root / name), replace=True)
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(resolved(_root_)), replace=True)
    OmegaConf.register_new_resolver("oc.env", variable, replace=True)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing a page and exiting with 1
    codes: list[int] = []
    task = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(
        lambda config: codes.append(run(config, root))
    )
    try:
        sys.argv[1:] = check_arguments(sys.argv[1:])
        task()
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        return _fail(explain(error), ConfigError.exit_code)
    except OSError as error:
        return _fail(
            f"{error.filename} cannot be written ({error.strerror}); the output folder must take files; choose outputs=DIR",
            ResourceError.exit_code,
        )
    except SystemExit as stop:  # from the gate, or from Hydra after --help and the like
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted; finished stages are kept; give the same command to go on", INTERRUPTED)
    except Exception as error:  # outside of any run: while a sweep is handed out
        if "debug=true" in sys.argv:
            traceback.print_exception(error)
        return _fail(
            f"{type(error).__name__}: {first_line(error)}; this is a fault of Prunescope; debug=true shows where", UNEXPECTED
        )
    failed = [code for code in codes if code]
    for stopped in (INTERRUPTED, Preempted.exit_code):
        if stopped in failed:
            return stopped
    return SOME_JOBS_FAILED if failed and len(codes) > 1 else max(codes, default=0)


def run(config: DictConfig, root: Path) -> int:
    """One job: shows a finished run, or makes one; returns the exit code."""
    if requested():  # in an earlier job of a sweep
        return Preempted.exit_code
    folder = Path(HydraConfig.get().runtime.output_dir)
    if run_folder.is_done(folder) and not config.rerun:
        print("This run is finished; nothing is computed again (rerun=true repeats it).")
        return _finished(config, folder)
    values = resolved(config)
    _listen()
    warnings.filterwarnings("ignore")
    logging.raiseExceptions = False  # a closed pipe ends the lines, not the run
    with watched(folder, config.hang_minutes):
        return _execute(config, values, folder, root)


def _execute(config: DictConfig, values: dict[str, Any], folder: Path, root: Path) -> int:
    """Makes a run; what goes wrong becomes one line, a note in the run folder, and the exit code."""
    try:
        follow_parent()
        check_code(root, allow_drift=config.allow_code_drift)
        from runners.command.build import execute

        execute(config, values, folder, root)
        return _finished(config, folder)
    except UserError as error:
        by_hand = isinstance(error, Preempted) and requested() == signal.SIGINT.name
        return _give_up(folder, error, str(error), INTERRUPTED if by_hand else error.exit_code, debug=config.debug)
    except KeyboardInterrupt as error:
        _record(folder, error, "interrupted", INTERRUPTED)
        raise
    except Exception as error:
        if is_out_of_memory(error):
            sizes = "recipe.batch_size=64 finetune.batch_size=64 score_batch_size=32"
            advice = f"a smaller batch, model or data set is needed; try {sizes}"
            return _give_up(folder, error, f"out of memory; {advice}", ResourceError.exit_code, debug=config.debug)
        if line := lost_worker(error, OmegaConf.select(config, "dataset.num_workers") or 0):
            return _give_up(folder, error, line, ResourceError.exit_code, debug=config.debug)
        advice = f"this is a fault of Prunescope; the details to report are in {folder / run_folder.ERROR_LOG}"
        return _give_up(folder, error, f"{type(error).__name__}: {first_line(error)}; {advice}", UNEXPECTED, debug=config.debug)


def _listen() -> None:
    """Signals of clusters and the first Ctrl-C are heeded after the step, with the state saved; the second Ctrl-C at once."""
    listen()
    note = signal.getsignal(signal.SIGTERM)
    assert callable(note)

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step, with the state saved; Ctrl-C again stops at once\n")
        note(number, frame)

    signal.signal(signal.SIGINT, first)


def _finished(config: DictConfig, folder: Path) -> int:
    """Makes the reports of a finished run and shows it, with what they say of printed numbers."""
    verdicts = ""
    if config.reports:
        from runners.reporting.reports import build_reports, report_on_run

        try:
            verdicts = report_on_run(folder, build_reports(resolved(config)["reports"]))
        except UserError as error:
            return _fail(str(error), error.exit_code)
    print(summary(folder))
    if verdicts:
        print(f"\n{verdicts}\n")
    print(folder, flush=True)
    return 0


def _record(folder: Path, error: BaseException, message: str, code: int) -> None:
    """Notes a failure in the run folder, unless an earlier run's result, which nothing has touched, lies there."""
    if not run_folder.is_done(folder):
        run_folder.fail(folder, message, code, "".join(traceback.format_exception(error)))


def _give_up(folder: Path, error: BaseException, message: str, code: int, *, debug: bool) -> int:
    _record(folder, error, message, code)
    if debug:
        traceback.print_exception(error)
    return _fail(message, code)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(error_line(message))
    return code


def explain(error: Exception) -> str:
    """Hydra's complaint as one line: what was given; what is allowed; the likely fix."""
    if ours := user_error_behind(error):
        return str(ours)
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return f"{where}: {error.problem}; a config is YAML, indented by spaces, each key once; mend that line"
    text = str(error)
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, given = found.groups()
        names = re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE)
        return f"{group}={given} is unknown; {group} is one of {', '.join(names)}; {_nearest(f'{group}=', given, names)}"
    if found := re.search(r"(?:Could not override|Could not delete from config|Key) '([^']+)'", text):
        given = found.group(1)
        if now := {first: name for name, first in FIRST_NAMES.items()}.get(given):
            return f"{given} is no option any more; it is called {now} now; try {now}=..."
        if names := options(given.replace(".", "/")):
            way_out = f"{given.replace('.', '/')}={names[0]}"
            return f"{given} is a group, whose options are files; it is one of {', '.join(names)}; try {way_out}"
        known, section = _known_keys(sys.argv[1:]), given.rpartition(".")[0]
        inside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
        allowed = f"{section} takes {', '.join(inside) or 'none'}" if section in known else "--help and --cfg job show all"
        return f"{given} is no option; {allowed}; {_nearest('', given, known)}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found.group(1)} is a list; one value is allowed here; write 0.5 for 0,5, or add --multirun to run every value"
    if found := re.search(r"LexerNoViableAltException: ([^=\s]+)=(.*)", text):
        key, value = found.groups()
        advice = f"overrides look like key=value, and unusual characters stand in quotes; try \"{key}='{value}'\""
        return f"{key}={value} cannot be read; {advice}"
    return f"{first_line(error)}; overrides look like key=value; --help shows examples"


def _nearest(prefix: str, given: str, names: list[str]) -> str:
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    last = [name for name in names if name.split(".")[-1] == given.split(".")[-1]]
    near = list(dict.fromkeys([*last, *near]))[:3]
    return f"did you mean {' or '.join(prefix + name for name in near)}?" if near else "check the spelling"


def _known_keys(arguments: list[str]) -> list[str]:
    """Every dotted key of the config with the files that the command line chooses, without those that Hydra reads."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [
            key for key in _keys(OmegaConf.to_container(compose("config", chosen_files(arguments)))) if not key.endswith("_")
        ]


def _keys(config: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{key}.")
    return found
