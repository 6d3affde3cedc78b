"""Reads chip files: YAML with `extends`, and errors that name file, line and key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from snncompile.chip.schema import number_paths, within
from snncompile.errors import CompileError, nearest

Record = TypeVar("Record", bound=BaseModel)
Location = Sequence[str | int]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where PyYAML was built with it."""

SCHEMA_HINT = "the schema is in hw_models/README.md"


@dataclass(frozen=True, eq=False)
class Document:
    """One YAML file: what it holds, and its nodes, which know their lines."""

    where: str
    data: dict[str, Any]
    text: str

    @cached_property
    def root(self) -> yaml.Node:
        return yaml.compose(self.text, Loader=yaml.SafeLoader) or yaml.MappingNode("", [])

    @classmethod
    def parse(cls, text: str, where: str, hint: str = SCHEMA_HINT) -> "Document":
        """Raises CompileError: not YAML, or not a table of keys."""
        try:
            data = yaml.load(text, Loader=LOADER)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise CompileError(f"{where}{line}", f"not YAML ({str(error).splitlines()[0]})") from error
        if not isinstance(data, dict):
            raise CompileError(where, "holds no keys", hint)
        return cls(where, data, text)

    def line(self, location: Location) -> tuple[int, int]:
        """How many steps of a location are in this file, and the line of the last of them."""
        node, line, found = self.root, self.root.start_mark.line, 0
        for step in location:
            child = _child(node, step)
            if child is None:
                break
            line, node, found = *child, found + 1
        return found, line + 1


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    """Line and value of a key, of an element by number, or of one by its name."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            name = _child(item, "name")
            if number == step or (name is not None and name[1].value == step):
                return item.start_mark.line, item
    return None


@dataclass(frozen=True, eq=False)
class Merged:
    """A chip file and those it extends, the nearest first, and what they say together."""

    documents: tuple[Document, ...]
    data: dict[str, Any]

    def place(self, location: Location) -> str:
        """`file:line` of a location, in the file that goes furthest into it; the nearest of several."""
        deepest = max(self.documents, key=lambda document: document.line(location)[0])
        return f"{deepest.where}:{deepest.line(location)[1]}"


def read_merged(document: Document, shipped: Mapping[str, Path], folder: Path | None) -> Merged:
    """Follows `extends`: the name of a shipped chip, or a path from the extending file's folder.

    Tables merge key by key, lists of named records by name; other lists and values are replaced. `sources` of the
    extending file come first. Raises CompileError: what is extended does not exist, or extends itself; a file without
    a name of its own, or that changes a number without giving its source.
    """
    chain, seen = [document], [document.where]
    while "extends" in chain[-1].data:
        current = chain[-1]
        base, folder = _base(current, shipped, folder)
        if base.where in seen:
            route = " -> ".join([*seen[seen.index(base.where) :], base.where])
            raise CompileError(f"{current.where}:{current.line(['extends'])[1]}", f"extends itself: {route}")
        chain.append(base)
        seen.append(base.where)
    data: dict[str, Any] = {}
    for layer in reversed(chain):
        own = {key: value for key, value in layer.data.items() if key != "extends"}
        if layer is not chain[-1]:
            _check_own(layer, own)
        data = _merge(data, own)
    return Merged(tuple(chain), data)


def _base(document: Document, shipped: Mapping[str, Path], folder: Path | None) -> tuple[Document, Path | None]:
    """What a document extends, and the folder that its own `extends` is relative to."""
    extends = document.data["extends"]
    where = f"{document.where}:{document.line(['extends'])[1]}"
    if not isinstance(extends, str):
        raise CompileError(where, f"extends is {extends!r}", "give the name of a chip or the path of a file")
    if extends in shipped:
        return Document.parse(shipped[extends].read_text(), f"{extends}.yaml"), None
    path = (folder or Path()) / extends
    if not path.is_file():
        raise CompileError(
            where, f"extends {extends!r}, which is neither a chip nor a file", nearest(extends, [*shipped])
        )
    return Document.parse(path.read_text(), str(path)), path.parent


def _check_own(document: Document, own: dict[str, Any]) -> None:
    if "name" not in own:
        raise CompileError(f"{document.where}:1", "has no name of its own", "add name: ...")
    sources = own.get("sources") or []
    covered = [key for source in sources if isinstance(source, dict) for key in source.get("covers", [])]
    for path in number_paths({key: value for key, value in own.items() if key != "sources"}):
        dotted = ".".join(path)
        if not any(within(dotted, key) for key in covered):
            where = f"{document.where}:{document.line(path)[1]}"
            raise CompileError(where, f"{dotted} has no source in this file", "cover it with an entry of sources")


def _merge(base: Any, own: Any, key: str = "") -> Any:
    if isinstance(base, dict) and isinstance(own, dict):
        return {**base, **{k: _merge(base.get(k), v, k) for k, v in own.items()}}
    if isinstance(base, list) and isinstance(own, list):
        if key == "sources":
            return [*own, *base]
        if own and all(isinstance(item, dict) and "name" in item for item in [*base, *own]):
            named = {item["name"]: item for item in base}
            return list(({**named, **{i["name"]: _merge(named.get(i["name"]), i) for i in own}}).values())
    return own


def validated(merged: Merged, kind: type[Record], hint: str = SCHEMA_HINT) -> Record:
    """The record that merged files say. Raises CompileError with every problem: file, line, key, what is allowed."""
    try:
        return kind.model_validate(merged.data)
    except ValidationError as error:
        problems = [_problem(merged, kind, dict(entry)) for entry in error.errors()]
    (where, first), *others = problems
    rest = [f"{place}: {problem}" for place, problem in others]
    raise CompileError(where, "; ".join([first, *rest]), hint)


def _problem(merged: Merged, kind: type[BaseModel], error: dict[str, Any]) -> tuple[str, str]:
    location = error["loc"]
    dotted = ".".join(map(str, location)) or "chip"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key; {nearest(str(location[-1]), _keys(kind, location[:-1]))}"
    elif error["type"] == "missing":
        message = "is missing"
    elif error["type"] == "value_error" and not location:
        # the message of a validator of the whole chip begins with the key it is about
        location = message.split()[0].split(".")
    return merged.place(location), f"{dotted}: {message}"


def _keys(kind: type[BaseModel], location: Location) -> list[str]:
    """Known keys of the record at a location."""
    for step in location:
        field = kind.model_fields.get(str(step))
        if field is not None:
            kind = next((t for t in _types(field.annotation) if issubclass(t, BaseModel)), kind)
    return sorted(kind.model_fields)


def _types(annotation: Any) -> list[type]:
    """All classes that an annotation names."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _types(argument)]
