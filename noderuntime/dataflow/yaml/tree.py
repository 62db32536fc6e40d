"""Turns YAML text into a small tree in which every part knows its line and column. Executes nothing.

PyYAML delivers parser events one by one (with libyaml if available), and this module builds the tree, because its
bounds must hold *while* reading. (Rejected: PyYAML's composer. It recurses, expands aliases without limit and accepts
duplicate keys.)

- Bounded: size of the text, nesting, number of values and of characters after expansion of aliases and
  variables. An alias costs what it repeats, so a bomb is refused at the alias that goes too far. The count of
  levels is ours: `parser_events` finds it also where the scanner, which reads ahead, gives up first.
- `$VAR`, `${VAR}`, `${VAR:-default}` and `$$` are expanded in every scalar value, as docker compose does;
  keys are not.
- `<<` merges mappings, as in YAML 1.1. One document a file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from noderuntime.dataflow.model import Place
from noderuntime.dataflow.yaml.nodes import Fields, Items, Scalar, Tree, describe, fail, scalar
from noderuntime.errors import DataflowError

TEXT_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 64
VALUES_MAX = 50_000
CHARACTERS_MAX = 4 * TEXT_BYTES_MAX

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {
    f"tag:yaml.org,2002:{name}": name
    for name in ("str", "int", "float", "bool", "null", "binary", "map", "seq")
}
_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")


class TooDeep(Exception):
    """A text is nested deeper than was allowed; `place` is where the level begins that is too much."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


def parser_events(text: str, levels_max: int) -> Iterator[Any]:
    """PyYAML's parser events for `text`. Raises TooDeep where it goes beyond `levels_max`, and yaml.YAMLError.

    The scanner reads up to 1,024 characters ahead, and a release may have a bound of its own for nesting, so it can
    fail before the event has come that is too deep for us. What it has read up to there is then counted again, as a
    text that ends there: the levels in it come as events.
    """
    try:
        yield from _counted(text, levels_max)
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            with contextlib.suppress(yaml.YAMLError):
                for _ in _counted(text[: error.problem_mark.index], levels_max):
                    pass
        raise


def _counted(text: str, levels_max: int) -> Iterator[Any]:
    levels = 0
    for event in yaml.parse(text, Loader=_LOADER):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > levels_max:
            raise TooDeep(place_of(event.start_mark))
        yield event


def place_of(mark: Any) -> Place:
    """Line and column, from 1, of one of PyYAML's marks."""
    return Place(mark.line + 1, mark.column + 1)


def read(data: bytes | str, env: Mapping[str, str] | None) -> Tree:
    """The tree of the one document in `data`.

    `env` is used for the expansion of variables; None: nothing is expanded. Raises DataflowError without a
    file, with line and column.
    """
    text = _decode(data)
    try:
        return _Builder(text, env).build()
    except TooDeep as error:
        raise _too_deep(error.place) from None
    except yaml.MarkedYAMLError as error:
        raise syntax_error(error, text) from None
    except yaml.reader.ReaderError as error:
        place = _place_at(text, error.position)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise fail(
            place, f"the character U+{code:04X} is not allowed in YAML", 'Remove it, or write it as "\\x..".'
        ) from None
    except yaml.YAMLError as error:
        raise fail(Place(), f"this is not YAML: {error}") from None


