"""Every setting, from what there is: values and comments of `conf/`, the dataclasses of settings, and their checks."""

import ast
import copy
import dataclasses
import inspect
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import hydra
import yaml
from omegaconf import OmegaConf

from masked_sae.config import RunConfig, check, typed_config
from masked_sae.errors import InputError
from masked_sae.masks import run_masks as masks
from masked_sae.runs.identity import BY_CONTENT, NOT_HASHED, is_part_of
from masked_sae.saes import settings as saes
from masked_sae.settings import modules

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("lm", "data", "mask", "sae", "optim", "trainer", "logger", "eval")
_NEEDED = {"data=hub": ["data.name=NAME"], "data=text": ["data.path=[FILE]"]}  # values that have no default
_ODD_VALUES: dict[Any, tuple[Any, ...]] = {
    int: (-1, 10**30),
    float: (-1.0, 1e300),
    str: ("", "no such value"),
    list[str]: (["no such value"],),
    list[float]: ([-1.0],),
}
_NO_VALUE = "no value"
_LONGEST_DEFAULT = 60  # characters that a table takes


@dataclass(frozen=True)
class Setting:
    """A key of a run's configuration.

    Attributes:
        defaults: each value that `conf/` gives it, with the options that do; without any: always.
        side: whether a run's id depends on it.
        valid: what its check says to values that cannot be.
        home: the module that declares and checks it.
    """

    key: str
    kind: str
    defaults: Sequence[tuple[str, Sequence[str]]]
    meaning: str
    side: str
    valid: Sequence[str]
    home: str


@dataclass(frozen=True)
class _Declared:
    one: dataclasses.Field[Any]
    owner: type


def every_setting() -> list[Setting]:
    """Those of all architectures and masks included, in the order of `conf/`."""
    declared, meanings, found = _declared(), _meanings_in_conf(), list[Setting]()
    order = {key: place for place, key in enumerate([*meanings, *declared])}
    for key in sorted(declared, key=lambda key: (_place(key), order[key])):
        one = declared[key].one
        meaning = meanings.get(key) or _meaning_in_code(declared[key])
        home = declared[key].owner.__module__.removeprefix("masked_sae.").replace(".", "/") + ".py"
        found.append(Setting(key, _kind(one), _defaults(key, one), meaning, _side(key, one), _valid(key), home))
    return found


@cache
def options(group: str) -> list[str]:
    """What `group=` takes."""
    return [path.stem for path in sorted((CONF / group).glob("*.yaml")) if not path.stem.startswith("base")]


def comment_on_top(path: Path) -> str:
    """What a file of `conf/` says of itself."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def commented(path: Path) -> dict[str, tuple[Any, str]]:
    """The keys of a file of YAML, dotted, each with its value and the comment behind it."""
    lines = path.read_text().splitlines()
    root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    return {} if root is None else dict(_commented(root, lines, ""))


def _commented(node: yaml.Node, lines: Sequence[str], prefix: str) -> Iterator[tuple[str, tuple[Any, str]]]:
    assert isinstance(node, yaml.MappingNode)
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        nested = isinstance(value_node, yaml.MappingNode) and not value_node.flow_style
        below = nested or value_node.start_mark.line > key_node.end_mark.line
        end = key_node.end_mark if below else value_node.end_mark
        comment = re.search(r"(?:^|\s)#\s*(.*)$", lines[end.line][end.column :]) if end.line < len(lines) else None
        value = yaml.safe_load(yaml.serialize(value_node)) if not nested else None
        yield key, (value, comment[1].strip() if comment else "")
        if isinstance(value_node, yaml.MappingNode):
            yield from _commented(value_node, lines, f"{key}.")


def _group(key: str) -> str:
    return key.partition(".")[0]


def _place(key: str) -> int:
    return GROUPS.index(_group(key)) if _group(key) in GROUPS else -1


def _declared() -> dict[str, _Declared]:
    found = dict(_fields(RunConfig, ""))
    del found["mask"]
    for name, kind in modules(masks.PACKAGE, "Settings"):
        found |= dict(_fields(kind, f"mask.{name}."))
    for _, kind in modules(saes.PACKAGE, "Settings"):
        found |= {key: of for key, of in _fields(kind, "sae.") if key not in found}
    return found


def _fields(kind: type, prefix: str) -> Iterator[tuple[str, _Declared]]:
    for one in fields(kind):
        if isinstance(one.type, type) and is_dataclass(one.type):
            yield from _fields(one.type, f"{prefix}{one.name}.")
        else:
            owner = next(base for base in kind.__mro__ if one.name in inspect.get_annotations(base))
            yield f"{prefix}{one.name}", _Declared(one, owner)


@cache
def _meanings_in_conf() -> dict[str, str]:
    """The comments behind the keys of `conf/`: what the options of a group share, what the usual one says, or each."""
    found = {key: comment for key, (_, comment) in commented(CONF / "train.yaml").items()}
    found = {key: comment for key, comment in found.items() if _group(key) not in ("defaults", "hydra")}
    for group in GROUPS:
        usual = _usual(group)
        paths = sorted((CONF / group).glob("*.yaml"), key=lambda path: (not path.stem.startswith("base"), path.stem))
        by_key: dict[str, dict[str, str]] = {}
        for path in paths:
            for key, (_, comment) in commented(path).items():
                by_key.setdefault(key, {})[path.stem] = comment
        by_key.pop("defaults", None)
        for key, said in by_key.items():
            shared = [word for name, word in said.items() if word and (name.startswith("base") or name == usual)]
            distinct = {word: name for name, word in reversed(said.items()) if word}
            each = [f"{group}={name}: {word}" for word, name in reversed(distinct.items())]
            found[f"{group}.{key}"] = shared[0] if shared else "; ".join(each if len(each) > 1 else distinct)
    return found


@cache
def _usual(group: str) -> str:
    """The option that is chosen by default."""
    listed: list[Any] = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    return next(one[group] for one in listed if isinstance(one, dict) and group in one)


def _meaning_in_code(of: _Declared) -> str:
    """The comment behind a field, or what its class's docstring says of it."""
    source = textwrap.dedent(inspect.getsource(of.owner))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    comments = {
        token.start[0]: token.string for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }  # fmt: skip
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == of.one.name:
            comment = comments.get(node.end_lineno or 0, "").removeprefix("#").strip()
            if comment:
                return re.sub(r"^noqa: \w+ - a field; ", "", comment)
    attributes = inspect.getdoc(of.owner) or ""
    entry = re.search(rf"^\s*{of.one.name}: (.*(?:\n\s{{4,}}\S.*)*)", attributes, flags=re.MULTILINE)
    return " ".join(entry[1].split()).removesuffix(".") if entry else ""


