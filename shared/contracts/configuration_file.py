"""A configuration file: YAML 1.2 as text in, data and where each part of it stands out. Pure.

Scalars are what YAML's core schema says: `no`, `on` and `22:00` are texts. What could make a small file a
large one, or hide a part of it, is refused: many aliases, depth, and the same key twice.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

SIZE_MAX = 16 * 1024 * 1024
"""Bytes."""
PARTS_MAX = 2_000_000
"""Values that a file may have, those of aliases counted wherever they are used."""
DEPTH_MAX = 50

Path = tuple[str | int, ...]


class Position(NamedTuple):
    """Where a part begins; both from 1."""

    line: int
    column: int


class FileFault(ValueError):
    """What is wrong with a file: `registry.yaml:7:12: services.storage.every: …`, a line for each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass
class Document:
    """`data`: of dicts, lists, texts, numbers, booleans and None."""

    file: str
    data: Any = None
    values: dict[Path, Position] = field(default_factory=dict)
    """Where each part begins."""
    keys: dict[Path, Position] = field(default_factory=dict)
    """Where the key of each part begins, of those that have one."""

    def fault(self, path: Iterable[Any], why: str, *, of_key: bool = False) -> str:
        """What is wrong with a part, in a line. Of a part that there is not, the one stands there that it
        would be in."""
        here: Path = ()
        rest = list(path)
        while rest and ((*here, rest[0]) in self.values or isinstance(rest[0], int)):
            part = rest.pop(0)  # one that stands without its list counts as the first of it
            here = (*here, part) if (*here, part) in self.values else here
        found = self.keys if of_key and here in self.keys else self.values
        line, column = found.get(here, Position(1, 1))
        missing = [str(part) for part in rest[:1] if not isinstance(part, int)]
        return f"{self.file}:{line}:{column}: {written((*here, *missing))}: {why}"


def written(path: Iterable[Any]) -> str:
    """A path as people read it: `services.storage.every`, `routes[0].to`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the file"


def read(text: str | bytes, file: str = "registry.yaml") -> Document:
    """The file's content. FileFault says where it cannot be read, and why. `file`: its name."""
    import yaml

    try:
        given = text.decode() if isinstance(text, bytes) else text
        too_large = len(text) > SIZE_MAX
    except UnicodeDecodeError as error:
        raise FileFault([f"{file}:1:1: the file: byte {error.start} is no UTF-8"]) from None
    if too_large:
        raise FileFault([f"{file}:1:1: the file: more than {SIZE_MAX // 1024**2} MiB"])
    document = Document(file)
    try:
        _Reader(document).read(yaml.parse(given, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise FileFault([f"{file}:{line}:{column}: the file: {why or error}{_hint(str(why))}"]) from None
    return document


def _hint(why: str) -> str:
    return "; put what has signs in it in quotes" if re.search("alias|cannot start any token", why) else ""


@dataclass
class _Open:
    """A sequence or mapping whose end has not come."""

    path: Path
    made: Any
    anchor: str | None
    key: Any = None
    has_key: bool = False


class _Reader:
    """Builds the data from the parser's events, without recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        """Of each anchor its value, and how many parts that has."""
        self._count = 0
        self._counted: list[int] = []

    def read(self, events: Iterator[Any]) -> None:
        import yaml

        documents = 0
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._add(event, scalar(event.value, is_plain=event.implicit[0]), event.anchor)
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                self._begin(event, [] if isinstance(event, yaml.SequenceStartEvent) else {})
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                self._end()
            elif isinstance(event, yaml.AliasEvent):
                self._repeat(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._fault(event, (), "only one document is expected")

    def _fault(self, event: Any, path: Path, why: str) -> FileFault:
        mark = event.start_mark
        return FileFault([f"{self._document.file}:{mark.line + 1}:{mark.column + 1}: {written(path)}: {why}"])

    def _next_path(self, event: Any) -> Path:
        """Where the next value goes; () for the whole."""
        if not self._open:
            return ()
        inside = self._open[-1]
        return (*inside.path, len(inside.made) if isinstance(inside.made, list) else inside.key)

    def _is_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].made, dict) and not self._open[-1].has_key

    def _tally(self, event: Any, count: int = 1) -> None:
        self._count += count
        if self._count > PARTS_MAX:
            raise self._fault(event, (), f"it has more than {PARTS_MAX} values")

    def _add(self, event: Any, value: Any, anchor: str | None, *, is_begun: bool = False) -> None:
        if self._is_key():
            self._take_key(event, value)
            if anchor:
                self._anchors[anchor] = value, 1
            return
        path = self._next_path(event)
        self._tally(event)
        mark = event.start_mark
        self._document.values[path] = Position(mark.line + 1, mark.column + 1)
        if anchor and not is_begun:
            self._anchors[anchor] = value, 1
        self._place(value)

    def _place(self, value: Any) -> None:
        if not self._open:
            self._document.data = value
        elif isinstance(inside := self._open[-1].made, list):
            inside.append(value)
        else:
            inside[self._open[-1].key] = value
            self._open[-1].has_key = False

    def _take_key(self, event: Any, value: Any) -> None:
        inside = self._open[-1]
        if not isinstance(value, str):
            if isinstance(value, dict | list):
                raise self._fault(event, inside.path, "a key must be a text")
            value = getattr(event, "value", str(value))  # as it is written: a service may be called 42
        path = (*inside.path, value)
        if value == "<<":
            raise self._fault(event, inside.path, "<< is of YAML 1.1; use a template")
        if value in inside.made:
            line = self._document.keys[path].line
            raise self._fault(event, path, f"it is there already, in line {line}")
        mark = event.start_mark
        self._document.keys[path] = Position(mark.line + 1, mark.column + 1)
        inside.key, inside.has_key = value, True

    def _begin(self, event: Any, made: Any) -> None:
        if self._is_key():
            raise self._fault(event, self._open[-1].path, "a key must be a text")
        if len(self._open) >= DEPTH_MAX:
            raise self._fault(event, (), f"it is deeper than {DEPTH_MAX} levels")
        path = self._next_path(event)
        self._add(event, made, event.anchor, is_begun=True)
        self._open.append(_Open(path, made, event.anchor))
        self._counted.append(self._count)

    def _end(self) -> None:
        ended, begun = self._open.pop(), self._counted.pop()
        if ended.anchor:
            self._anchors[ended.anchor] = ended.made, self._count - begun + 1

    def _repeat(self, event: Any) -> None:
        found = self._anchors.get(event.anchor)
        if found is None:
            why = f"there is no &{event.anchor} before{_hint('alias')}"
            raise self._fault(event, self._next_path(event), why)
        value, count = found
        if self._is_key():
            self._take_key(event, value)
            return
        path = self._next_path(event)
        self._tally(event, count)
        mark = event.start_mark
        self._document.values[path] = Position(mark.line + 1, mark.column + 1)
        self._place(value)


_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}|0o[0-7]{1,4000}|0x[0-9a-fA-F]{1,4000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def scalar(text: str, *, is_plain: bool) -> Any:
    """What YAML's core schema makes of a scalar. `is_plain`: it has neither quotes nor a tag."""
    if not is_plain:
        return text
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text


def write(data: Any) -> str:
    """Data as a file that `read` reads back the same, and older readers of YAML too."""
    import yaml

    return str(yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=100))


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent_text(dumper: Any, text: str) -> Any:
        style = "|" if "\n" in text else None
        if not isinstance(scalar(text, is_plain=True), str):
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent_text)
    return Dumper