class _Builder:
    """Builds the tree from parser events, with a stack of its own instead of recursion."""

    def __init__(self, text: str, env: Mapping[str, str] | None) -> None:
        self.events = parser_events(text, DEPTH_MAX)
        self.env = env
        self.anchors: dict[str, Tree | None] = {}  # None while the anchored thing is still open
        self.values = 0
        self.characters = 0

    def build(self) -> Tree:
        stack: list[
            tuple[Items | Fields, list[Tree], str | None]
        ] = []  # what is open, its parts so far, its anchor
        root: Tree | None = None
        for event in self.events:
            place = place_of(event.start_mark)
            done: Tree
            anchor: str | None = None
            if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                mapping = isinstance(event, yaml.MappingStartEvent)
                self._tag(event, place, "map" if mapping else "seq")
                self._count(1, 1, place)
                if event.anchor:
                    self.anchors[event.anchor] = None
                flow = bool(event.flow_style)
                stack.append(
                    (Fields({}, flow, place) if mapping else Items([], flow, place), [], event.anchor)
                )
                continue
            if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                opened, parts, anchor = stack.pop()
                done = self._close(opened, parts)
            elif isinstance(event, yaml.ScalarEvent):
                is_key = bool(stack) and isinstance(stack[-1][0], Fields) and len(stack[-1][1]) % 2 == 0
                done = self._scalar(event, place, is_key)
                anchor = event.anchor
            elif isinstance(event, yaml.AliasEvent):
                done = self._alias(str(event.anchor), place, len(stack))
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise fail(
                    place,
                    "a second YAML document begins here",
                    "A dataflow file is one document: remove the `---`.",
                )
            else:
                continue
            if anchor:
                self.anchors[anchor] = done
            if stack:
                stack[-1][1].append(done)
            else:
                root = done
        if root is None:
            raise fail(
                Place(1, 1),
                "the file is empty",
                "A dataflow begins with `nodes:` and a list of nodes below it.",
            )
        return root

    def _count(self, values: int, characters: int, place: Place) -> None:
        self.values += values
        self.characters += characters
        if self.values > VALUES_MAX or self.characters > CHARACTERS_MAX:
            raise fail(
                place,
                f"the file holds more than {VALUES_MAX} values or {CHARACTERS_MAX} characters "
                "once aliases (`*name`) and variables are expanded",
                "Split the dataflow, or move large data into files that the nodes read.",
            )

    @staticmethod
    def _tag(event: Any, place: Place, allowed: str) -> str:
        if event.tag is None or event.tag == "!":
            return ""
        name = _TAGS.get(event.tag)
        fits = name == allowed if allowed else name not in (None, "map", "seq")
        if name is None or not fits:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            raise fail(
                place,
                f"the tag `{shown}` is not allowed here",
                "Loading a dataflow builds plain values only.",
            )
        return name

    def _scalar(self, event: Any, place: Place, is_key: bool) -> Scalar:
        style = event.style or ""
        made = Scalar(event.value, not style and event.tag != "!", self._tag(event, place, ""), place)
        self._count(1, 1 + len(made.text), place)
        if not is_key and self.env is not None and "$" in made.text:
            made.expanded = True
            # A scalar on one line is its own text (after the quote): the column of the `$` can be told.
            simple = event.start_mark.line == event.end_mark.line and not event.anchor and not event.tag
            made.text = self._expand(made.text, place, len(style) if simple else None)
        made.characters = 1 + len(made.text)
        return made

    def _expand(self, text: str, place: Place, shift: int | None) -> str:
        env = self.env or {}

        def value(match: re.Match[str]) -> str:
            dollar, bare, braced, default = match.groups()
            at = place if shift is None else Place(place.line, place.column + shift + match.start())
            if dollar:
                return "$"
            name = bare or braced
            if name is None:
                raise fail(
                    at,
                    f"a `$` that begins no variable, in {text[:60]!r}",
                    "Write `$$` for a dollar sign, or $VAR, ${VAR}, ${VAR:-default}.",
                )
            found = env.get(name)
            if default is not None and not found:
                found = self._expand(default, at, None)
            if found is None:
                raise fail(
                    at,
                    f"the variable {name} is not set",
                    f"Set it (`{name}=... noderuntime ...` or `--env {name}=...`), "
                    f"or give a default: ${{{name}:-default}}. A dollar sign is written `$$`.",
                )
            if not _is_unicode(found):
                raise fail(at, f"the value of the variable {name} is not UTF-8 text", "Set it to a text.")
            self._count(0, len(found), at)
            return found

        return _VARIABLE.sub(value, text)

    def _alias(self, name: str, place: Place, depth: int) -> Tree:
        if name not in self.anchors:
            raise fail(
                place,
                f"the alias `*{name[:60]}` has no anchor",
                f"Write `&{name[:60]}` before the value that it repeats.",
            )
        found = self.anchors[name]
        if found is None:
            raise fail(
                place,
                f"the alias `*{name[:60]}` is inside of what it repeats",
                "A dataflow cannot contain itself.",
            )
        if depth + found.height > DEPTH_MAX:
            raise _too_deep(place)
        self._count(found.values, found.characters, place)
        return found

    def _close(self, opened: Items | Fields, parts: list[Tree]) -> Tree:
        if isinstance(opened, Items):
            opened.items = parts
        else:
            merged: list[Tree] = []
            for key, value in zip(parts[::2], parts[1::2], strict=True):
                if not isinstance(key, Scalar):
                    raise fail(
                        key.place,
                        f"{describe(key)} as the name of a field",
                        "Names are texts; quote one that holds `{` or `[`.",
                    )
                if key.text == "<<" and key.plain:
                    merged.append(value)
                    continue
                if not isinstance(scalar(key), str):
                    raise fail(
                        key.place,
                        f"{describe(key)} as the name of a field",
                        f'Names are texts: write "{key.text}".',
                    )
                if key.text in opened.fields:
                    first = opened.fields[key.text][0].place.line
                    raise fail(
                        key.place,
                        f"the field `{key.text[:60]}` is given twice; first in line {first}",
                        "Keep one of them.",
                    )
                opened.fields[key.text] = (key, value)
            for value in merged:
                self._merge(opened, value)
        opened.values += sum(part.values for part in parts)
        opened.characters += sum(part.characters for part in parts)
        opened.height += max((part.height for part in parts), default=0)
        return opened

    def _merge(self, into: Fields, value: Tree) -> None:
        for source in value.items if isinstance(value, Items) else [value]:
            if not isinstance(source, Fields):
                raise fail(
                    source.place,
                    f"`<<` merges mappings, not {describe(source)}",
                    "Write `<<: *name` of an anchored mapping.",
                )
            for name, pair in source.fields.items():
                into.fields.setdefault(name, pair)


