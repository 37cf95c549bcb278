"""Undocumented behaviour of Hydra 1.3 that is relied on, in one file and no other."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from runners.process.hydra_private import chosen_names, composer, flags, parsed, unfolded, written
from support import ROOT

PRIVATE = re.compile(
    r"hydra\._internal|hydra\.core\.(override_parser|config_loader)|\b_get_node\b|get_args_parser|BasicSweeper"
)


def test_all_of_it_is_in_one_file() -> None:
    sources = [ROOT / "run.py", *(path for room in ("runners", "hydra_plugins") for path in (ROOT / room).rglob("*.py"))]
    users = [path.relative_to(ROOT).as_posix() for path in sources if PRIVATE.search(path.read_text())]
    assert users == ["runners/process/hydra_private.py"]


def test_the_command_line_is_read_as_hydra_reads_it() -> None:
    given = flags(["--config-dir=x", "-m", "a=1", "b=2"])
    assert (given["config_dir"], given["multirun"], given["overrides"]) == ("x", True, ["a=1", "b=2"])
    assert {"config_path", "config_name", "experimental_rerun"} <= given.keys()

    def refuse(message: str) -> None:
        raise KeyError(message)

    with pytest.raises(KeyError, match="--no-such-flag"):
        flags(["--no-such-flag"], refuse)  # pyright: ignore[reportArgumentType]


def test_overrides_have_keys_packages_and_values() -> None:
    group, deleted, sweep, plain = parsed(["recipe@finetune=digits", "~a.b", "x=b,c", "+y={a: 1}"])
    assert (group.key_or_group, group.package, chosen_names(group)) == ("recipe", "finetune", ["digits"])
    assert deleted.is_delete() and plain.is_add() and not sweep.is_add()
    assert chosen_names(sweep) == ["b", "c"] and plain.value() == {"a": 1}


def test_a_grid_is_every_combination_the_last_option_fastest() -> None:
    assert unfolded(["a=1,2", "b=x,y"]) == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]


def test_a_composed_job_is_what_hydra_composes(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "config.yaml").write_text(
        "defaults: [_self_, {g: one}]\na: 1\nc: ${g.b}\nnames: {g: '${hydra:runtime.choices.g}'}\n"
    )
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / "g" / f"{name}.yaml").write_text(f"b: {value}\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        make = composer(compose("config", return_hydra_config=True))
        for overrides in (("a=5", "g=two"), ("g.b=7",), ()):
            found, expected = make(overrides), compose("config", list(overrides))
            assert found.names.g == ("two" if "g=two" in overrides else "one")
            assert {key: found[key] for key in ("a", "g", "c")} == {key: expected[key] for key in ("a", "g", "c")}


def test_a_value_as_it_is_written() -> None:
    assert str(written(OmegaConf.create({"a": 1, "b": "${a}"}), "b")) == "${a}"
