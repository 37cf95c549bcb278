"""The options that a function takes, and their ranges, read from its source: nothing is imported, torch least of all.

def apoz(layer: Activations, *, site: Literal["post_act", "conv_out"], threshold: Annotated[float, Ge(0)] = 1e-4): ...

layer      no option: no default, and its type is none of a config's
site       post_act or conv_out
threshold  a number from 0 on
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from runners.command import ranges
from runners.command.ranges import LIMITS, LIST, MAPPING, PLAIN, Range

ROOT = Path(__file__).parents[2]
OURS = ("analysis", "criteria", "hydra_plugins", "models", "runners")
LISTS = {"list", "tuple", "collections.abc.Sequence", "collections.abc.Collection"}
MAPPINGS = {"dict", "collections.abc.Mapping"}


@dataclass(frozen=True)
class Signature:
    """The options of a function.

    Args:
        options: name -> range; None where the annotation is none that is understood.
        takes_any: it takes keywords that it does not name.
    """

    options: Mapping[str, Range | None]
    takes_any: bool = False


class Found(NamedTuple):
    """A definition, and the module whose names it uses."""

    node: ast.AST
    module: str


@cache
def signature(target: str) -> Signature | None:
    """The options of the function or class at a dotted path; None if no source says what is there."""
    match _find(target):
        case (ast.ClassDef() as node, module):
            return _of_class(node, module)
        case (ast.FunctionDef() as node, module):
            return _of_function(node, module)
    return None


def uses(target: str, module: str) -> bool:
    """True if the file that defines the function at a dotted path imports `module`, or one of its own package that does."""
    found = _find(target)
    waiting, seen = [found.module] if found else [], set[str]()
    while waiting:
        here = waiting.pop()
        seen.add(here)
        imported = {str(name).rpartition(".")[0] for name in _names(here).values() if isinstance(name, str)}
        if module in imported:
            return True
        waiting += [each for each in imported - seen if each.partition(".")[0] == module.partition(".")[0]]
    return False


def _of_class(node: ast.ClassDef, module: str) -> Signature:
    """Options that `__init__` takes, or the fields of a dataclass and of the classes that it inherits from."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _of_function(part, module)
    bases = {name: signature(name) for name in (_dotted(base, module) for base in node.bases)}
    options = {name: allowed for base in bases.values() if base for name, allowed in base.options.items()}
    unknown = [name for name, base in bases.items() if base is None and name.split(".")[0] not in sys.stdlib_module_names]
    for part in node.body:
        if (
            isinstance(part, ast.AnnAssign)
            and isinstance(part.target, ast.Name)
            and "ClassVar" not in ast.unparse(part.annotation)
        ):
            options[part.target.id] = _range(part.annotation, module)
    return Signature(options, takes_any=bool(unknown))


def _of_function(node: ast.FunctionDef, module: str) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    without_default = positional[: len(positional) - len(node.args.defaults)]
    required = without_default + [a for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is None]
    options = {
        argument.arg: argument.annotation and _range(argument.annotation, module)
        for argument in (*positional, *node.args.kwonlyargs)
    }
    no_options = {argument.arg for argument in required if options[argument.arg] is None}
    return Signature({name: options[name] for name in options if name not in no_options}, node.args.kwarg is not None)


def _range(node: ast.AST, module: str) -> Range | None:
    """The range that an annotation says."""
    match node:
        case ast.Constant(value=None):
            return ranges.NULL
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            parts = [_range(left, module), _range(right, module)]
            return ranges.either([part for part in parts if part]) if all(parts) else None
        case ast.Subscript(value=value, slice=inner):
            arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _of_kind(_dotted(value, module), arguments, module)
        case ast.Name() | ast.Attribute():
            name = _dotted(node, module)
            if name in PLAIN or name in LISTS | MAPPINGS:
                return PLAIN.get(name) or (LIST if name in LISTS else MAPPING)
            found = _find(name)
            return _range(found.node, found.module) if found else None
    return None


def _of_kind(kind: str, arguments: list[ast.expr], module: str) -> Range | None:
    """The range of `kind[arguments]`."""
    if kind == "typing.Literal":
        return ranges.one_of([ast.literal_eval(argument) for argument in arguments])
    if kind == "collections.abc.Callable":
        return ranges.FUNCTION
    parts = [_range(argument, module) for argument in arguments if ast.unparse(argument) != "..."]
    if kind == "typing.Annotated":
        return parts[0] and _annotated(parts[0], arguments[1:], module)
    if not parts or None in parts:
        return None
    known = [part for part in parts if part]
    if kind in LISTS:
        return ranges.list_of(known[0])
    return ranges.mapping_of(*known) if kind in MAPPINGS else None


def _annotated(base: Range, metadata: list[ast.expr], module: str) -> Range:
    """`base` with the limits, and the form, that are understood; `doc("...")` says it in other words."""
    limits, said, form = {}, None, None
    for each in metadata:
        if not isinstance(each, ast.Call):
            continue
        name = _dotted(each.func, module).removeprefix("annotated_types.")
        values = [_constant(argument) for argument in each.args]
        if name == "doc":
            said = values[0]
        elif name == "re.compile":
            form = values[0]
        elif name == "Len":
            limits |= dict(zip(("MinLen", "MaxLen"), values, strict=False))
        elif name in LIMITS:
            limits[name] = values[0]
    found = ranges.limited(ranges.of_form(base, form) if form else base, limits)
    return Range(found.right, said) if said else found


def _constant(node: ast.expr) -> Any:
    """A literal, or a power of two (`2**63`)."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return ast.literal_eval(node.left) ** ast.literal_eval(node.right)
    return ast.literal_eval(node)


def _find(target: str) -> Found | None:
    """The definition at a dotted path, through imports."""
    module, _, name = target.rpartition(".")
    node = _names(module).get(name) if module else None
    if isinstance(node, str):
        return _find(node)
    return Found(node, module) if node is not None else None


def _dotted(node: ast.AST, module: str) -> str:
    """The dotted path that a name in a module stands for."""
    first, *rest = ast.unparse(node).split(".")
    there = _names(module).get(first)
    start = there if isinstance(there, str) else first if there is None else f"{module}.{first}"
    return ".".join([start, *rest])


@cache
def _names(module: str) -> Mapping[str, ast.AST | str]:
    """Meanings of a module's top-level names: definitions, values of assignments, dotted paths of what is imported."""
    path = _source(module)
    found: dict[str, ast.AST | str] = {}
    if path is None:
        return found
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
            case ast.Import():
                found |= {alias.asname or alias.name: alias.name for alias in node.names}
            case ast.ImportFrom():
                package = module.split(".")[: None if path.name == "__init__.py" else -1]
                start = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*start, *([node.module] if node.module else [])])
                found |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
    return found


def _source(module: str) -> Path | None:
    """The file of a module, ours first; packages are not imported to find it."""
    first, *rest = module.split(".")
    if first in OURS:
        roots = [str(ROOT / first)]
    else:
        spec = find_spec(first) if first.isidentifier() else None
        roots = list(spec.submodule_search_locations or []) if spec else []
    for root in roots:
        place = Path(root, *rest)
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None