def _too_deep(place: Place) -> DataflowError:
    what = f"more than {DEPTH_MAX} levels of nesting"
    return fail(place, what, "A dataflow needs about six; is a bracket unclosed?")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place_at(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _decode(data: bytes | str) -> str:
    if len(data) > TEXT_BYTES_MAX:
        start = data[:TEXT_BYTES_MAX]
        text = start.decode(errors="replace") if isinstance(start, bytes) else start
        what = f"the file is longer than {TEXT_BYTES_MAX} bytes, the most that a dataflow file may have"
        raise fail(_place_at(text, len(text)), what, "Move large data into files that the nodes read.")
    if isinstance(data, str):
        if not _is_unicode(data):
            raise fail(Place(1, 1), "the text holds half characters (surrogates)", "Save the file as UTF-8.")
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        what = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise fail(_place_at(before, len(before)), what, "Save the file as UTF-8 text.") from None


def syntax_error(error: yaml.MarkedYAMLError, text: str) -> DataflowError:
    """What is wrong with `text`, where, and a hint.

    PyYAML's words, with those of its messages that puzzle people put into plainer ones.
    """
    problem = str(error.problem or "")
    context = str(error.context or "")
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place()
    opened = (
        Place(error.context_mark.line + 1, error.context_mark.column + 1) if error.context_mark else place
    )
    lines = text.splitlines()
    rest = lines[place.line - 1][place.column - 1 :] if 0 < place.line <= len(lines) else ""
    if rest.startswith("\t"):
        return fail(place, "a tab where YAML wants spaces", "Indent with spaces.")
    if "cannot start any token" in problem and rest:
        return fail(place, f"a value cannot begin with `{rest[0]}`", "Put the value in quotes.")
    if "mapping values are not allowed" in problem:
        hint = "A text that holds `: ` goes in quotes; otherwise check the indentation of this line."
        return fail(place, "a `:` where none can stand", hint)
    if "flow sequence" in context or "flow mapping" in context:
        bracket = "[" if "sequence" in context else "{"
        wanted = "`,` or `]`" if bracket == "[" else "`,` or `}`"
        place = place if rest else opened
        return fail(
            place,
            f"{wanted} is missing in what `{bracket}` opened in line {opened.line}",
            "Close it, or quote the text in it.",
        )
    if "quoted scalar" in context:
        return fail(
            opened, "the quote that opens here is never closed", "Close it, with the same kind of quote."
        )
    if "simple key" in context:
        return fail(opened, "a `:` is missing after this name", "A field is written `name: value`.")
    if "block mapping" in context or "block collection" in context or "block sequence" in context:
        hint = (
            f"It should line up with line {opened.line}: check the indentation here and in the line before."
        )
        return fail(place, "this line fits neither the list nor the mapping around it", hint)
    said = " ".join(part for part in (context, problem) if part)
    return fail(place, f"YAML syntax: {said}", "Check quotes, brackets and indentation near this place.")
