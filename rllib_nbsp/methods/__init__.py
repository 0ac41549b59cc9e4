"""The methods by name. A new one of ours costs its file, a YAML and a test file; each file here registers its own."""

from __future__ import annotations

import importlib
import pkgutil

from rllib_nbsp.methods.base import METHODS, ContinualMethod, MethodSettings, register_method

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "ContinualMethod", "MethodSettings", "register_method"]
