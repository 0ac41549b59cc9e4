"""A user's own modules: imported wherever a run is resolved, and sent to where they are not.

A plugin is a module that calls `register_method` or `register_suite` as it is imported. Every process of a run, the
trial, its Learners and rollout workers, on whatever machine, knows what a run's `plugins` register.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

INSTALLED = {"site-packages", "dist-packages"}
USER_ERRORS = (Exception, SystemExit)
"""What a user's code may end with: one that wants to end the program would else look like a process that was lost."""


def of_ray(error: BaseException) -> bool:
    """Whether it is an exit that Ray has asked this process for, as on a node that is being drained."""
    return hasattr(error, "ray_terminate_msg")


@contextlib.contextmanager
def exits_as_errors() -> Iterator[None]:
    """Where a remote process runs a user's code: an exit there is the code's error, not a process that was lost.

    Raises:
        RuntimeError: in place of SystemExit.
    """
    try:
        yield
    except SystemExit as error:
        if of_ray(error):
            raise
        raise RuntimeError(f"SystemExit: {error}") from error


class PluginError(ValueError):
    """A plugin, or what it registers, cannot be used; the message names it and says why."""


def import_plugin(name: str) -> ModuleType:
    """Import a module of a user's.

    Raises:
        PluginError: if there is none of that name, or it fails or exits.
    """
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except PluginError as error:
        raise PluginError(f"plugin {name!r}{_place(error)}: {error}") from error
    except BaseException as error:  # whatever a user's module raises, SystemExit included
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise PluginError(
                f"there is no module {missing!r}; a plugin is installed, or stands beside the study's file or on "
                "PYTHONPATH, and is named as in an import, without .py"
            ) from error
        does = "exits at its import" if isinstance(error, SystemExit) else "fails at its import"
        said = " ".join(str(error).split())
        raise PluginError(f"plugin {name!r} {does}{_place(error)}: {type(error).__name__}: {said}") from error


def _place(error: BaseException) -> str:
    """Where in a file of the user's an import failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames[1:] if not INSTALLED & {*Path(frame.filename).parts}]
    theirs = [frame for frame in own if Path(frame.filename).parent != Path(__file__).parent]
    return f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""


def import_plugins(names: Any) -> None:
    """Import the modules of a `plugins` key; what is no list of names is left for the key's own check.

    Raises:
        PluginError: for the first that cannot be imported.
    """
    for name in names if isinstance(names, list | tuple) else ():
        if isinstance(name, str):
            import_plugin(name)


def find_beside(folder: Path) -> None:
    """Let modules in a folder be imported, after all that is installed."""
    if (path := str(folder.absolute())) not in sys.path:
        sys.path.append(path)


def sources(names: Iterable[str]) -> list[str]:
    """The files and folders of modules that other processes do not have by themselves, once each.

    Those are modules that are neither installed nor Python's own: a module's file, or the folder of the package around
    it.

    Raises:
        PluginError: for a module that cannot be imported.
    """
    found: dict[str, None] = {}
    for top in dict.fromkeys(name.partition(".")[0] for name in names):
        module = import_plugin(top)
        paths = list(getattr(module, "__path__", ())) or [getattr(module, "__file__", None)]
        found |= {str(Path(path).absolute()): None for path in paths if path and not _is_installed(top, path)}
    return list(found)


def _is_installed(top: str, path: str) -> bool:
    return top in sys.stdlib_module_names or bool(INSTALLED & {*Path(path).parts})


def runtime_env(*modules: str) -> dict[str, Any]:
    """What `ray.init(address=..., runtime_env=...)` takes so that every machine of a cluster knows these modules.

    Args:
        modules: a user's own, beside this package, which goes too.

    Raises:
        PluginError: for a module that cannot be imported.
    """
    return {"py_modules": [str(Path(__file__).parent), *sources(modules)]}


def misfits(cls: type, base: type) -> list[str]:
    """What a subclass brings that cannot be called as its base's is, one line each: `on_visit_end(self, visit) ...`.

    Looked at are the constructor and all public methods, those too that a base leaves to its subclasses.
    """
    lines = []
    for name in dir(cls):
        theirs = inspect.getattr_static(cls, name)
        ours = inspect.getattr_static(base, name, None)
        if getattr(theirs, "__isabstractmethod__", False):
            lines.append(f"{name}{_signature(theirs)} is missing")
        elif (name == "__init__" or not name.startswith("_")) and _is_hook(ours) and theirs is not ours:
            if type(theirs) is not type(ours) or not _takes(theirs, ours):
                lines.append(f"{_words(theirs, name)} must be {_words(ours, name)}")
    return lines


def _is_hook(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, classmethod)


def _signature(member: Any) -> inspect.Signature:
    signature = inspect.signature(getattr(member, "__func__", member))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=signature.empty)


def _takes(theirs: Any, ours: Any) -> bool:
    """Whether it can be called with all that a base's is called with."""
    parameters = _signature(ours).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    given = [p for p in positional if p.default is p.empty]
    given_by_name = {name: p for name, p in by_name.items() if p.default is p.empty}
    try:
        _signature(theirs).bind(*positional, **by_name)
        _signature(theirs).bind(*given, **given_by_name)
    except TypeError:
        return False
    return True


def _words(member: Any, name: str) -> str:
    if not _is_hook(member):
        return f"{name}, which is {type(member).__name__},"
    return f"{'classmethod ' if isinstance(member, classmethod) else ''}{name}{_signature(member)}"
