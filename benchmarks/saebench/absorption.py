"""Absorption beside SAEBench's own code, on the same tensors: figures and times.

    .venv/bin/python benchmarks/saebench/absorption.py make FILE [--quick]     # here: tensors, our figures, our times
    SAEBENCH/bin/python benchmarks/saebench/absorption.py check FILE 2> BARS   # in an environment with sae-bench

`check` gives SAEBench's functions the tensors in FILE and fails where a figure differs from ours by more than 1e-4
(5e-3 for the F1 of k-sparse probes, which is one word on the border).
What SAEBench draws at random (first weights, order of the batches, in-context examples) is taken from our side for the
comparison; then its own pipeline runs with its own draws and is timed. No LM runs on either side.

Axes: P words, C letters, D `d_in`, F `d_sae`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOLERANCE = 1e-4
# scikit-learn's solver stops at a gradient of 1e-4: in a few of 260 probes round-off puts a word on the other side.
SPARSE_F1_TOLERANCE = 5e-3
RATES = {"is_full_absorption": "full_absorption", "absorption_fraction": "absorption_fraction"}  # theirs: ours


@dataclass(frozen=True)
class Sizes:
    d_in: int = 768
    d_sae: int = 16384
    words: int = 20000
    active: int = 40  # latents of noise that fire at a word


QUICK = Sizes(d_in=256, d_sae=1024, words=5000, active=10)  # one batch an epoch: its order is of no account


def synthetic(sizes: Sizes, seed: int) -> dict[str, Tensor]:
    """Words of a letter and a stem, and an SAE with a latent for each and many others.

    Each letter has stems of its own, which make up 30 % of its words. There the letter's latent is silent or weak, and
    the stem's latent, whose decoder row has a part of the letter, stands in for it.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    stems = 26 * 8
    directions_FD = torch.nn.functional.normalize(draw(sizes.d_sae, sizes.d_in), dim=1)
    letter_CD, stem_SD, owner_S = directions_FD[:26], directions_FD[26 : 26 + stems], torch.arange(stems) % 26
    W_dec_FD, W_enc_FD = directions_FD.clone(), directions_FD.clone()
    W_dec_FD[26 : 26 + stems] = torch.nn.functional.normalize(stem_SD + 0.7 * letter_CD[owner_S], dim=1)
    W_enc_FD[26 : 26 + stems] *= 2
    W_enc_FD[:26] -= 2 * torch.zeros(26, sizes.d_in).index_add_(0, owner_S, stem_SD)

    letter_P = torch.randint(26, (sizes.words,), generator=generator)
    own_P = torch.rand(sizes.words, generator=generator) < 0.3
    any_P, its_P = (torch.randint(n, (sizes.words,), generator=generator) for n in (stems, stems // 26))
    stem_P = torch.where(own_P, letter_P + 26 * its_P, any_P)
    other_PK = torch.randint(26 + stems, sizes.d_sae, (sizes.words, sizes.active), generator=generator)
    strength_P = 24 + 16 * torch.rand(sizes.words, generator=generator)
    x_PD = strength_P[:, None] * letter_CD[letter_P] + 15 * stem_SD[stem_P]
    for other_P in other_PK.T:
        x_PD += 4 * draw(sizes.words).abs()[:, None] * directions_FD[other_P]
    strongest = (x_PD[:512] @ W_enc_FD.T).flatten().topk(512 * (sizes.active + 2)).values
    return {
        "x": x_PD,
        "W_enc": W_enc_FD.T.contiguous(),
        "W_dec": W_dec_FD,
        "threshold": strongest[-1:].clone(),
        "letters": letter_P,
        "test": torch.arange(sizes.words) >= int(0.8 * sizes.words),
    }


def encode(x_PD: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    pre_PF = x_PD @ tensors["W_enc"]
    return pre_PF * (pre_PF > tensors["threshold"])


def timed(times: dict[str, float], name: str, function: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    value = function()
    times[name] = time.perf_counter() - start
    return value


def make(file: Path, sizes: Sizes, seed: int) -> None:
    from masked_sae.evals.absorption import evaluate_absorption
    from masked_sae.evals.concept_probes import SPARSE_FIT, fit_concept_probes, fit_probes, sparse_rows
    from masked_sae.evals.texts.activation_cache import TokenizedTexts
    from masked_sae.evals.texts.concepts import Concepts

    tensors = synthetic(sizes, seed)
    one_token = torch.ones(sizes.words, 1, dtype=torch.long)
    labels_PC = tensors["letters"][:, None] == torch.arange(26)
    texts = TokenizedTexts(one_token, one_token[:, 0], one_token.bool())
    concepts = Concepts("first_letter", texts, tuple(LETTERS), labels_PC, tensors["test"], minimum=20)
    x_PD, times = tensors["x"], dict[str, float]()
    fit_probes(x_PD[:9], labels_PC[:9], SPARSE_FIT, 0)  # the first optimizer of a process loads half of torch
    probes = timed(times, "ground-truth probes", lambda: fit_concept_probes(concepts, x_PD))
    f_PF = timed(
        times,
        "encode, once",
        lambda: sparse_rows(torch.cat([encode(x, tensors).to_sparse() for x in x_PD.split(1024)])),
    )
    result = timed(
        times,
        "k-sparse probes and absorption",
        lambda: evaluate_absorption(concepts, x_PD, f_PF, tensors["W_dec"], probes=probes)["weight"],
    )
    train_P = ~tensors["test"]
    ranking = fit_probes(f_PF[train_P.numpy()], labels_PC[train_P], SPARSE_FIT, 0)
    tensors |= {"probe": probes.linear.W_CD, "probe_bias": probes.linear.b_C}
    tensors |= {"ranking": ranking.W_CD, "ranking_bias": ranking.b_C}
    ours = {"sizes": asdict(sizes), "metrics": result.metrics(), "times": times}
    ours |= {"concepts": [asdict(concept) for concept in result.concepts], "not_measurable": result.not_measurable}
    ours |= {"threads": torch.get_num_threads()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, {"ours": json.dumps(ours)})
    print(json.dumps({key: ours[key] for key in ("sizes", "metrics", "times", "threads")}, indent=2))


class StoredSAE:
    """What SAEBench asks of an SAE."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.W_dec, self.W_enc = tensors, tensors["W_dec"], tensors["W_enc"]
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.cfg = SimpleNamespace(d_sae=len(self.W_dec))

    def encode(self, x_PD: Tensor) -> Tensor:
        return encode(x_PD, self.tensors)


class StoredLM:
    """What SAEBench's calculator asks of an LM; a word is the number of its activation."""

    def __init__(self, x_PD: Tensor) -> None:
        self.x_PD = x_PD

    def to_tokens(self, text: str) -> Tensor:
        return torch.zeros(1, 1)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, Tensor]]:
        rows = [int(prompt.strip().removesuffix(":")) for prompt in prompts]
        return None, {names_filter[0]: self.x_PD[rows][:, None]}


@dataclass(frozen=True)
class Scores:
    """SAEBench's table, its split latents, and the words that the ground-truth probe gets right, by letter."""

    table: Any
    splits: list[list[int]]
    right: list[list[str]]


class SAEBench:
    """SAEBench's functions in the order in which it calls them, on the tensors of a file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        from sae_bench.evals.absorption import feature_absorption_calculator, k_sparse_probing, probing

        self.calculator, self.sparse, self.probing = feature_absorption_calculator, k_sparse_probing, probing
        self.x_PD, self.sae = tensors["x"], StoredSAE(tensors)
        words = [(str(row), letter) for row, letter in enumerate(tensors["letters"].tolist())]
        test = tensors["test"].tolist()
        self.train_words = [word for word, is_test in zip(words, test, strict=True) if not is_test]
        self.test_words = [word for word, is_test in zip(words, test, strict=True) if is_test]
        self.x_train_PD, self.x_test_PD = self.x_PD[~tensors["test"]], self.x_PD[tensors["test"]]
        self.y_train_PC = torch.nn.functional.one_hot(tensors["letters"][~tensors["test"]], 26).float()
        self.settings: dict[str, Any] = {"device": self.sae.device, "show_progress": False, "num_epochs": 50}

    def stored_probe(self, weight_CE: Tensor, bias_C: Tensor) -> Any:
        probe = self.probing.LinearProbe(weight_CE.shape[1], len(weight_CE))
        probe.load_state_dict({"fc.weight": weight_CE, "fc.bias": bias_C})
        return probe.requires_grad_(False)

    def ground_truth_probe(self) -> Any:
        return self.probing.train_multi_probe(self.x_train_PD, self.y_train_PC, weight_decay=1e-4, **self.settings)

    def ranking_probe(self) -> Any:
        f_PF = self.sae.encode(self.x_train_PD)
        return self.sparse.train_sparse_multi_probe(f_PF, self.y_train_PC, **self.settings)

    def sparse_probes(self, encode_once: bool) -> Any:
        return self.sparse.train_k_sparse_probes(
            self.sae, self.train_words, self.x_train_PD, range(1, 11), precalc_sae_acts=encode_once
        )

    def scores(self, probe: Any, sparse_probes: Any) -> Scores:
        raw = self.sparse.eval_probe_and_sae_k_sparse_raw_scores(
            self.sae, probe, sparse_probes, self.test_words, self.x_test_PD
        )
        metadata = self.sparse.sae_k_sparse_metadata(self.sae, probe, sparse_probes, sae_name="stored", layer=0)
        metrics = self.sparse.build_metrics_df(raw, metadata, max_k_value=10)
        self.sparse.add_feature_splits_to_metrics_df(metrics, max_k_value=10)
        right = [
            raw[(raw["answer_letter"] == letter) & (raw[f"score_probe_{letter}"] > 0)]["token"].tolist()
            for letter in LETTERS
        ]
        return Scores(metrics, [list(split) for split in metrics["split_feats"]], right)

    def absorption(self, probe: Any, splits: dict[int, list[int]], right: list[list[str]]) -> dict[int, list[float]]:
        """Full absorption and absorption fraction of each letter."""
        calculator = self.calculator.FeatureAbsorptionCalculator(
            model=StoredLM(self.x_PD), icl_word_list=[], max_icl_examples=0, answer_formatter=str, word_token_pos=0
        )
        rates: dict[int, list[float]] = {}
        for c, split in splits.items():
            found = calculator.calculate_absorption(self.sae, right[c], probe.weights[c], split, 0, False)
            sums = [sum(getattr(word, name) for word in found.word_results) for name in RATES]
            rates[c] = [float(total) / len(right[c]) for total in sums]
        return rates


def agreement(peer: SAEBench, tensors: dict[str, Tensor], ours: dict[str, Any]) -> dict[str, float]:
    """The largest difference between SAEBench's figures and ours over the letters, step by step from the same input."""
    worst = dict[str, float]()
    if len(peer.x_train_PD) <= 4096:  # one batch an epoch: no order to agree on
        drawn, peer.probing.LinearProbe = peer.probing.LinearProbe, from_zero(peer.probing.LinearProbe)
        for name, train in (("probe", peer.ground_truth_probe), ("ranking", peer.ranking_probe)):
            # Weights that L1 holds at 0 swing around it, by a step of Adam that round-off decides.
            top = tensors[name].topk(10, dim=1)
            worst[f"weights of the {name}, 10 largest"] = _largest(train().weights.gather(1, top.indices) - top.values)
        peer.probing.LinearProbe = drawn
    probe = peer.stored_probe(tensors["probe"], tensors["probe_bias"])
    ranking = peer.stored_probe(tensors["ranking"], tensors["ranking_bias"])
    trained, peer.sparse.train_sparse_multi_probe = peer.sparse.train_sparse_multi_probe, lambda *_, **__: ranking
    scores = peer.scores(probe, peer.sparse_probes(encode_once=True))
    peer.sparse.train_sparse_multi_probe = trained
    concepts = {LETTERS.index(concept["concept"]): concept for concept in ours["concepts"]}
    rates = peer.absorption(probe, {c: concept["split_latents"] for c, concept in concepts.items()}, scores.right)
    for c, concept in concepts.items():
        row = scores.table.iloc[c]
        differences = {
            "F1 of the probe": row["f1_probe"] - concept["probe_f1"],
            "F1 of the k-sparse probes": max(
                abs(row[f"f1_sparse_sae_{k}"] - f1) for k, f1 in enumerate(concept["sparse_f1"], start=1)
            ),
            "split latents, other": float(scores.splits[c] != concept["split_latents"]),
            "words": len(scores.right[c]) - concept["positions"],
        } | {name: rates[c][i] - concept[name] for i, name in enumerate(RATES.values())}
        for name, difference in differences.items():
            worst[name] = max(worst.get(name, 0.0), abs(difference))
    return worst


def pipeline(peer: SAEBench, ours: dict[str, Any], seed: int, encode_once: bool) -> dict[str, float]:
    """SAEBench as it runs, with its own draws; prints its figures, returns its seconds."""
    torch.manual_seed(1000 + seed)  # not the words' seed: first weights along the letters' directions
    times = dict[str, float]()
    probe = timed(times, "ground-truth probes", peer.ground_truth_probe).requires_grad_(False)
    sparse = timed(times, "k-sparse probes", lambda: peer.sparse_probes(encode_once))
    scores = timed(times, "scores", lambda: peer.scores(probe, sparse))
    kept = {c: scores.splits[c] for c in range(26) if scores.table.iloc[c]["f1_probe"] > 0.6}
    rates = timed(times, "absorption", lambda: peer.absorption(probe, kept, scores.right))
    if not rates:
        print(f"seed {seed}: no letter is measurable")
        return times
    means = {name: statistics.fmean(rate[i] for rate in rates.values()) for i, name in enumerate(RATES.values())}
    means |= {"split_latents": statistics.fmean(map(len, kept.values())), "concepts": len(kept)}
    same = sum(kept.get(LETTERS.index(each["concept"])) == each["split_latents"] for each in ours["concepts"])
    print(f"seed {seed}: {means}, the same split latents as ours for {same} letters")
    return times


def _largest(difference: Tensor) -> float:
    return difference.detach().abs().max().item()


def from_zero(cls: Any) -> Any:
    """SAEBench's probe with its first weights at zero, as ours."""

    def probe(*args: Any, **kwargs: Any) -> Any:
        made = cls(*args, **kwargs)
        for parameter in made.parameters():
            torch.nn.init.zeros_(parameter)
        return made

    return probe


def check(file: Path, seeds: int, encode_once: bool) -> None:
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
        ours = json.loads(opened.metadata()["ours"])
    peer = SAEBench(tensors)
    worst = agreement(peer, tensors, ours)
    print("largest difference between SAEBench and ours, over the letters")
    for name, difference in worst.items():
        print(f"  {name:40}{difference:.1e}")
    print(f"ours: {ours['metrics']}")
    print(f"seconds, ours, {ours['threads']} threads: {ours['times']}")
    for seed in range(seeds):
        times = pipeline(peer, ours, seed, encode_once)
        how = "latents encoded once" if encode_once else "as SAEBench's defaults are"
        print(f"seconds, SAEBench, {torch.get_num_threads()} threads, {how}: {times}")
        total = [sum(run.values()) for run in (times, ours["times"])]
        print(f"in all {total[0]:.1f} against {total[1]:.1f}: {total[0] / total[1]:.1f} times")
    allowed = {"F1 of the k-sparse probes": SPARSE_F1_TOLERANCE}
    wrong = {name: difference for name, difference in worst.items() if not difference <= allowed.get(name, TOLERANCE)}
    if wrong:
        raise SystemExit(f"differ by more than {TOLERANCE}: {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true", help="make: small sizes, for which the probes' steps agree too")
    parser.add_argument("--runs", type=int, default=1, help="check: of SAEBench's own pipeline, by seed")
    parser.add_argument("--encode-once", action="store_true", help="check: SAEBench's option for small SAEs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"make: {value} by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.step == "check":
        check(arguments.file, arguments.runs, arguments.encode_once)
        return
    sizes = asdict(QUICK if arguments.quick else Sizes())
    sizes |= {key: getattr(arguments, key) for key in sizes if getattr(arguments, key) is not None}
    make(arguments.file, Sizes(**sizes), arguments.seed)


if __name__ == "__main__":
    main()
