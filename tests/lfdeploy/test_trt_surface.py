"""Our TensorRT code against what the packages really offer, 10.12 to 11.4 and RTX: names read from both, none
listed by hand.
"""

from __future__ import annotations

import pytest
from trt_surface import Function, functions, offered, ours, recorded

from lfdeploy.backends.trt import load

VERSIONS = ("10.12", "10.16", "11.0", "11.4", "rtx")


def lacking(function: Function, version: str, table: dict[str, frozenset[str]]) -> list[str]:
    """Names that a version has not, unless one the function asks for first is missing there too."""
    missing = {name for name in function.touched if version not in table.get(name, frozenset())}
    return [] if missing & function.guards else sorted(missing)


def test_the_table_is_that_of_today() -> None:
    wanted = set().union(*(function.touched for function in ours()))
    assert set(recorded()) == wanted, "run tests/lfdeploy/trt_surface.py, as its first lines say"
    assert len(wanted) > 50
    assert {v for versions in recorded().values() for v in versions} == set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_is_there_or_asked_for(version: str) -> None:
    table = recorded()
    assert {f.name: lacking(f, version, table) for f in ours() if lacking(f, version, table)} == {}


def test_the_installed_package_is_the_recorded_one() -> None:
    names, table = offered(load("tensorrt-rtx")), recorded()
    assert {name for name in table if name in names} == {
        name for name, versions in table.items() if "rtx" in versions
    }


def test_a_name_that_went_away_is_seen() -> None:
    """What broke other tools at 11: flags set without asking."""
    code = """
def bare(trt, config, builder):
    config.set_flag(trt.BuilderFlag.FP16)

def careful(trt, config):
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
"""
    bare, careful = functions(code)
    assert bare.touched == {"BuilderFlag", "BuilderFlag.FP16", "IBuilderConfig.set_flag"}
    table = dict.fromkeys(bare.touched, frozenset(VERSIONS)) | {
        "BuilderFlag.FP16": frozenset({"10.12", "10.16"})
    }
    assert lacking(bare, "10.12", table) == []
    assert lacking(bare, "11.0", table) == ["BuilderFlag.FP16"]
    assert lacking(careful, "11.0", table) == []
