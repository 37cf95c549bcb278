"""The command line: composing, the gate, the run, the exit code. torch comes in only after the gate."""

import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from runners.command.arguments import CONF, check_arguments
from runners.command.explain import UNEXPECTED, failed, show, told
from runners.command.gate import resolved
from runners.command.summary import summary
from runners.command.watchdog import watched
from runners.process import threads
from runners.process.environment import variable
from runners.process.errors import (
    INTERRUPTED,
    SOME_JOBS_FAILED,
    ResourceError,
    UserError,
    first_line,
    is_out_of_memory,
    lost_worker,
)
from runners.process.interruption import Preempted, listen, requested
from runners.storage import folder as run_folder
from runners.storage.keys import run_name
from runners.sweeping.child import check_code, follow_parent


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
    except SystemExit as stop:  # from the gate, or from Hydra after --help and the like
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return failed("interrupted; finished stages are kept; give the same command to go on", INTERRUPTED)
    except Exception as error:
        return told(error)
    bad = [code for code in codes if code]
    for stopped in (INTERRUPTED, Preempted.exit_code):
        if stopped in bad:
            return stopped
    return SOME_JOBS_FAILED if bad and len(codes) > 1 else max(codes, default=0)


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
            return failed(str(error), error.exit_code)
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
        show(error)
    return failed(message, code)