_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    list[str]: "list of texts",
    list[float]: "list of numbers",
    Any: "text, or list of texts",
}


def _kind(one: dataclasses.Field[Any]) -> str:
    inner = [part for part in get_args(one.type) if part is not NoneType] if _is_union(one.type) else [one.type]
    words = " or ".join(_KINDS.get(part, "settings" if get_origin(part) is dict else "list") for part in inner)
    unit = one.metadata.get("unit")
    null = ", or null" if _is_union(one.type) else ""
    return words + (f" ({unit})" if unit else "") + null


def _is_union(kind: Any) -> bool:
    return isinstance(kind, UnionType)


def _defaults(key: str, one: dataclasses.Field[Any]) -> list[tuple[str, Sequence[str]]]:
    """That of `python -m src.train` first."""
    usual, group, by_value = _chosen("", ""), _group(key), dict[str, list[str]]()
    default = _written(usual.get(key, _default_in_code(one)))
    for option in options(group) if group in GROUPS else ():
        value = _written(_chosen(group, option).get(key, default))
        if value != default:
            by_value.setdefault(value, []).append(f"{group}={option}")
    return [*([] if default == _NO_VALUE else [(default, [])]), *by_value.items()]


def _default_in_code(one: dataclasses.Field[Any]) -> Any:
    if one.default is not dataclasses.MISSING:
        return one.default
    return _NO_VALUE if one.default_factory is dataclasses.MISSING else one.default_factory()


def _written(value: Any) -> str:
    if value == "???":
        return _NO_VALUE
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return text if len(text) <= _LONGEST_DEFAULT else "as its file has it"


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose("train", list(overrides))


@cache
def _chosen(group: str, name: str) -> dict[str, Any]:
    """Dotted keys and values of what an option makes of its group; with no group, of all by default."""
    config = _composed((f"{group}={name}",) if group else ())
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return dict(_leaves({group: plain[group]} if group else plain, ""))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _side(key: str, one: dataclasses.Field[Any]) -> str:
    if is_part_of(key, BY_CONTENT):
        return "by content"
    if is_part_of(key, NOT_HASHED):
        return "no"
    if "neutral" in one.metadata:
        return f"unless {_written(one.metadata['neutral'])}"
    return "yes"


@cache
def _typed(group: str) -> list[RunConfig]:
    """A configuration that works for each option of a group."""
    choices = [f"{group}={name}" for name in options(group)] if group in GROUPS else []
    return [typed_config(_composed((choice, *_NEEDED.get(choice, [])))) for choice in choices] or [
        typed_config(_composed(()))
    ]


def _valid(key: str) -> list[str]:
    """What `check` says to odd values: whose word it is, and in its words."""
    found: list[str] = []
    for config in _typed(_group(key)):
        holder = _holder(config, key)
        if holder is None:
            continue
        declared = next(one for one in fields(holder) if one.name == key.split(".")[-1])
        parts = get_args(declared.type) if _is_union(declared.type) else (declared.type,)
        for part in parts:
            for odd in _ODD_VALUES.get(part, ()):
                said = _refusal(config, key, odd)
                if said and said not in found:
                    found.append(said)
        return found
    return found


def _refusal(config: RunConfig, key: str, odd: Any) -> str | None:
    changed = copy.deepcopy(config)
    setattr(_holder(changed, key), key.split(".")[-1], odd)
    try:
        check(changed)
    except InputError as error:
        return error.valid if error.key == key else None
    return None


def _holder(config: Any, key: str) -> Any:
    """What has the key's last part; None if these options have no such key."""
    *parents, last = key.split(".")
    for parent in parents:
        config = config.get(parent) if isinstance(config, dict) else getattr(config, parent, None)
    return config if hasattr(config, last) else None
