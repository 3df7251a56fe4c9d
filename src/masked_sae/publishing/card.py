"""Model cards: what was trained, what was measured and at which L0, how to load it, how to train it again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from masked_sae.bundled import command_name
from masked_sae.publishing.markdown import Markdown, code, fill, link, table
from masked_sae.publishing.privacy import LEFT_OUT
from masked_sae.publishing.trained_run import TrainedRun
from masked_sae.publishing.words import describe_architecture, describe_masks, describe_text
from masked_sae.report.catalogue import Catalogue, Metric, our_catalogue, read_words
from masked_sae.report.design import Design
from masked_sae.report.runs_table import Runs
from masked_sae.runs.sweep_record import heading

CARD = "README.md"
_TAGS = ("sparse-autoencoder", "saelens", "masked-sae", "mechanistic-interpretability")
_INDEXED = ("core/l0", "core/explained_variance", "core/ce_recovered")  # in the front matter, as the hub shows it
_SHA_SHOWN = 12


@dataclass(frozen=True)
class Place:
    """Where something is published.

    Attributes:
        repo: `owner/name`.
        license: a name that the hub knows; None: not said.
    """

    repo: str
    license: str | None = None


def run_card(run: TrainedRun, place: Place, prefix: str, figure: str | None, pages: Sequence[str]) -> str:
    """
    Args:
        prefix: where the run's files lie, as seen from the card.
        figure: the training curve's.
        pages: of its latents.
    """
    headlines, others = _metric_tables(run)
    context: dict[str, Any] = {
        "run": run,
        "d_in": run.cfg["d_in"],
        "d_sae": f"{run.cfg['d_sae']:,}",
        "lm": _lm(run),
        "hook_name": run.setting("lm.hook_name"),
        "architecture": describe_architecture(run),
        "masks": describe_masks(run),
        "saelens": _load_with_saelens(place.repo, run.name),
        "here": _load_here(place.repo, run.name),
        "exported": run.cfg["architecture"],
        "headlines": headlines,
        "others": others,
        "measured": len(run.results.metrics),
        "measured_with": _measured_with(run),
        "held_out": f"{100 * float(run.setting('data.validation_share') or 0):g} %",
        "notes": run.results.notes,
        "tokens": f"{run.state.tokens:,}",
        "steps": f"{run.state.steps:,}",
        "text": describe_text(run),
        "seed": run.setting("seed"),
        "data_seed": run.setting("data.seed"),
        "prefix": prefix,
        "figure": figure,
        "made_with": _made_with([run]),
        "yours": _yours(run),
        "again": _again(place.repo, run),
        "pages": pages,
        "left_out": LEFT_OUT,
    }
    return fill("run_card.md", context)


def sweep_card(
    name: str,
    runs: Sequence[TrainedRun],
    place: Place,
    table_of: tuple[Runs, Design],
    said: "Said",
    left: Mapping[str, str],
) -> str:
    """
    Args:
        left: members that are not published, and why.
    """
    first, design = runs[0], table_of[1]
    context: dict[str, Any] = {
        "name": name,
        "count": len(runs),
        "lms": _each(_lm(run) for run in runs),
        "hook_names": _each(code(run.setting("lm.hook_name")) for run in runs),
        "varied": ", ".join(heading(key, table_of[0].labels) for key in design.varied) or "nothing",
        "masked": any(not arm.unmasked for arm in design.arms),
        "unmasked": design.baseline is not None,
        "saelens": _load_with_saelens(place.repo, first.name),
        "here": _load_here(place.repo, first.name),
        "members": _members_table(runs, table_of[0], design),
        "left": left,
        "findings": Markdown(said.findings),
        "figures": _figures_table(said.figures),
        "text": "; ".join(dict.fromkeys(map(describe_text, runs))),
        "commands": "\n".join(said.commands),
        "made_with": _made_with(runs),
        "yours": _yours(first),
        "again": _again(place.repo, first),
        "left_out": LEFT_OUT,
    }
    return fill("sweep_card.md", context)


@dataclass(frozen=True)
class Said:
    """What a sweep's report says.

    Attributes:
        findings: a table, Markdown.
        figures: pictures, of fronts and of responses to masking.
        commands: that train the sweep.
    """

    findings: str
    figures: Sequence[Path]
    commands: Sequence[str]


def with_front_matter(card: str, runs: Sequence[TrainedRun], place: Place) -> str:
    """A card as the hub reads it: what can be searched for stands in front."""
    lms = {run.hub_lm for run in runs} - {None}
    datasets = {run.setting("data.name") for run in runs if run.setting("data.source") == "hub"}
    indexed = _eval_results(runs[0]) if len(runs) == 1 else []
    data = ModelCardData(
        library_name="saelens",
        license=place.license,
        tags=list(_TAGS),
        base_model=sorted(map(str, lms)) or None,
        datasets=sorted(map(str, datasets)) or None,
        model_name=runs[0].name if indexed else None,
        eval_results=indexed or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{card}"


def _eval_results(run: TrainedRun) -> list[EvalResult]:
    catalogue, text = _catalogue(run), describe_text(run)
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=str(run.setting("data.name") or run.setting("data.source")),
            dataset_name=f"held out of {text}",
            metric_type=key.partition("/")[2],
            metric_name=catalogue.describe(key).label,
            metric_value=float(f"{run.results.metrics[key]:.5g}"),
        )
        for key in _INDEXED
        if key in run.results.metrics
    ]


def _catalogue(run: TrainedRun) -> Catalogue:
    return replace(our_catalogue(), own=read_words(run.results.own))


def _metric_tables(run: TrainedRun) -> tuple[Markdown, Markdown]:
    """Of the headline metrics, and of all."""
    catalogue, keys = _catalogue(run), list(run.results.metrics)
    first = [catalogue.describe(key) for key in ("core/l0",) if key in keys]
    return (
        _metric_table(run, [*first, *catalogue.headlines(keys)]),
        _metric_table(run, [catalogue.describe(key) for key in keys]),
    )


def _metric_table(run: TrainedRun, metrics: Sequence[Metric]) -> Markdown:
    rows = [
        (code(one.key), one.label, show(run.results.metrics[one.key]), one.unit, one.better, _at_l0(run, one))
        for one in metrics
    ]
    return table(("key", "metric", "value", "unit", "better", "L0"), rows) if rows else Markdown()


def _at_l0(run: TrainedRun, metric: Metric) -> str:
    return show(run.results.metrics[metric.l0], 3) if metric.l0 in run.results.metrics else ""


def show(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}g}"


def _measured_with(run: TrainedRun) -> Markdown:
    rows = [
        (family, ", ".join(f"{key} {_listed(value)}" for key, value in settings.items() if value is not None))
        for family, settings in run.measured_with.items()
    ]
    return table(("family", "settings"), rows)


def _listed(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _members_table(runs: Sequence[TrainedRun], found: Runs, design: Design) -> Markdown:
    keys = ["core/l0", *(metric.key for metric in found.catalogue.headlines(found.metrics))]
    metrics = [found.catalogue.describe(key) for key in keys if key in found.metrics]
    columns = [heading(key, found.labels) for key in design.varied] + [metric.label for metric in metrics]
    rows = [
        (
            Markdown(f"[{code(run.name)}]({run.name}/{CARD})"),
            *(str(run.setting(key)) for key in design.varied),
            *(show(values[one.key], 3) if one.key in (values := run.results.metrics) else "" for one in metrics),
        )
        for run in runs
    ]
    return table(("SAE", *columns), rows)


def _lm(run: TrainedRun) -> Markdown:
    return (
        Markdown(f"[{run.hub_lm}](https://huggingface.co/{run.hub_lm})") if run.hub_lm else code(run.setting("lm.name"))
    )


def _figures_table(figures: Sequence[Path]) -> Markdown:
    """Of each metric its front, and beside it what masking did to it."""

    def shown(figure: Path) -> Markdown:
        return Markdown(f"![{figure.stem.replace('_', ' ')}]({link(f'figures/{figure.name}')})")

    fronts = {one.stem.removeprefix("front"): one for one in figures if one.stem.startswith("front_")}
    beside: dict[str, list[Path]] = {metric: [] for metric in fronts}
    for figure in figures:
        of = [metric for metric in fronts if figure.stem.startswith(f"response{metric}")]
        if of:
            beside[max(of, key=len)].append(figure)  # one metric's name may begin with another's
    rows = [(shown(front), Markdown(" ".join(map(shown, beside[metric])))) for metric, front in fronts.items()]
    return table(("against L0", "response to masking"), rows) if rows else Markdown()


def _each(texts: Iterable[Markdown]) -> Markdown:
    return Markdown(", ".join(dict.fromkeys(texts)))


def _load_with_saelens(repo: str, name: str) -> str:
    return f'from sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo}", "{name}")'


def _load_here(repo: str, name: str) -> str:
    return f'import masked_sae\n\nsae = masked_sae.load_sae("{repo}/{name}")'


def _again(repo: str, run: TrainedRun) -> str:
    return (
        f"hf download {repo} --local-dir sweep\n"
        f'{command_name("train")} --config-path "$PWD/sweep/{run.name}" --config-name config \\\n'
        "    hydra.run.dir=. hydra.output_subdir=null"
    )


def _yours(run: TrainedRun) -> str:
    """Settings that named places of the maker's machine."""
    places = ["lm.name"] if run.hub_lm is None else []
    places += ["data.path"] if run.setting("data.path") else []
    return " and ".join(places)


def _made_with(runs: Sequence[TrainedRun]) -> list[str]:
    """Each way that any of them was trained, once."""
    lines: list[str] = []
    for attempt in (attempt for run in runs for attempt in run.attempts):
        versions = ", ".join(f"{name} {version}" for name, version in attempt.software.versions.items())
        sha, _, changes = attempt.software.commit.partition(" ")
        commit = f"; code at commit {sha[:_SHA_SHOWN]}{f' {changes}' if changes else ''}" if sha else ""
        threads = f"{attempt.threads} CPU {'thread' if attempt.threads == 1 else 'threads'}"
        lines.append(f"On {attempt.device}, {threads}: {versions}{commit}.")
    return list(dict.fromkeys(lines))
