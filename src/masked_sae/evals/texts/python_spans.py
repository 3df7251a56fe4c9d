"""Where concepts hold in Python source, in characters, by the standard library's own `ast` and `tokenize`."""

import ast
import bisect
import builtins
import io
import keyword
import tokenize
import warnings
from collections.abc import Iterator, Sequence

from masked_sae.evals.texts.spans import Span

# General concepts, each with special cases of it: wherever one of these holds, so does the general one.
HIERARCHY: dict[str, tuple[str, ...]] = {
    "identifier": (
        "self",
        "imported module",
        "builtin",
        "private name",
        "constant name",
        "attribute",
        "parameter",
        "keyword argument",
        "called function",
        "assigned name",
        "defined function",
        "defined class",
    ),
    "literal": ("None", "True or False", "number", "string", "docstring"),
    "keyword": ("def", "return", "if", "import", "for", "in", "not", "else"),
    "operator": ("dot", "comma", "opening parenthesis", "closing parenthesis", "colon", "equals", "comparison"),
}
# Where code stands, rather than what it is: they occur together with most of the others.
PLACES = ("comment", "argument", "decorator", "default value", "condition", "subscript", "class body", "loop body")
CONCEPTS = (*(name for general, special in HIERARCHY.items() for name in (general, *special)), *PLACES)

_OPERATORS = {
    ".": "dot",
    ",": "comma",
    "(": "opening parenthesis",
    ")": "closing parenthesis",
    ":": "colon",
    "=": "equals",
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">="), "comparison"),
}
_CONSTANTS = {"None": "None", "True": "True or False", "False": "True or False"}
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_") and not keyword.iskeyword(name))
_DEFINED = {"def": "defined function", "class": "defined class"}
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def python_spans(source: str) -> list[Span]:
    """All there are in a module. Nothing is told of what is inside an f-string: it is a string.

    Args:
        source: with `\\n` at the ends of lines.

    Raises:
        SyntaxError, ValueError: it is no Python of this version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in old modules
        tree = ast.parse(source)
    places = _Places(source)
    nodes = list(_outside_fstrings(tree))
    fstrings = [_extent(node, places) for node in nodes if isinstance(node, ast.JoinedStr)]
    modules = _modules(nodes)
    found = [Span(name, *where) for where in fstrings for name in ("literal", "string")]
    found += _of_tokens(source, places, fstrings)
    found += [span for node in nodes for span in _of_node(node, places, modules)]
    return found


class _Places:
    """From the lines and columns of the two libraries to characters of the source."""

    def __init__(self, source: str) -> None:
        self._lines = io.StringIO(source, newline="\n").readlines()
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def of_token(self, place: tuple[int, int]) -> int:
        return self._starts[place[0] - 1] + place[1]

    def of_node(self, line: int, column: int) -> int:
        """`ast` counts the bytes of a line."""
        text = self._lines[line - 1]
        within = column if text.isascii() else len(text.encode()[:column].decode())
        return self._starts[line - 1] + within


def _of_tokens(source: str, places: _Places, fstrings: list[tuple[int, int]]) -> Iterator[Span]:
    """What a token is by its own spelling, and names by the word before them."""
    starts, stops = zip(*sorted(fstrings), strict=True) if fstrings else ((), ())
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source, newline="\n").readline):
        where = places.of_token(token.start), places.of_token(token.end)
        place = bisect.bisect_right(starts, where[0]) - 1
        if place >= 0 and where[0] < stops[place]:
            continue
        for concept in _by_spelling(token, before):
            yield Span(concept, *where)
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.string


def _by_spelling(token: tokenize.TokenInfo, before: str) -> Iterator[str]:
    text = token.string
    if token.type == tokenize.COMMENT:
        yield "comment"
    elif token.type == tokenize.NUMBER:
        yield from ("literal", "number")
    elif token.type == tokenize.STRING:
        yield from ("literal", "string")
    elif token.type == tokenize.OP:
        yield from ("operator", _OPERATORS[text]) if text in _OPERATORS else ("operator",)
    elif token.type == tokenize.NAME and text in _CONSTANTS:
        yield from ("literal", _CONSTANTS[text])
    elif token.type == tokenize.NAME and keyword.iskeyword(text):
        yield from ("keyword", text) if text in HIERARCHY["keyword"] else ("keyword",)
    elif token.type == tokenize.NAME:
        yield "identifier"
        if text == "self":
            yield "self"
        if text.startswith("_"):
            yield "private name"
        if text.isupper() and len(text) > 1:
            yield "constant name"
        if text in _BUILTINS and before != ".":
            yield "builtin"
        if before in _DEFINED:
            yield _DEFINED[before]


def _of_node(node: ast.AST, places: _Places, modules: frozenset[str]) -> Iterator[Span]:
    """What a name is by its place in the syntax, and the places themselves."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield _named("assigned name", node, places)
        if node.id in modules:
            yield _named("imported module", node, places)
    elif isinstance(node, ast.Attribute):
        yield _named("attribute", node, places)
    elif isinstance(node, ast.arg):
        yield Span("parameter", *_first(node, node.arg, places))
    elif isinstance(node, ast.keyword) and node.arg is not None:
        yield Span("keyword argument", *_first(node, node.arg, places))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, (ast.Name, ast.Attribute)):
            yield _named("called function", node.func, places)
        for argument in (*node.args, *node.keywords):
            yield Span("argument", *_extent(argument, places))
    elif isinstance(node, ast.arguments):
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                yield Span("default value", *_extent(default, places))
    elif isinstance(node, ast.Subscript):
        yield Span("subscript", *_extent(node.slice, places))
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        yield Span("condition", *_extent(node.test, places))
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        for decorator in node.decorator_list:
            yield Span("decorator", *_extent(decorator, places))
    if isinstance(node, (ast.ClassDef, *_LOOPS)):
        name = "class body" if isinstance(node, ast.ClassDef) else "loop body"
        yield Span(name, _extent(node.body[0], places)[0], _extent(node.body[-1], places)[1])
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
        yield Span("docstring", *_extent(node.body[0], places))


def _outside_fstrings(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those within an f-string, of which not every version tells where they are."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.JoinedStr):
            waiting += ast.iter_child_nodes(node)


def _modules(nodes: Sequence[ast.AST]) -> frozenset[str]:
    """The names that `import` gives to modules."""
    imports = [node for node in nodes if isinstance(node, ast.Import)]
    return frozenset(one.asname or one.name.split(".")[0] for node in imports for one in node.names)


def _extent(node: ast.expr | ast.stmt | ast.keyword | ast.arg, places: _Places) -> tuple[int, int]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return places.of_node(node.lineno, node.col_offset), places.of_node(node.end_lineno, node.end_col_offset)


def _first(node: ast.arg | ast.keyword, name: str, places: _Places) -> tuple[int, int]:
    start, _ = _extent(node, places)
    return start, start + len(name)


def _named(concept: str, node: ast.Name | ast.Attribute, places: _Places) -> Span:
    """The last name of a chain."""
    start, stop = _extent(node, places)
    return Span(concept, start if isinstance(node, ast.Name) else stop - len(node.attr), stop)
