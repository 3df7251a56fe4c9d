"""The page of all settings and choices, as Markdown."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from every_setting import CONF, Setting, comment_on_top, commented, options

_HEAD = """# Every setting

Made from `conf/`, the dataclasses of the settings and what their checks say, when this site was built.
`python -m src.train --help` prints the same keys as they are chosen. What they are for, and what they do together:
[configuration](configuration.md).

- **Default** is what `python -m src.train` has; beside it are the choices that set another. *None* has to be given.
- **In the id**: whether another value is [another run](configuration.md#a-runs-folder). *Unless* means: at this value
  the key is left out, as all of a mask's are while it is off. *By content*: what lies there counts, not its name.
- **Valid** is what the check in the file that is named answers to other values, before anything long begins. More is
  looked at once text, tokenizer and LM are read.
"""
_GROUP_WORDS = {
    "": "Of the run",
    "lm": "The LM and the hook point",
    "data": "Text and batches",
    "mask": "Masks",
    "sae": "The SAE",
    "optim": "The optimizer",
    "trainer": "How it is trained",
    "logger": "W&B",
    "eval": "Metrics",
}
_COMMANDS = ("evaluate", "report", "latents", "publish", "dashboard", "pretrain")
_HYDRA = ("defaults", "hydra", "_target_", "_partial_")


def settings_page(settings: Sequence[Setting]) -> str:
    """All keys of a run's configuration, by group; what else can be chosen; the keys of other commands."""
    parts = [_HEAD]
    for group, words in _GROUP_WORDS.items():
        of_group = [one for one in settings if (one.key.partition(".")[0] if "." in one.key else "") == group]
        parts.append(f"## {words}" + (f": `{group}`" if group else "") + "\n")
        if group and len(options(group)) > 1:
            parts.append(_options(group, f"{group}="))
        parts.append(_keys(of_group))
    parts.append("## Experiments\n\nSettings that belong together.\n\n" + _options("experiment", "experiment="))
    parts.append("## Sweeps\n\nWhat is varied, with `-m`.\n\n" + _options("sweep", "+sweep="))
    parts.append(_sections("Launchers", "Where a sweep runs.", "hydra/launcher", "hydra.launcher."))
    parts.append(_sections("Sweepers", "How members are made.", "hydra/sweeper", "hydra.sweeper."))
    parts.append("## Other commands\n\n`src.evaluate` and `src.latents` have the keys above, too.\n")
    for name in _COMMANDS:
        path = CONF / f"{name}.yaml"
        parts += [f"### `src.{name}`\n", _text(comment_on_top(path)) + "\n", _plain(path, "")]
    return "\n".join(parts)


def _keys(settings: Iterable[Setting]) -> str:
    rows = [
        [f"`{one.key}`<br>{one.kind}", _defaults(one), _meaning(one), one.side, f"`{one.home}`"] for one in settings
    ]
    return _table(["key", "default", "meaning", "in the id", "check"], rows)


def _defaults(setting: Setting) -> str:
    listed = [
        _code(value) + (f" with {', '.join(f'`{one}`' for one in chosen)}" if chosen else "")
        for value, chosen in setting.defaults
    ]
    usual = [] if setting.defaults and not setting.defaults[0][1] else ["*none*"]
    return "<br>".join([*usual, *listed])


def _meaning(setting: Setting) -> str:
    valid = f"<br>*Valid:* {_text('; '.join(setting.valid))}" if setting.valid else ""
    return _text(setting.meaning) + valid


def _options(group: str, prefix: str) -> str:
    rows = [[f"`{prefix}{name}`", _text(comment_on_top(CONF / group / f"{name}.yaml"))] for name in options(group)]
    return _table(["choice", ""], rows)


def _sections(title: str, about: str, group: str, prefix: str) -> str:
    parts = [f"## {title}\n\n{about}\n"]
    for name in options(group):
        path = CONF / group / f"{name}.yaml"
        parts += [f"### `{group}={name}`\n", _text(comment_on_top(path)) + "\n", _plain(path, prefix)]
    return "\n".join(parts)


def _plain(path: Path, prefix: str) -> str:
    """The keys of a file that has no dataclass."""
    found = {key: of for key, of in commented(path).items() if not _is_hydras(key)}
    rows = [[f"`{prefix}{key}`", _code(_shown(value)), _text(comment)] for key, (value, comment) in found.items()]
    return _table(["key", "default", "meaning"], rows) if rows else ""


def _is_hydras(key: str) -> bool:
    return key.partition(".")[0] in _HYDRA or key.rpartition(".")[2] in _HYDRA


def _shown(value: object) -> str:
    words: dict[object, str] = {None: "null", True: "true", False: "false", "???": "none"}
    return words.get(value, str(value)) if isinstance(value, (str, bool, int, float, type(None))) else str(value)


def _code(text: str) -> str:
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _text(text: str) -> str:
    """Plain text, but for what stands between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(text, quote=False)).replace("|", "&#124;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
