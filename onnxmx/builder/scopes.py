"""Scopes: what the parts of a graph under construction are called, where they were written, what region they are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from onnxmx.builder.source import user_line
from onnxmx.errors import GraphError


@dataclass(frozen=True)
class _Scope:
    path: str
    source: str | None
    what: str


class Scopes:
    """The names and places of a graph under construction, the innermost scope last."""

    def __init__(self) -> None:
        self._scopes: list[_Scope] = []
        self._taken: Counter[str] = Counter()
        self._layers: dict[int, tuple[str, object]] = {}
        self._region: str | None = None
        self._regions = 0
        # The paths of layers and parameters met so far. It starts empty when a layer is called again, so that what
        # is inside gets the names it had the first time, and with them the same parameters.
        self._met: set[str] = set()

    @contextmanager
    def scope(
        self, name: str, *, source: str | None = None, what: str | None = None, absolute: bool = False
    ) -> Iterator[str]:
        """Name what is added inside after `name`. absolute: `name` is a whole path and not below the current scope."""
        path = name if absolute else self._path(name)
        self._scopes.append(_Scope(path, source, what or (repr(path) if path else "the graph")))
        try:
            yield path
        finally:
            self._scopes.pop()

    @contextmanager
    def layer_scope(
        self, layer: object, name: str, *, source: str | None, kind: str, given: bool = False
    ) -> Iterator[str]:
        """The scope of one layer. A layer met again keeps its path, and so shares its parameters.

        given: the user chose the name, so that another layer of that name is a mistake; else it is counted up.
        """
        again = id(layer) in self._layers
        path = self._layers[id(layer)][0] if again else self._layer_path(name, given, source, kind)
        self._layers[id(layer)] = (path, layer)  # holds the layer, so that its id stays its own
        met, self._met = self._met, set() if again else self._met
        try:
            with self.scope(path, source=source, what=f"{kind} {path!r}" if path else kind, absolute=True):
                yield path
        finally:
            self._met = met

    def _layer_path(self, name: str, given: bool, source: str | None, kind: str) -> str:
        path = self._path(name)
        if not isinstance(name, str) or path == "const" or path.startswith("const."):
            raise GraphError(
                f"{kind} expected a name that is text and not 'const', as constants are called; found {name!r}",
                at=source or user_line(),
                mend="Name it otherwise.",
            )
        if given and f"{path}/" in self._met:
            raise GraphError(
                f"{kind} expected a name of its own; found another layer named {path!r}",
                at=source or user_line(),
                mend="Rename one of the two. To share parameters, call one layer twice.",
            )
        # A layer and a value may share a name; the slash keeps the two apart in one table.
        path, _, count = self._meet(f"{path}/").partition("/")
        return path + count

    def new_region(self, path: str) -> str:
        """A name for `checkpoint` that no other region has: a layer that is called twice is two regions."""
        self._regions += 1
        return f"{self._regions}: {path}"

    @contextmanager
    def checkpoint(self, region: str | None) -> Iterator[None]:
        """Mark what is added inside as one region that a backward pass computes again; None: as what is kept."""
        former, self._region = self._region, region
        try:
            yield
        finally:
            self._region = former

    def source(self) -> str | None:
        """The user's line for what is added now: that of the innermost scope where it has one, else the caller's."""
        if self._scopes and self._scopes[-1].source:
            return self._scopes[-1].source
        return user_line()

    def what(self) -> str:
        """What is being built, for an error: `Dense 'head'`."""
        return self._scopes[-1].what if self._scopes else "the graph"

    def _path(self, name: str) -> str:
        parent = self._scopes[-1].path if self._scopes else ""
        return f"{parent}.{name}" if parent else name

    def _meet(self, path: str) -> str:
        """`path`, or the first of `path_1`, `path_2` ... that was not met; it is now."""
        free, count = path, 0
        while free in self._met:
            count += 1
            free = f"{path}_{count}"
        self._met.add(free)
        return free

    def _claim(self, name: str) -> str:
        """`name`, or `name_1`, `name_2` ... where a value has it already."""
        while True:
            count = self._taken[name]
            self._taken[name] += 1
            if count == 0:
                return name
            name = f"{name}_{count}"
