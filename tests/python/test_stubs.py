"""The typed stubs are those of the module."""

import importlib.util
import pathlib

import bessemer as bs
import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "python" / "native" / "stubs.py"


@pytest.fixture
def stubs():
    spec = importlib.util.spec_from_file_location("stubs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stubs_are_current(stubs):
    for name, text in stubs.stubs().items():
        assert stubs.read(name) == text, f"{name}: run python/native/stubs.py"


def test_stubs_are_python(stubs):
    for name, text in stubs.stubs().items():
        compile(text, name, "exec")


def test_stubs_name_everything(stubs):
    package = stubs.stubs()["__init__.pyi"]
    missing = [n for n in bs.__all__ if f" {n}\n" not in package and f"\n{n}: " not in package]
    assert missing == []
    tensor = stubs.stubs()["_native.pyi"].split("class Tensor:")[1].split("\n\n")[0]
    public = [n for n in vars(bs.Tensor) if not n.startswith("_")]
    assert [n for n in public if f" {n}(" not in tensor and f" {n}: " not in tensor] == []
