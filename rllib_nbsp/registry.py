"""Things that are known by name, methods and suites, and the words for a name that is not."""

from __future__ import annotations

import difflib
import sys
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from rllib_nbsp.plugins import PluginError, import_plugin

T = TypeVar("T")
OURS = __name__.partition(".")[0]


class Registry(UserDict[str, T]):
    """Things of one kind by name; a name that is not among them is an error that says which are.

    Args:
        kind: what they are, as in "method".
        things: those that are there from the start.
    """

    def __init__(self, kind: str, things: dict[str, T]) -> None:
        self.kind = kind
        super().__init__(things)

    def __missing__(self, name: str) -> T:
        raise KeyError(f"unknown {self.kind} {name!r}: {unknown(name, self, f'{self.kind}s')}")


class OpenRegistry(Registry[T]):
    """A registry to which users bring things of their own.

    A name is one that was registered, one that an installed package declares as an entry point (of the group
    `rllib_nbsp.methods` or `rllib_nbsp.suites`), or `module:Name`, which is imported when it is asked for.

    Args:
        kind: what they are, as in "method".
        checked: what is kept of a thing that somebody brings. Raises a `PluginError` for what cannot be used.
    """

    def __init__(self, kind: str, checked: Callable[[Any], T]) -> None:
        super().__init__(kind, {})
        self.checked = checked
        self.references: dict[str, T] = {}
        self.installed: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=f"rllib_nbsp.{kind}s"):
            self.installed.setdefault(point.name, []).append(point)

    def __getitem__(self, name: str) -> T:
        thing = self.find(name)
        return self.__missing__(name) if thing is None else thing

    def __iter__(self) -> Iterator[str]:
        return iter({**self.data, **self.installed})

    def __len__(self) -> int:
        return len({**self.data, **self.installed})

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in self.installed

    def find(self, name: str) -> T | None:
        """The thing of a name, or None.

        Raises:
            PluginError: if there are two, or it cannot be imported or used.
        """
        if ":" in name and name not in self:
            return self._referenced(name)
        things = [self.data[name]] if name in self.data else []
        things += [self._referenced(point.value) for point in self.installed.get(name, ())]
        if len(places := {home(thing): None for thing in things}) > 1:
            raise self._two(name, *places)
        return things[0] if things else None

    def problem(self, name: str) -> str:
        """What is wrong with a name, as the end of a line; empty if nothing is."""
        try:
            if self.find(name) is not None:
                return ""
            return f"{unknown(name, self, f'{self.kind}s')}; of your own: those that the modules in plugins register"
        except PluginError as error:
            return str(error)

    def is_of_this_process(self, name: str) -> bool:
        """Whether it was registered by code that is neither this package nor declared by an installed one."""
        return name in self.data and name not in self.installed and not home(self.data[name]).startswith(f"{OURS}.")

    def register(self, name: str, thing: Any) -> T:
        """Add a thing under a name; the same one, from a module that is imported anew, takes its place.

        Raises:
            PluginError: if another one has that name, or it cannot be used.
        """
        kept = self._kept(thing)
        if not isinstance(name, str) or not name or ":" in name:
            raise PluginError(f"{self.kind} {home(thing)} is registered as {name!r}; allowed: text without a colon")
        if name in self.data and home(self.data[name]) != home(kept):
            raise self._two(name, home(self.data[name]), home(kept))
        self.data[name] = kept
        return kept

    def _referenced(self, reference: str) -> T:
        if reference not in self.references:
            module, _, path = reference.partition(":")
            thing: Any = import_plugin(module)
            for part in path.split("."):
                if not hasattr(thing, part):
                    raise PluginError(f"{module!r} has no {path!r}{did_you_mean(part, vars(thing))}")
                thing = getattr(thing, part)
            self.references[reference] = self._kept(thing)
        return self.references[reference]

    def _kept(self, thing: Any) -> T:
        try:
            return self.checked(thing)
        except PluginError:
            raise
        except Exception as error:  # whatever a user's class raises
            raise PluginError(f"{self.kind} {home(thing)} cannot be used: {type(error).__name__}: {error}") from error

    def _two(self, name: str, *places: str) -> PluginError:
        return PluginError(f"there are two {self.kind}s {name!r}, {' and '.join(places)}: rename one of them")


def home(thing: Any) -> str:
    """Where a class, or that of an object, can be imported from: `module:Name`.

    What a script defines is in the module that the script is to others.
    """
    cls = thing if isinstance(thing, type) else type(thing)
    module = cls.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return f"{module}:{cls.__qualname__}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known names as the end of an error line; empty if nothing is near."""
    close = difflib.get_close_matches(name, known, n=3)
    return "; did you mean " + " or ".join(repr(other) for other in close) + "?" if close else ""


def unknown(name: str, known: Iterable[str], kind: str = "keys") -> str:
    """The end of a line about an unknown name: the nearest known ones, and all."""
    known = sorted(known)
    return f"{did_you_mean(name, known).removeprefix('; ')} known {kind}: {', '.join(known) or 'none'}".strip()
