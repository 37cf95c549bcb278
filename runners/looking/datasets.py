"""Every data set of conf/dataset and its state on this machine; nothing is loaded, and nothing downloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from omegaconf import OmegaConf

from runners.data.checksums import ADDRESSES, PUBLISHED
from runners.data.published import Published, told, wrong_file
from runners.looking.seen import Seen

CONF = Path(__file__).parents[2] / "conf" / "dataset"
# Options that name folders of images below data_root.
FOLDERS = ("train", "test", "folder")
State = Literal["whole", "there", "embedded", "can be downloaded", "missing", "other files", "not known"]


class Found(NamedTuple):
    """The state of a data set.

    Args:
        line: where it is, or what to do.
        size: bytes on disk, or of the download; None where nobody counted.
    """

    state: State
    line: str
    size: int | None = None


def run(*, data_root: str | None, outputs: str) -> Seen:
    """All data sets, two lines each: what they are, and where they are or what to put where."""
    table, notes = [("dataset", "state", "images", "classes", "MB", "about")], [""]
    for name, dataset in configs(data_root, outputs).items():
        found = state(dataset)
        images = " + ".join(f"{n:,}" for n in dataset.get("images") or ()) or "?"
        size = "?" if found.size is None else f"{found.size / 1e6:,.0f}"
        table.append((name, found.state, images, str(dataset["num_classes"]), size, dataset["about"]))
        notes.append(found.line)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines: list[str] = []
    for row, note in zip(table, notes, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    {note}"] if note else []
    return Seen("\n".join(lines))


def configs(data_root: str | None, outputs: str) -> dict[str, dict[str, Any]]:
    """Name -> options of every data set, with their defaults."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(CONF.glob("*.yaml")):
        whole = OmegaConf.create({"data_root": data_root, "outputs": outputs, "seed": 0, "dataset": _with_parents(path)})
        found[path.stem] = cast("dict[str, dict[str, Any]]", OmegaConf.to_container(whole, resolve=True))["dataset"]
    return found


def _with_parents(path: Path) -> dict[str, Any]:
    """The options of a YAML, with those that it inherits from its neighbours."""
    own = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(path)))
    parents = [each for each in own.pop("defaults", ()) if isinstance(each, str) and each != "_self_"]
    inherited = [_with_parents(path.with_name(f"{parent}.yaml")) for parent in parents]
    return {key: value for each in (*inherited, own) for key, value in each.items()}


def state(dataset: Mapping[str, Any]) -> Found:
    """The state of a data set with these options."""
    published = PUBLISHED.get(dataset["_target_"])
    if "data_root" not in dataset:
        return Found("embedded", "needs no files", 0)
    if published:
        return _of_files(published, dataset)
    if any(key in dataset for key in FOLDERS):
        return _of_folders(dataset)
    return Found("not known", "no file of it has a published checksum")


def _of_files(published: Published, dataset: Mapping[str, Any]) -> Found:
    files, given = published.files(dataset), dataset["data_root"]
    offered = bool(published.archives) and "download_root" in dataset
    root = given or (dataset["download_root"] if offered else None)
    wrong = wrong_file(files, Path(root)) if root else ""
    if root and not wrong:
        pinned = all(isinstance(each, str) for each in files.values())
        sure = "the published checksums" if pinned else "the published sizes (checksums of them are not published)"
        size = sum((Path(root) / name).stat().st_size for name in files)
        return Found("whole", f"{root}: all {len(files)} files have {sure}", size)
    size = sum(archive.size for archive in published.archives) if offered else None
    if given is None and offered:
        return Found("can be downloaded", f"to {root}, by the run that needs it; nodes may have no network", size)
    what = f"put {told(files)} from {published.address} below one folder, and give it as data_root=DIR"
    way_out = f"{what}; data_root=null downloads them" if offered else what
    if given is None:
        return Found("missing", f"data_root=null; {way_out}", size)
    return Found("missing" if wrong.endswith("is missing") else "other files", f"data_root={given}: {wrong}; {way_out}", size)


def _of_folders(dataset: Mapping[str, Any]) -> Found:
    root, names = dataset["data_root"], [dataset[key] for key in FOLDERS if key in dataset]
    origin = f" from {ADDRESSES[dataset['_target_']]}" if dataset["_target_"] in ADDRESSES else ""
    what = f"put {' and '.join(names)}{origin} below one folder, and give it as data_root=DIR"
    if root is None:
        return Found("missing", f"data_root=null; {what}")
    if lacking := [name for name in names if not (Path(root) / name).is_dir()]:
        return Found("missing", f"data_root={root}: {lacking[0]} is missing; {what}")
    counts = [f"{sum(each.is_dir() for each in (Path(root) / name).iterdir()):,} folders in {name}" for name in names]
    return Found("there", f"{root}: {', '.join(counts)}")
