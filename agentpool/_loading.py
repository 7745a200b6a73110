"""Functions that a manifest names as `module:name`, from a module file beside it.

Everything here blocks on the disk and runs the module's code: it belongs to the start of a program.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_lock = threading.RLock()  # importing changes sys.path and sys.modules for a moment


class LoadProblem(Exception):
    """Why a `module:name` could not be loaded, and how to fix it."""

    def __init__(self, problem: str, fix: str) -> None:
        self.problem = problem
        self.fix = fix
        super().__init__(problem, fix)

    def __str__(self) -> str:
        return f"{self.problem}. {self.fix}"


def load_object(
    spec: str, base: Path | str | None, *, beside: str = "the manifest"
) -> tuple[Any, ModuleType]:
    """Import what a file names as `module:name`, whatever it is; `load_callable` tells more.

    Raises:
      LoadProblem: as there.
    """
    module_name, name = _split(spec, beside)
    module = _load_module(module_name, None if base is None else Path(base), beside)
    if not hasattr(module, name):
        raise LoadProblem(f"the module {module_name!r} has no {name!r}", _known(module, name))
    return getattr(module, name), module


def load_callable(
    spec: str, base: Path | str | None, *, beside: str = "the manifest"
) -> tuple[Callable[..., Any], ModuleType]:
    """Import what a file names as `module:name`, and return it with its module.

    `checks:check_links` is the function `check_links` of `checks.py` beside the manifest, `a.b:f` of
    `a/b.py`. Where there is no such file, an installed module of that name is taken. A file is
    imported once for each of its versions, under a name of its own, so that two manifests may each
    have their `checks.py`. It can import its neighbours while it is being imported.

    Args:
      spec: `module:name`.
      base: the file's directory; None looks at installed modules only.
      beside: what to call the file in problems.

    Raises:
      LoadProblem: if the text, the module or the function is not as it should be, or the module
        fails to import.
    """
    function, module = load_object(spec, base, beside=beside)
    if not callable(function):
        module_name, name = _split(spec, beside)
        kind = type(function).__name__
        raise LoadProblem(f"{name!r} of the module {module_name!r} is a {kind}", "Name a function")
    return function, module


def _split(spec: str, beside: str) -> tuple[str, str]:
    module_name, colon, name = spec.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise LoadProblem(
            f"{spec!r} does not name a function",
            f'Write "module:function", such as "checks:check_links" for one of checks.py beside {beside}',
        )
    return module_name, name


_MOST_SHOWN = 40  # names in a problem


def _known(module: ModuleType, name: str) -> str:
    own = [n for n, value in vars(module).items() if not n.startswith("_") and _is_own(value, module)]
    own += [n for n in getattr(module, "__all__", ()) if n not in own]  # some load what they name when asked
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, own, 1)
    if close:
        return f"Did you mean {close[0]!r}?"
    more = ", ..." if len(own) > _MOST_SHOWN else ""
    return f"It has: {', '.join(own[:_MOST_SHOWN])}{more}" if own else "It defines no function at all"


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _load_module(name: str, base: Path | None, beside: str) -> ModuleType:
    path = _find(name, base)
    if path is not None:
        return _load_file(path, name, base or path.parent)
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
            where = "" if base is None else f" in {base}"
            fix = f"Put {name.replace('.', '/')}.py beside {beside}, or install the module"
            raise LoadProblem(f"there is no module {name!r}{where}", fix) from None
        raise _import_failed(name, error) from error


def _find(name: str, base: Path | None) -> Path | None:
    if base is None:
        return None
    stem = base.joinpath(*name.split("."))
    candidates = (stem.with_name(stem.name + ".py"), stem / "__init__.py")
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _load_file(path: Path, name: str, base: Path) -> ModuleType:
    version = _version_of(path)
    unique = f"_agentpool_{hashlib.sha256(version.encode()).hexdigest()[:16]}_{name.replace('.', '_')}"
    with _lock:
        known = sys.modules.get(unique) or _known_member(base.resolve(), name, path, version)
        if known is None:
            return _execute(path, name, unique, base.resolve())
        sys.modules[unique] = known
        return known


def _version_of(path: Path) -> str:
    stat = path.stat()
    return f"{path}:{stat.st_mtime_ns}:{stat.st_size}"


def _execute(path: Path, name: str, unique: str, directory: Path) -> ModuleType:
    package = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _FreshLoader(unique, str(path))
    spec = importlib.util.spec_from_file_location(
        unique, path, loader=loader, submodule_search_locations=package
    )
    assert spec is not None  # it has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and type hints look their module up
    try:
        with _neighbours(directory, name, module):
            loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[unique]
        raise _import_failed(name, error) from error
    return module


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source each time: cached bytecode is told apart by whole seconds only."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


# For each directory the modules that were imported from it, by the names that they have there, with the
# versions of their files. So two functions of one directory share the classes of a third module.
_families: dict[str, dict[str, tuple[str, ModuleType]]] = {}


def _known_member(directory: Path, name: str, path: Path, version: str) -> ModuleType | None:
    known_version, module = _families.get(str(directory), {}).get(name, ("", None))
    if known_version:
        return module if known_version == version else None
    everybodys = sys.modules.get(name) if _is_on_path(str(directory)) else None
    file = getattr(everybodys, "__file__", None)
    return everybodys if file and os.path.realpath(file) == str(path) else None


BESIDE_MARK = "|"
"""Between the directory and the name of a module that was loaded from a file, in a reference to it."""


def member_name(module: str, path: str, thing: object) -> str | None:
    """Return what finds the module of a thing again, if it was loaded from beside some file.

    Args:
      module: what the thing calls its module; that is not its name for everybody.
      path: where in the module it stands, such as `Class.Inner`.
    """
    with _lock:
        for directory, family in _families.items():
            for name, (_, member) in family.items():
                if member.__name__ != module:
                    continue
                found: Any = member
                for part in path.split("."):
                    found = getattr(found, part, None)
                if found is thing:
                    return f"{directory}{BESIDE_MARK}{name}"
    return None


def directory_of(spec: str, thing: object) -> str | None:
    """Return the directory from which something was loaded as `module:name`; None for an installed module."""
    module_name, _, name = spec.partition(":")
    with _lock:
        for directory, family in _families.items():
            _, module = family.get(module_name, ("", None))
            if module is not None and getattr(module, name, None) is thing:
                return directory
    return None


def named_member(name: str) -> ModuleType:
    """Return the module that `member_name` named, as its file is now.

    Only of a directory from which this process has imported something: a text from elsewhere does not decide
    which files are run.

    Raises:
      LoadProblem: if it is not there any more, or fails to import.
    """
    directory, _, module = name.rpartition(BESIDE_MARK)
    with _lock:
        if directory not in _families:
            fix = "Load the fleet or the manifest first that names a function of it"
            raise LoadProblem(f"nothing was imported from {directory} yet", fix)
        version, known = _families.get(directory, {}).get(module, ("", None))
        if known is not None and _version_of_module(known) == version:
            return known
        return _load_module(module, Path(directory), "the file of the fleet or manifest")


@contextmanager
def _neighbours(base: Path, own_name: str, module: ModuleType) -> Iterator[None]:
    """Let a module import those beside it, and take their names out of `sys.modules` afterwards.

    A second manifest's `helpers.py` would otherwise be mistaken for the first one's. Where the
    directory is on `sys.path` already, its modules are everybody's and stay.
    """
    directory = str(base)
    stays = _is_on_path(directory)
    family = _unchanged(_families.get(directory, {}))
    inside = {**family, own_name: module}
    outside = {name: sys.modules[name] for name in inside if name in sys.modules}
    sys.modules.update(inside)
    before = set(sys.modules)
    if not stays:
        sys.path.insert(0, directory)
    try:
        yield
        family[own_name] = module
    finally:
        if not stays:
            sys.path.remove(directory)
        new = {name.partition(".")[0] for name in set(sys.modules) - before} - before
        found_here = {name for name in new if _lies_in(sys.modules.get(name), directory)}
        grown = [name for name in sys.modules if name.partition(".")[0] in found_here]
        family.update((name, sys.modules[name]) for name in grown)
        _families[directory] = _with_versions(family)
        for name in {*inside, *grown}:
            if name in outside:
                sys.modules[name] = outside[name]
            elif not stays or name not in family:
                del sys.modules[name]


def _is_on_path(directory: str) -> bool:
    return any(os.path.realpath(entry) == directory for entry in sys.path)


def _unchanged(family: Mapping[str, tuple[str, ModuleType]]) -> dict[str, ModuleType]:
    return {
        name: module for name, (version, module) in family.items() if _version_of_module(module) == version
    }


def _with_versions(family: Mapping[str, ModuleType]) -> dict[str, tuple[str, ModuleType]]:
    return {name: (_version_of_module(module), module) for name, module in family.items()}


def _version_of_module(module: ModuleType) -> str:
    """Return the version of a module's file; empty if it has none, or the file has gone."""
    file = getattr(module, "__file__", None)
    try:
        return _version_of(Path(file).resolve()) if file else ""
    except OSError:
        return ""


def _lies_in(module: ModuleType | None, directory: str) -> bool:
    file = getattr(module, "__file__", None)
    if not file:
        return False
    parent = os.path.dirname(os.path.realpath(file))
    return directory in (parent, os.path.dirname(parent) if os.path.basename(file) == "__init__.py" else None)


def _import_failed(name: str, error: BaseException) -> LoadProblem:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    last = traceback.format_exception_only(error)[-1].strip()
    return LoadProblem(f"the module {name!r} failed to import: {last}{where}", "Fix the module")
