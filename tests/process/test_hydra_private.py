"""Undocumented behaviour of Hydra 1.3 that is relied on, in one file and no other."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from runners.process.errors import ConfigError
from runners.process.hydra_private import chosen_names, composer, flags, parsed, unfolded, written
from support import ROOT, raises_line

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


@pytest.mark.parametrize(
    "value",
    [
        *("runs/epoch=9-step=10.pth", "runs/a(1).pth", "runs/a#b.pth", "a[1]", "a{b}", "a,b(", "a&b", "a;b", "it's", "f(x)"),
        *('say "x"', "'a"),
    ],
)
@pytest.mark.parametrize("key", ["weights", "data_root", "outputs", "store", "+model.x", "hydra.run.dir"])
def test_text_with_signs_is_named_with_the_quotes_that_it_needs(key: str, value: str) -> None:
    with raises_line(ConfigError, f"{key}={value}", "quotes") as caught:
        parsed(["seed=1", f"{key}={value}"])
    [given] = shlex.split(str(caught.value).rpartition("; try ")[2])
    assert parsed([given])[0].value() == value


@pytest.mark.parametrize(
    ("argument", "tokens"),
    [("foo", ("foo", "key=value", "--help")), ("ratio=[0.5", ("ratio=[0.5", "bracket")), ("a(b=3", ("a(b=3", "key=value"))],
)
def test_an_argument_that_sets_nothing_is_named(argument: str, tokens: tuple[str, ...]) -> None:
    with raises_line(ConfigError, *tokens):
        parsed([argument])


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
