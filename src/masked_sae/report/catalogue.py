"""The metrics in `results.json`: what each is called, its unit, and which way is better."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", ""]
CLEAN_L0 = "core/l0"


@dataclass(frozen=True)
class Metric:
    """Attributes:
    key: in `results.json`.
    label: as a heading or the start of a sentence.
    better: which way is better; empty where neither is.
    headline: chosen beforehand for the first screen, so that no metric is picked for what it shows.
    l0: the key of the L0 at which runs are compared.
    """

    key: str
    label: str
    unit: str
    meaning: str
    better: Better = ""
    headline: bool = False
    l0: str = CLEAN_L0

    @property
    def family(self) -> str:
        return self.key.split("/")[0]

    @property
    def axis_label(self) -> str:
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def l0_axis_label(self) -> str:
        return "L0 on clean text [latents per token]" if self.l0 == CLEAN_L0 else "L0 [latents per token]"


@dataclass(frozen=True)
class _Entry:
    pattern: str  # of the key; its groups fill the places in label and meaning
    label: str
    unit: str
    meaning: str
    better: Better = ""
    headline: bool = False


_ENTRIES = (
    _Entry("core/l0", "L0", "latents per token", "mean number of active latents on held-out clean text"),
    _Entry("core/l1", "L1", "activation", "mean sum of the latents"),
    _Entry(
        "core/explained_variance", "Explained variance", "share", "1 - E‖x-x̂‖² / E‖x-E x‖²", "higher", headline=True
    ),
    _Entry(
        "core/ce_recovered",
        "CE loss recovered",
        "share",
        "(ce_zero - ce_sae) / (ce_zero - ce_clean)",
        "higher",
        headline=True,
    ),
    _Entry("core/kl_recovered", "KL recovered", "share", "(kl_zero - kl_sae) / kl_zero", "higher"),
    _Entry(r"core/(ce|kl)_(\w+)", "{0} ({1})", "nats per token", "cross entropy or divergence of the LM's predictions"),
    _Entry("core/mse", "MSE", "per dimension", "E‖x-x̂‖² / d_in", "lower"),
    _Entry("core/cosine_similarity", "Cosine similarity", "cosine", "mean of cos(x, x̂)", "higher"),
    _Entry("core/l2_ratio", "L2 ratio", "ratio", "mean of ‖x̂‖ / ‖x‖: under 1 where reconstructions shrink"),
    _Entry(
        "core/relative_reconstruction_bias",
        "Relative reconstruction bias",
        "ratio",
        "E‖x̂‖² / E[x·x̂]: under 1 where reconstructions shrink (arXiv 2404.16014)",
    ),
    _Entry("core/alive_latents", "Alive latents", "share", "latents that fire on some held-out activation", "higher"),
    _Entry("core/dead_latents", "Dead latents", "share", "latents that fire on no held-out activation", "lower"),
    _Entry(
        "core/frequency_over_1_percent",
        "Latents over 1 %",
        "share",
        "latents that fire on over 1 % of held-out activations",
    ),
    _Entry("core/dense_latents", "Dense latents", "share", "latents that fire on over eval.dense_frequency of tokens"),
    _Entry(
        "core/max_decoder_cosine",
        "Max decoder cosine",
        "cosine",
        "largest cosine of a latent's decoder row with another's, in the mean over latents",
    ),
    _Entry("core/tokens", "Tokens measured", "activations", "held-out activations measured"),
    _Entry(
        r"absorption/(\w+)/full_absorption",
        "Full absorption ({0})",
        "share",
        "words on which no split latent fires and one other latent carries the concept, "
        "over words the probe gets right",
        "lower",
        headline=True,
    ),
    _Entry(
        r"absorption/(\w+)/full_absorption_by_contribution",
        "Full absorption by contribution ({0})",
        "share",
        "the same, with the concept's latents chosen by their contribution to a probe instead of by its weight",
        "lower",
        headline=True,
    ),
    _Entry(
        r"absorption/(\w+)/absorption_fraction_by_contribution",
        "Absorption fraction by contribution ({0})",
        "share",
        "the same, with the concept's latents chosen by their contribution to a probe",
        "lower",
    ),
    _Entry(
        r"absorption/(\w+)/absorption_fraction",
        "Absorption fraction ({0})",
        "share",
        "what absorbing latents carry of what they and the main latents carry",
        "lower",
    ),
    _Entry(
        r"absorption/(\w+)/split_latents_by_contribution",
        "Split latents by contribution ({0})",
        "latents per concept",
        "the same, with the concept's latents chosen by their contribution to a probe",
    ),
    _Entry(
        r"absorption/(\w+)/split_latents",
        "Split latents ({0})",
        "latents per concept",
        "latents that stand for one concept: as many as still raise the F1 of a probe on them",
    ),
    _Entry(
        r"absorption/(\w+)/concepts",
        "Concepts measured ({0})",
        "concepts",
        "those that the LM's activations tell: with fewer than eval needs, absorption is not measured",
    ),
    _Entry(r"absorption/(\w+)/l0", "L0 (absorption, {0})", "latents per token", "on the activations measured"),
    _Entry(
        r"sparse_probing/top_1",
        "Sparse probing, 1 latent",
        "accuracy",
        "test accuracy of a probe on the best latent",
        "higher",
        headline=True,
    ),
    _Entry(
        r"sparse_probing/top_(\d+)",
        "Sparse probing, {0} latents",
        "accuracy",
        "test accuracy of a probe on the best latents",
        "higher",
    ),
    _Entry(
        "sparse_probing/all_latents", "Probing, all latents", "accuracy", "test accuracy of a probe on all", "higher"
    ),
    _Entry("sparse_probing/lm", "Probing the LM", "accuracy", "of a probe on the LM's activations"),
    _Entry(
        r"sparse_probing/lm_top_(\d+)",
        "Probing the LM, {0} of its dimensions",
        "accuracy",
        "of a probe on the best dimensions of the LM's activations",
    ),
    _Entry(r"(tpp|scr|sparse_probing|ood|ground_truth)/l0", "L0 ({0})", "latents per token", "on what was measured"),
    _Entry(
        "tpp/top_20",
        "TPP, 20 latents",
        "accuracy difference",
        "targeted probe perturbation: intended minus unintended drop of probe accuracy",
        "higher",
        headline=True,
    ),
    _Entry(r"tpp/top_(\d+)", "TPP, {0} latents", "accuracy difference", "targeted probe perturbation", "higher"),
    _Entry(
        r"tpp/(intended|unintended)_(\d+)",
        "TPP {0}, {1} latents",
        "accuracy difference",
        "drop of probe accuracy by ablating latents: intended, of their own class; unintended, of the others",
    ),
    _Entry("tpp/clean_accuracy", "TPP, accuracy before", "accuracy", "of the probes without ablation"),
    _Entry(
        "scr/top_20",
        "SCR, 20 latents",
        "share",
        "share of a spurious correlation removed by ablating latents",
        "higher",
        headline=True,
    ),
    _Entry(r"scr/top_(\d+)", "SCR, {0} latents", "share", "spurious correlation removed", "higher"),
    _Entry(
        r"scr/(clean|biased)_accuracy",
        "SCR, accuracy of the {0} probe",
        "accuracy",
        "without ablation, on balanced texts; the biased probe was trained on a spurious correlation",
    ),
    _Entry(
        "ood/gap",
        "OOD gap",
        "AUC",
        "AUC on the shifted set of the oracle probe, less that of the probe trained in distribution",
        "lower",
        headline=True,
    ),
    _Entry(r"ood/gap_(low|high)", "OOD gap, {0} end", "AUC", "of its bootstrap interval within the run"),
    _Entry("ood/lm_gap", "OOD gap of the LM", "AUC", "the same for probes on the LM's activations"),
    _Entry(r"ood/lm_gap_(low|high)", "OOD gap of the LM, {0} end", "AUC", "of its bootstrap interval within the run"),
    _Entry("ood/auc_latents_oracle", "OOD AUC, oracle", "AUC", "of the probe trained on the shifted set", "higher"),
    _Entry("ood/auc_latents", "OOD AUC", "AUC", "on the shifted set, trained in distribution", "higher"),
    _Entry("ood/auc_latents_in_distribution", "AUC in distribution", "AUC", "where it was trained", "higher"),
    _Entry("ood/auc_lm_oracle", "OOD AUC of the LM, oracle", "AUC", "the same for probes on the LM's activations"),
    _Entry("ood/auc_lm", "OOD AUC of the LM", "AUC", "the same for probes on the LM's activations"),
    _Entry("ood/auc_lm_in_distribution", "AUC of the LM in distribution", "AUC", "likewise, where it was trained"),
    _Entry(
        r"ood/auc_(latents|lm)_(low|high)", "OOD AUC ({0}), {1} end", "AUC", "of its bootstrap interval within the run"
    ),
    _Entry(
        r"ood/auc_(latents|lm)_oracle_(low|high)",
        "OOD AUC, oracle ({0}), {1} end",
        "AUC",
        "of its bootstrap interval within the run",
    ),
    _Entry(
        "ground_truth/absorption_rate",
        "Absorption rate (ground truth)",
        "share",
        "parent active in truth, its latent silent, a child's latent carrying its direction",
        "lower",
        headline=True,
    ),
    _Entry(
        "ground_truth/mean_max_cosine",
        "Mean max cosine (ground truth)",
        "cosine",
        "of true features with the latents matched to them",
        "higher",
        headline=True,
    ),
    _Entry("ground_truth/recovered", "Features recovered (ground truth)", "share", "of the true features", "higher"),
    _Entry(
        "ground_truth/parent_recall_with_child",
        "Parent recall beside a child (ground truth)",
        "share",
        "parent and child active in truth: the parent's latent fires",
        "higher",
    ),
    _Entry(
        "ground_truth/parent_recall_alone",
        "Parent recall alone (ground truth)",
        "share",
        "parent active in truth without a child: its latent fires",
        "higher",
    ),
    _Entry("ground_truth/false_firing", "False firing (ground truth)", "share", "latent active, feature not", "lower"),
)

EXPECTED = (  # headline families of the paper's table, to be named where a report lacks them
    ("core/explained_variance", "explained variance"),
    ("core/ce_recovered", "CE loss recovered"),
    ("absorption/", "absorption"),
    ("sparse_probing/top_1", "sparse probing"),
    ("tpp/top_20", "TPP"),
    ("scr/top_20", "SCR"),
    ("ood/gap", "OOD gap"),
)


def describe(key: str) -> Metric:
    """What is known of a metric; one that is not known stands under its key."""
    for entry in _ENTRIES:
        if match := re.fullmatch(entry.pattern, key):
            parts = [part.replace("_", " ") for part in match.groups()]
            l0 = "ground_truth/l0" if key.startswith("ground_truth/") else CLEAN_L0
            label = entry.label.format(*parts)
            return Metric(key, label, entry.unit, entry.meaning, entry.better, entry.headline, l0)
    return Metric(key, key, "", "")


def headline_metrics(keys: Iterable[str]) -> list[Metric]:
    """Those of the first screen, in the catalogue's order."""
    metrics = [metric for key in keys if (metric := describe(key)).headline]
    order = [entry.pattern for entry in _ENTRIES]
    return sorted(metrics, key=lambda metric: (_place(metric.key, order), metric.key))


def not_measured(keys: Iterable[str]) -> list[str]:
    """Names of what the paper's table has and these runs have not."""
    known = list(keys)
    return [name for start, name in EXPECTED if not any(key.startswith(start) for key in known)]


def _place(key: str, patterns: list[str]) -> int:
    return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, key)), len(patterns))
