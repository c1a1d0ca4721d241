"""Dataclasses from the mappings of a YAML file: typed, every unknown key refused, errors that name the entry."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zerograsp_edge.runtime.errors import ConfigError

T = TypeVar("T")
# Types that are read in a way of their own: (value, name of the entry) -> object.
Readers = Mapping[Any, Callable[[Any, str], Any]]

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def build(kind: type[T], entries: Any, where: str, readers: Readers | None = None) -> T:
    """A dataclass from a mapping of its fields; nested dataclasses from nested mappings.

    Args:
        kind: a dataclass whose fields are bool, int, float, str, Path, Literal, Optional, tuples and dataclasses.
        entries: as YAML gives them; None counts as an empty mapping.
        where: what messages call the mapping, such as `loop`.
        readers: how to read types that are not among these, or otherwise.

    Raises:
        ConfigError: an unknown or missing entry, or a value of the wrong type or out of range.
    """
    if entries is None:
        entries = {}
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {entries!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    if unknown := [str(name) for name in entries if name not in known]:
        raise ConfigError(f"{where}: unknown entry {', '.join(unknown)}; known are {', '.join(known)}")
    values = {n: _read(hints[n], v, f"{where}.{n}", readers or {}) for n, v in entries.items()}
    required = [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{where}: expected {', '.join(missing)}, missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _read(kind: Any, value: Any, where: str, readers: Readers) -> Any:
    if kind in readers:
        return readers[kind](value, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(kind, value, where, readers)
    if origin is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{where}: expected {' or '.join(map(str, get_args(kind)))}, got {value!r}")
        return value
    if origin is tuple:
        return _read_tuple(get_args(kind), value, where, readers)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where, readers)
    return _read_plain(kind, value, where)


def _read_optional(kind: Any, value: Any, where: str, readers: Readers) -> Any:
    kinds = [k for k in get_args(kind) if k is not type(None)]
    if value is None and len(kinds) < len(get_args(kind)):
        return None
    if len(kinds) != 1:
        raise TypeError(f"{where}: cannot choose between {kinds}")
    return _read(kinds[0], value, where, readers)


def _read_tuple(kinds: tuple[Any, ...], value: Any, where: str, readers: Readers) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: expected a list, got {value!r}")
    if len(kinds) == 2 and kinds[1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{where}: expected a list of {len(kinds)}, got {len(value)}: {value!r}")
    return tuple(
        _read(k, v, f"{where}[{i}]", readers) for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _read_plain(kind: Any, value: Any, where: str) -> Any:
    if kind not in _NAMES:
        raise TypeError(f"{where}: entries of type {kind} cannot be read from a file")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    hint = ""
    if kind is float and isinstance(value, str) and _is_number(value):
        hint = "; YAML takes 1e-3 as a text, write 1.0e-3"
    raise ConfigError(f"{where}: expected {_NAMES[kind]}, got {value!r}{hint}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
