"""Imports point one way, torch stays out of what runs before it, and nothing reads a pickle past weights.py and resume.py."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

PURE = ("criteria", "models", "analysis")
# Room -> the other rooms it may use. All use `process`, which uses nothing of ours; files of runners/ itself are experiments.
MAY_USE = {
    "process": (),
    "augmenting": (),
    "data": ("augmenting",),
    "storage": (),
    "tracing": (),
    "tasks": ("augmenting", "data"),
    "measuring": ("data", "tasks"),
    "training": ("augmenting", "data", "measuring", "storage", "tasks"),
    "scoring": ("data", "tasks", "tracing"),
    "selection": ("data", "tracing"),
    "pruning": ("data", "tracing", "selection", "storage"),
    "sweeping": ("storage",),
    "looking": ("data", "storage", "sweeping"),
    "reporting": ("storage", "sweeping", "looking"),
}
BEFORE_TORCH = (
    "runners.command.cli",
    "runners.command.gate",
    "runners.process.errors",
    "runners.storage.keys",
    "runners.storage.folder",
    "runners.storage.files",
    "runners.storage.code",
    "runners.sweeping.local",
    "runners.sweeping.slurm",
    "runners.sweeping.task",
    "hydra_plugins.prunescope.slots",
    "hydra_plugins.prunescope.slurm",
    "hydra_plugins.prunescope.grid",
    "runners.looking.sweep",
    "runners.looking.status",
    "runners.storage.locks",
    "runners.storage.store",
    "runners.looking.doctor",
    "runners.looking.datasets",
)
WITHOUT_TORCH = (*BEFORE_TORCH, "runners.reporting.report")
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"torch.load", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load", "pd.read_pickle", "pandas.read_pickle"}
READS_WEIGHTS = ("runners/storage/weights.py", "runners/storage/resume.py")


def sources() -> dict[str, str]:
    """Path below the root -> text of every Python file that is not a test."""
    found = [ROOT / "prunescope.py", ROOT / "run.py"]
    for folder in (*PURE, "runners", "benchmarks", "hydra_plugins"):
        found += (ROOT / folder).rglob("*.py")
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(found)}


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imported(path: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Every module that the nodes import, `from a import b` as both a and a.b, relative ones worked out."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path).split(".")
            package = package if path.endswith("__init__.py") else package[:-1]
            start = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            base = (start + (node.module or "")).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: no functions' bodies, no `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def allowed(user: str, used: str) -> bool:
    """True if module `user` may import module `used`; both are ours."""
    mine, theirs = user.split("."), used.split(".")
    if theirs[0] in ("run", "prunescope"):
        return False
    if mine[0] == "prunescope":
        return theirs[1:2] != ["command"]
    if used == "runners":
        return mine[0] not in PURE
    if mine[0] in PURE or theirs[0] in PURE:
        return theirs[0] == mine[0] or mine[0] == "runners" and mine[1:2] != ["process"]
    room, other = mine[1] if len(mine) > 1 else "", theirs[1]
    if mine[0] == "run":
        return other in ("command", "process")
    if room == "command":
        return True
    if room in MAY_USE:
        return other in (room, *MAY_USE[room], "process" if room != "process" else room)
    return other != "command"  # an experiment


def forbidden_imports(files: dict[str, str]) -> list[str]:
    modules = {module_of(path) for path in files}
    return [
        f"{path} imports {used}"
        for path, text in files.items()
        if not path.startswith(("benchmarks/", "hydra_plugins/"))
        for used in dict.fromkeys(imported(path, ast.walk(ast.parse(text))))
        if (used in modules or used.split(".")[0] in (*PURE, "runners", "run") and used.rpartition(".")[0] not in modules)
        if used != module_of(path) and not allowed(module_of(path), used)
    ]


def reaches_torch(files: dict[str, str], start: str) -> list[str]:
    """The chain of imports from `start` to torch, or nothing; only what runs at import counts."""
    by_module = {module_of(path): path for path in files}
    parents = [start.rsplit(".", n)[0] for n in range(start.count(".") + 1)]
    waiting, seen = [[module] for module in parents], set(parents)
    while waiting:
        chain = waiting.pop()
        path = by_module.get(chain[-1])
        if path is None:  # a namespace
            continue
        for used in imported(path, at_import(ast.parse(files[path]))):
            if used.split(".")[0] in ("torch", "torchvision", "timm"):
                return [*chain, used]
            # Importing a.b.c runs a and a.b as well.
            parts = used.split(".")
            for module in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
                if module in by_module and module not in seen:
                    seen.add(module)
                    waiting.append([*chain, module])
    return []


def dangerous(files: dict[str, str]) -> list[str]:
    found: list[str] = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in CALLS and path not in READS_WEIGHTS or name in ("eval", "exec", "__import__"):
                    found.append(f"{path}:{node.lineno} calls {name}")
            used = set(imported(path, iter([node])))
            if {name.split(".")[0] for name in used} & UNPICKLERS:
                found.append(f"{path}:{ast.unparse(node)}")
            # `from torch import load` would hide the call from the check above.
            if path not in READS_WEIGHTS and used & CALLS:
                found.append(f"{path}:{ast.unparse(node)}")
    return found


def test_imports_point_one_way() -> None:
    files = sources()
    assert {"run.py", "runners/command/cli.py", "runners/tracing/channels.py", "criteria/norm.py"} <= files.keys()
    assert forbidden_imports(files) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("criteria/new.py", "from runners.process.errors import ConfigError"),
        ("criteria/new.py", "import models.cifar_vgg"),
        ("analysis/new.py", "def f() -> None:\n    from criteria.norm import l1"),
        ("models/new.py", "from runners.data.splits import Splits"),
        ("runners/data/new.py", "from runners.training.fit import fit"),
        ("runners/data/new.py", "from runners.storage import files"),
        ("runners/data/new.py", "from ..storage import files"),
        ("runners/storage/new.py", "from runners.tracing.channels import Channels"),
        ("runners/training/new.py", "from runners.pruning import remove"),
        ("runners/pruning/new.py", "import runners.training.fit as fit"),
        ("runners/pruning/new.py", "from runners.command.build import Built"),
        ("runners/pruning/new.py", "from runners.command import build"),
        ("runners/looking/new.py", "from runners.training.fit import fit"),
        ("runners/storage/new.py", "from runners.looking import status"),
        ("runners/looking/new.py", "from runners.reporting import report"),
        ("runners/one_shot.py", "from run import ROOT"),
        ("runners/one_shot.py", "from runners.command.built import Built"),
        ("runners/measuring/new.py", "from runners.training.fit import fit"),
        ("runners/process/errors.py", "from runners.data import splits"),
        ("runners/process/errors.py", "import runners.results"),
        ("run.py", "from runners.training.fit import fit"),
        ("run.py", "from criteria.norm import l1"),
        ("prunescope.py", "from runners.command.built import Built"),
        ("runners/one_shot.py", "import prunescope"),
    ],
)
def test_a_forbidden_import_is_found(path: str, text: str) -> None:
    files = sources()
    assert forbidden_imports(files | {path: text}), text


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_runs_before_the_gate_or_makes_tables_imports_no_torch(module: str) -> None:
    assert reaches_torch(sources(), module) == []


def test_torch_is_found_through_other_modules_and_packages() -> None:
    files = sources()
    assert reaches_torch(files, "runners.command.build")
    assert reaches_torch(files | {"runners/process/errors.py": "class A:\n    import torch.nn"}, "runners.command.gate")
    assert reaches_torch(files | {"runners/storage/__init__.py": "from runners.data import splits"}, "runners.storage.keys")
    late = "def f() -> None:\n    import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"
    assert reaches_torch(files | {"runners/process/errors.py": late}, "runners.process.errors") == []


def test_torch_is_really_not_there_before_the_gate() -> None:
    program = f"import sys, {', '.join(BEFORE_TORCH)}\nprint(sorted({{'torch', 'pandas', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_is_really_not_there_when_a_sweep_is_reported() -> None:
    program = "import sys, runners.reporting.report\nprint({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'pandas'}"


def test_nothing_reads_a_pickle_or_runs_text_but_the_places_that_guard_it() -> None:
    files = sources()
    assert all("torch.load(" in files[path] for path in READS_WEIGHTS)
    assert dangerous(files) == []


@pytest.mark.parametrize("path", READS_WEIGHTS)
def test_those_places_read_tensors_only(path: str) -> None:
    calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)]
    loads = [node for node in calls if ast.unparse(node.func) in CALLS]
    assert loads
    for call in loads:
        assert ast.unparse(call.func) == "torch.load"
        assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True"


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load('a.pt')",
        "import pickle",
        "from pickle import loads",
        "def f() -> None:\n    import joblib",
        "from torch import load",
        "from torch.hub import load",
        "eval('1')",
        "exec('a = 1')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
    ],
)
def test_a_dangerous_call_is_found(text: str) -> None:
    assert dangerous({"runners/new.py": text})


def test_eval_mode_is_no_eval() -> None:
    assert dangerous({"runners/new.py": "network.eval()"}) == []


def test_every_source_is_looked_at() -> None:
    tracked = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py") if "/." not in f"/{path.relative_to(ROOT)}"}
    ours = {path for path in tracked if not path.startswith(("tests/", "outputs/", "build/"))}
    assert ours <= sources().keys()
    assert Path(__file__).name not in sources()
