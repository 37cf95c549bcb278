"""The gate: faults of a config are found before torch is imported and before anything is written."""

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.command.arguments import check_overrides
from runners.command.checks import check_config, file
from runners.command.explain import told
from runners.command.launcher_checks import check_launcher
from runners.command.look import look
from runners.command.networkless import check_network
from runners.command.normalisation import with_expected
from runners.process.errors import ConfigError, ResourceError, first_line, user_error_behind
from runners.process.hydra_private import composer, flags
from runners.storage.keys import run_name
from runners.sweeping.job import Job, unfolded, value_of, varied
from runners.sweeping.pool import SOURCES

# The jobs of the sweep that this process has begun.
PLANNED: list[Job] = []
NAME_BYTES = 255  # of a file's name, in every usual file system


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuses keys that nothing reads (`+foo=1`), which would only give the run another name, and a config without some.

    Raises:
        ConfigError: the first such key.
    """
    chosen = {
        group: name for entry in file("config.yaml")["defaults"] if isinstance(entry, dict) for group, name in entry.items()
    }
    known = set(file("config.yaml")) - {"defaults"} | {group.split("@")[-1] for group in chosen}
    if unknown := sorted(set(config) - known):
        raise ConfigError(f"{unknown[0]} is no option; --help and --cfg job show all; leave +{unknown[0]} out")
    optional = {"hydra", *(group for group, name in chosen.items() if name is None or group.startswith("override "))}
    if missing := sorted(known - optional - set(config)):
        raise ConfigError(f"{missing[0]} was taken out; every option of --cfg job is needed; leave ~{missing[0]} out")


def config_flags(arguments: Sequence[str]) -> list[str]:
    """Of a command line, the flags that say where configs lie, for the jobs of a sweep."""
    given = flags(arguments)
    named = {flag: given[flag] for flag in ("config_path", "config_name", "config_dir") if given[flag]}
    return [f"--{flag.replace('_', '-')}={value}" for flag, value in named.items()]


def resolved(config: DictConfig, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """The config as plain values, every interpolation worked out, Hydra's own part left out.

    Given weights set the normalisation that they are known to expect, if none is given.

    Args:
        overrides: the command line that made it; None takes that of this process.

    Raises:
        ConfigError: a value that is missing (`???`) or refers to something that is not there.
    """
    try:
        names = [str(key) for key in config if key != "hydra"]
        values = {key: OmegaConf.to_object(config[key]) if OmegaConf.is_config(config[key]) else config[key] for key in names}
    except OmegaConfBaseException as error:
        if ours := user_error_behind(error):
            raise ours from error
        raise ConfigError(
            f"{error.full_key or 'the config'} has no value ({first_line(error)}); every option needs one; give it"
        ) from error
    return with_expected(values, HydraConfig.get().overrides.task if overrides is None else overrides)


class Gate(Callback):
    """Hydra's earliest hooks: a wrong config ends here, with one line, exit code 2, and no folder made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the config of a single run; one that only looks at others is done here, before Hydra makes a folder for it."""
        with _one_line():
            HydraConfig.instance().set_config(config)  # for ${hydra:...}; Hydra itself sets it later
            values = check(config)
            check_single(config, looks=values["runner"].get("looks", False))
            if values["runner"].get("looks"):
                seen = look(values)
                print(seen.text, flush=True)
                raise SystemExit(seen.exit_code)
            _check_folders(config, [Path(str(config.hydra.run.dir))])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the configs of all jobs of a sweep, and notes them for the launcher."""
        with _one_line():
            _check_folders(config, [job.folder for job in plan(config)])


def check_single(config: DictConfig, *, looks: bool) -> None:
    """Refuses options of sweeps for a single run, which would read none of them; the jobs of a sweep may carry them.

    Raises:
        ConfigError: the first such option.
    """
    given = [
        each for each in config.hydra.overrides.hydra if each.lstrip("+~").startswith(("hydra.launcher.", "hydra/launcher"))
    ]
    if config.detach and SOURCES not in os.environ:
        given.append("detach=true")
    if given:
        way_out = f"leave {given[0]} out" if looks else f"add --multirun, or leave {given[0]} out"
        raise ConfigError(f"{given[0]} is of sweeps; this is a single run; {way_out}")


def check(config: DictConfig, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """The resolved config of one run; `overrides` as in `resolved`.

    Raises:
        ConfigError: whatever is wrong with it.
    """
    values = resolved(config, overrides)
    check_keys(values)
    check_config(values)
    check_network(values)
    return values


def plan(config: DictConfig) -> list[Job]:
    """Composes and checks every job of a sweep; a run that the grid names twice is one job.

    Raises:
        ConfigError: whatever is wrong with the first job that cannot be run.
    """
    launcher = cast("dict[str, Any]", OmegaConf.to_container(config.hydra.launcher, resolve=True))
    check_launcher(launcher, config.device, detach=config.detach)
    grid = unfolded(config)
    check_overrides({override for job in grid for override in job})  # those of an experiment's YAML too
    compose, options = composer(config), varied(grid)
    found: dict[str, Job] = {}
    for overrides in grid:
        composed = compose(overrides)
        values = check(composed, overrides)
        if values["runner"].get("looks"):
            about = values["names"]["runner"]
            raise ConfigError(f"runner={about} only looks at others' runs; no sweep is made of it; add hydra.mode=RUN")
        name = run_name(values)
        here = {option: value_of(composed, overrides, option) for option in options}
        found.setdefault(name, Job(len(found), overrides, here, name, Path(values["outputs"]).absolute() / name))
    HydraConfig.instance().set_config(config)
    PLANNED[:] = found.values()
    if twice := len(grid) - len(found):
        print(f"{twice} of {len(grid)} jobs are the same as others and run once.")
    return PLANNED


@contextmanager
def _one_line() -> Iterator[None]:
    """Hydra turns exceptions of callbacks into warnings; only SystemExit gets through."""
    try:
        yield
    except Exception as error:
        raise SystemExit(told(error)) from None


def _check_folders(config: DictConfig, runs: Sequence[Path]) -> None:
    outputs, store = (Path(str(config[key])) for key in ("outputs", "store"))
    for run in runs:
        check_run_folder(run, outputs, store)
    check_writable("outputs", outputs)
    check_writable("store", store)
    if not config.shared_store:
        check_private(store)


def check_run_folder(folder: Path, outputs: Path, store: Path) -> None:
    """A run clears its folder and fills it: it must be one of its own, below `outputs`, and no way to elsewhere.

    Raises:
        ConfigError: it lies elsewhere or in the store, or its name is too long for a file system.
        ResourceError: it, or something in it, is a symbolic link.
    """
    if len(os.fsencode(folder.name)) > NAME_BYTES:
        raise ConfigError(
            f"{folder.name[:60]}... has {len(os.fsencode(folder.name))} bytes; {NAME_BYTES} are allowed; choose shorter names"
        )
    place = folder.parent.resolve() / folder.name
    if folder.name == ".." or outputs.resolve() not in place.parents or store.resolve() in (place, *place.parents):
        raise ConfigError(
            f"hydra.run.dir={folder} cannot be used; run folders lie below outputs={outputs} and outside the store; leave "
            "hydra.run.dir out, or choose outputs=DIR"
        )
    links = [folder] if folder.is_symlink() else [path for path in folder.glob("*") if path.is_symlink()]
    if links:
        raise ResourceError(f"{links[0]} is a symbolic link; a run follows none; remove it, or choose outputs=DIR")


def check_private(store: Path) -> None:
    """Warns of a store that every user can write, and takes none of somebody else's that is so.

    Raises:
        ConfigError: every user can write it, and it belongs to another one.
    """
    facts = store.stat()
    if not facts.st_mode & stat.S_IWOTH:
        return
    open_to_all = f"store={store} takes files from every user of this machine"
    if facts.st_uid != os.geteuid():
        raise ConfigError(
            f"{open_to_all} and belongs to another one (user {facts.st_uid}); hashes detect accidents, not people; its owner "
            "can keep others out (chmod o-w), or trust them all with shared_store=true"
        )
    way_out = "chmod o-w keeps them out, shared_store=true trusts them"
    sys.stderr.write(f"warning: {open_to_all}; hashes detect accidents, not people; {way_out}\n")


def check_writable(key: str, folder: Path) -> None:
    """Makes the folder of an option and tries a file in it.

    Raises:
        ResourceError: it cannot be made or written.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"{key}={folder} cannot be written ({error.strerror}); it must take files; choose {key}=DIR"
        ) from error
