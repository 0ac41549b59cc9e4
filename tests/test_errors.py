"""Errors of ours: every one of them tells another process what it tells its own."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path

import pytest

import analysis
import rllib_nbsp

ARGUMENTS = {
    "ConfigError": (["gamma: 2", "tau: 3"],),
    "FolderInUse": (Path("results"), "process 7"),
    "PreflightError": (["no GPU", "no room"], 4),
    "UnknownNameError": ("metric", "asd", ["asr", "fm"]),
}
"""Of the classes that are made from more than a message."""


def error_classes():
    modules = [
        importlib.import_module(info.name)
        for package in (rllib_nbsp, analysis)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not info.name.endswith("__main__")
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == module.__name__
    }
    return sorted(found, key=lambda one: one.__qualname__)


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_an_error_goes_to_another_process_whole(kind):
    error = kind(*ARGUMENTS.get(kind.__name__, ("what is wrong",)))
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is kind
    assert str(there) == str(error)
    assert vars(there) == vars(error)
