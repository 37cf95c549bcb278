"""Prunescope's one command: python run.py model=resnet56 criterion=l1 ratio=0.5 (help: python run.py --help)."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGES = ("analysis", "criteria", "models", "runners")


def use_own_packages() -> None:
    """Puts this folder first on the path, for this process and its children, and refuses packages of the same names.

    Raises:
        SystemExit: another folder on the path holds a package of ours, which a child process could import instead.
    """
    foreign = [
        Path(entry or ".").resolve() / name
        for entry in sys.path
        for name in PACKAGES
        if "site-packages" not in entry and Path(entry or ".").resolve() != ROOT
        if (Path(entry or ".") / name).is_dir() or (Path(entry or ".") / f"{name}.py").is_file()
    ]
    loaded = [Path(str(sys.modules[name].__file__)) for name in PACKAGES if name in sys.modules]
    foreign += [path for path in loaded if ROOT not in path.parents]
    if foreign:
        sys.stderr.write(
            f"error: {foreign[0]} has the name of a package of this project and is on Python's path; only {ROOT} may "
            "hold it; take that folder out of PYTHONPATH, or start from another folder\n"
        )
        raise SystemExit(2)
    others = [entry for entry in sys.path if entry != str(ROOT)]
    sys.path[:] = [str(ROOT), *others]
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *inherited])


def main() -> None:
    """Runs the command line and exits with its code."""
    use_own_packages()
    from runners.command import cli
    from runners.process import streams

    streams.settle()
    raise SystemExit(cli.main(ROOT))


if __name__ == "__main__":
    main()
