"""Sparse probing, TPP and SCR beside SAEBench's own functions: the same tensors, the same probes, the same figures?

    python benchmarks/saebench/probing.py make FILE       # in this project's environment
    python benchmarks/saebench/probing.py check FILE      # in one with `sae-bench` (it wants numpy<2, datasets<4)

`make` draws tensors, computes our figures and times them; `check` calls SAEBench's functions on the same tensors and
compares. SAEBench draws the negative texts anew for every accuracy; for the comparison it is given ours, and beside it
stands what it gives on its own. Texts come in two versions: all of one length, and padded, as SAEBench pads.

Times are for SAEBench's data sizes (5 classes of 2,000 and 500 texts of 128 tokens for TPP, 6,000 and 1,000 texts for
SCR). Neither side's encoding of so many tokens fits a quick benchmark: `--slice` texts are timed on both sides and
scaled to the number of texts that each side encodes (and decodes); the rest is timed as it is. LM forwards are aside.

Axes: N texts, L tokens of a text, D `d_in`, F `d_sae`, C classes.
"""

import argparse
import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KS = (1, 2, 5)
NS = (2, 5, 10, 20, 50, 100, 500)
CLASSES = 5
# SAEBench's six sets of SCR: the positive and the negative texts of label, attribute, and both together.
SCR_SETS = [
    ("professor / nurse", "nurse_data_only"),
    ("male / female", "female_data_only"),
    ("male_professor / female_nurse", "female_nurse_data_only"),
]


class PlainSAE(nn.Module):
    """A JumpReLU SAE with weights of its own. At an activation of 0 some latents fire, as in any with biases."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, value)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def encode(self, x: Tensor) -> Tensor:
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        return pre * (pre > self.threshold)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.W_dec + self.b_dec


class SilentAtPadding(PlainSAE):
    """The same SAE, whose latents are 0 where the activation is, that is at padded positions."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) * (x != 0).any(-1, keepdim=True)


def random_sae(d_in: int, d_sae: int, generator: torch.Generator) -> dict[str, Tensor]:
    W_dec_FD = nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    b_dec_D = torch.randn(d_in, generator=generator)  # the mean activation
    return {
        "W_dec": W_dec_FD,
        "W_enc": W_dec_FD.T.contiguous(),
        "b_dec": b_dec_D,
        "b_enc": 0.1 * torch.randn(d_sae, generator=generator),
        "threshold": torch.tensor(1.2),
    }


def random_texts(
    labels_N: Tensor, attributes_N: Tensor, length: int, mean_D: Tensor, padded: bool, generator: torch.Generator
) -> Tensor:
    """Activations (N, L, D) that depend on label and attribute; 0 at padded positions."""
    d_in = len(mean_D)
    label_CD = 0.45 * torch.randn(int(labels_N.max()) + 1, d_in, generator=generator)
    attribute_D = 0.45 * torch.randn(d_in, generator=generator)
    x_NLD = torch.randn(len(labels_N), length, d_in, generator=generator) + mean_D
    strength_N = torch.rand(len(labels_N), 2, generator=generator)
    x_NLD += (label_CD[labels_N] * strength_N[:, :1])[:, None]
    x_NLD += (attribute_D * attributes_N[:, None] * strength_N[:, 1:])[:, None]
    if padded:
        lengths_N = torch.randint(length // 4, length + 1, (len(labels_N),), generator=generator)
        x_NLD *= (torch.arange(length) < lengths_N[:, None])[:, :, None]
    return x_NLD


def pooled(values_NLE: Tensor, x_NLD: Tensor) -> Tensor:
    """Mean over the positions that are no padding."""
    real_NL1 = (x_NLD != 0).any(-1, keepdim=True)
    return (values_NLE * real_NL1).sum(1) / real_NL1.sum(1)


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


# --- ours ---------------------------------------------------------------------------------------------------------


def make(arguments: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = {name: agreement_case(padded, generator) for name, padded in (("plain", False), ("padded", True))}
    kept = {"cases": cases, "speed": None if arguments.no_speed else speed_case(arguments, generator)}
    torch.save(kept, arguments.file)
    for name, case in cases.items():
        print(name, json.dumps({key: round(value, 4) for key, value in case["ours"].items()}))
    if kept["speed"]:
        print(json.dumps(kept["speed"]["ours"], indent=2))


def agreement_case(padded: bool, generator: torch.Generator) -> dict[str, Any]:
    from masked_sae.evals.scr import fit_scr_probes, scr
    from masked_sae.evals.sparse_probing import accuracies_on_sets
    from masked_sae.evals.tpp import fit_tpp_probes, tpp

    weights = random_sae(64, 1024, generator)
    sae = PlainSAE(weights)
    N, length = 1400, 24
    labels_N = torch.arange(N) % CLASSES
    attributes_N = torch.arange(N) // CLASSES % 2 == 0
    train_N = torch.arange(N) < 1000
    x_NLD = random_texts(labels_N, attributes_N, length, weights["b_dec"], padded, generator)
    x_ND, f_NF = pooled(x_NLD, x_NLD), pooled(sae.encode(x_NLD), x_NLD)
    tpp_probes = fit_tpp_probes(x_ND, labels_N, train_N)
    removal = tpp(tpp_probes, f_NF, weights["W_dec"], ns=NS)
    pair_N = labels_N < 2
    scr_labels_N = labels_N == 1
    scr_case = [t[pair_N] for t in (x_ND, scr_labels_N, attributes_N, train_N)]
    scr_probes = fit_scr_probes(*scr_case)
    share = scr(scr_probes, f_NF[pair_N], weights["W_dec"], ns=NS)
    latents, lm = (
        accuracies_on_sets(v, tpp_probes.train, tpp_probes.test, ks=KS, all_values=False) for v in (f_NF, x_ND)
    )
    effects_CF = tpp_probes.train.mean_differences(f_NF).clamp_min(0)
    effects_CF = effects_CF * (tpp_probes.probes.W_CD @ weights["W_dec"].T)
    ours = {f"tpp/{key}": value for key, value in removal.metrics().items()}
    ours |= {f"scr/{key}": value for key, value in share.metrics().items()}
    ours |= {f"sparse_probing/top_{k}": value for k, value in latents.top.items()}
    ours |= {f"sparse_probing/lm_top_{k}": value for k, value in lm.top.items()}
    return {
        "weights": weights,
        "x_NLD": x_NLD,
        "labels_N": labels_N,
        "train_N": train_N,
        "tpp": {"W_CD": tpp_probes.probes.W_CD, "b_C": tpp_probes.probes.b_C}
        | {"train": tpp_probes.train.rows_CM, "test": tpp_probes.test.rows_CM},
        "positive_effects": int((effects_CF > 0).sum(1).min()),
        "scr": {"W_CD": scr_probes.probes.W_CD, "b_C": scr_probes.probes.b_C, "rows": pair_N.nonzero()[:, 0]}
        | {"train": scr_probes.train.rows_CM, "test": scr_probes.balanced.rows_CM},
        "ours": ours,
    }


def speed_case(arguments: argparse.Namespace, generator: torch.Generator) -> dict[str, Any]:
    """Our seconds at the given sizes, and what SAEBench needs to be timed on the same inputs."""
    from masked_sae.evals.scr import fit_scr_probes, scr
    from masked_sae.evals.sparse_probing import probe_accuracies
    from masked_sae.evals.texts.activation_cache import TokenizedTexts
    from masked_sae.evals.tpp import fit_tpp_probes, tpp
    from masked_sae.saes import InferenceSAE

    weights = random_sae(arguments.d_in, arguments.d_sae, generator)
    # The threshold that leaves about k latents, at activations of this size.
    slice_labels_N = torch.arange(arguments.slice) % CLASSES
    x_NLD = random_texts(slice_labels_N, slice_labels_N > 1, arguments.tokens, weights["b_dec"], False, generator)
    sae = PlainSAE(weights | {"threshold": torch.tensor(0.0)})
    weights["threshold"] = sae.encode(x_NLD[0]).topk(arguments.k).values[:, -1].mean()
    read_NL = torch.ones(x_NLD.shape[:2], dtype=torch.bool)
    texts = TokenizedTexts(read_NL.long(), read_NL.sum(1), read_NL)
    sae = InferenceSAE(
        W_enc_DF=weights["W_enc"],
        b_enc_F=weights["b_enc"],
        W_dec_FD=weights["W_dec"],
        b_dec_D=weights["b_dec"],
        b_in_D=weights["b_dec"],
        threshold_F=weights["threshold"].expand(arguments.d_sae),
    )
    with torch.inference_mode():
        x_PD = x_NLD.flatten(0, 1)
        texts.pooled_latents(sae.encode, x_PD, arguments.d_sae)
        (means_NF, _), encode = timed(lambda: texts.pooled_latents(sae.encode, x_PD, arguments.d_sae))
        torch.testing.assert_close(means_NF, pooled(PlainSAE(weights).encode(x_NLD), x_NLD))
    train, test = arguments.train // 2 * CLASSES, arguments.test // 2 * CLASSES
    labels_N = torch.arange(train + test) % CLASSES
    attributes_N = torch.arange(train + test) // CLASSES % 2 == 0
    train_N = torch.arange(train + test) < train
    # Mean latents, a tenth of them not 0, more of the first in the first class, and so on.
    f_NF = torch.rand(train + test, arguments.d_sae, generator=generator).sub_(0.9).clamp_min_(0)
    width = arguments.d_sae // (2 * CLASSES)
    for label in range(CLASSES):
        here = (labels_N == label).nonzero()[:, 0]
        f_NF[here, label * width : (label + 1) * width] *= 1.3
    f_NF[attributes_N, CLASSES * width : (CLASSES + 1) * width] *= 1.3
    x_ND = f_NF @ weights["W_dec"] + 0.1 * torch.randn(len(f_NF), arguments.d_in, generator=generator)
    probes, fit_tpp = timed(lambda: fit_tpp_probes(x_ND, labels_N, train_N))
    _, algebra = timed(lambda: tpp(probes, f_NF, weights["W_dec"]))
    _, sparse = timed(lambda: probe_accuracies(f_NF, labels_N, train_N, all_values=False))
    _, whole = timed(lambda: probe_accuracies(f_NF, labels_N, train_N, ks=()))
    # SCR's 6,000 and 1,000 texts: two of the classes, or what there is of them.
    scr_N = torch.arange(train + test) < 1.5 * arguments.train
    scr_N |= ~train_N & (torch.arange(train + test) < train + arguments.test)
    fitted, fit_scr = timed(
        lambda: fit_scr_probes(x_ND[scr_N], (labels_N > 2)[scr_N], attributes_N[scr_N], train_N[scr_N])
    )
    _, scr_algebra = timed(lambda: scr(fitted, f_NF[scr_N], weights["W_dec"]))
    return {
        "sizes": {key: getattr(arguments, key) for key in ("d_in", "d_sae", "k", "tokens", "train", "test", "slice")},
        "weights": weights,
        "x_NLD": x_NLD,
        "labels_N": slice_labels_N,
        "ours": {
            "threads": torch.get_num_threads(),
            "encode_slice": encode,
            "tpp_probes": fit_tpp,
            "tpp": algebra,
            "scr_probes": fit_scr,
            "scr": scr_algebra,
            "sparse_probing": sparse,
            "all_latents": whole,
        },
    }


# --- SAEBench's ---------------------------------------------------------------------------------------------------


def check(arguments: argparse.Namespace) -> None:
    os.environ["JAXTYPING_DISABLE"] = "1"  # its checks of shapes refuse SAEBench's own calls
    kept = torch.load(arguments.file, weights_only=False)
    report: dict[str, Any] = {name: check_case(name, case) for name, case in kept["cases"].items()}
    if kept["speed"]:
        report["speed"] = check_speed(kept["speed"])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if report["plain"]["largest_difference"] > 1e-4 or report["padded"]["largest_difference"] > 1e-4:
        raise SystemExit("the figures differ by more than 1e-4")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_case(name: str, case: dict[str, Any]) -> dict[str, Any]:
    """SAEBench's figures with our negative texts, with latents that are silent at padding, and as it is."""
    ours = case["ours"]
    given, theirs_with_padding = saebench_figures(case, SilentAtPadding(case["weights"]), fixed=True), None
    if name == "padded":
        theirs_with_padding = saebench_figures(case, PlainSAE(case["weights"]), fixed=True)
    redrawn = []
    for seed in range(3):
        torch.manual_seed(seed)
        redrawn.append(saebench_figures(case, SilentAtPadding(case["weights"]), fixed=False))
    filled = {f"tpp/{part}_{n}" for part in ("top", "intended", "unintended") for n in NS}
    filled = {key for key in filled if int(key.split("_")[-1]) > case["positive_effects"]}
    print(f"\n{name} texts; at least {case['positive_effects']} latents of each class have a positive effect")
    print(f"{'':28}{'ours':>9}{'SAEBench':>10}{'differ':>10}{'padding':>10}   own negatives")
    largest = 0.0
    for key, value in given.items():
        difference = abs(value - ours[key])
        if key not in filled:
            largest = max(largest, difference)
        padding = "" if theirs_with_padding is None else f"{theirs_with_padding[key]:.4f}"
        own = " ".join(f"{figures[key]:.4f}" for figures in redrawn)
        note = "  (fills up with latents of no effect)" if key in filled else ""
        print(f"{key:28}{ours[key]:9.4f}{value:10.4f}{difference:10.1e}{padding:>10}   {own}{note}")
    return {
        "largest_difference": largest,
        "ours": ours,
        "saebench": given,
        "with_latents_at_padding": theirs_with_padding,
        "with_its_own_negatives": redrawn,
        "own_probes": own_probes(case),
    }


def saebench_figures(case: dict[str, Any], sae: Any, *, fixed: bool) -> dict[str, float]:
    import sae_bench.evals.scr_and_tpp.main as main_module
    from sae_bench.evals.sparse_probing import probe_training
    from sae_bench.sae_bench_utils import activation_collection

    splits = {"train": class_dictionary(case, True), "test": class_dictionary(case, False)}
    meaned = {key: activation_collection.create_meaned_model_activations(acts) for key, acts in splits.items()}
    original = probe_training.prepare_probe_data
    probes = as_probes(case["tpp"], [str(label) for label in range(CLASSES)])
    names = list(probes)
    figures: dict[str, float] = {}
    with quiet():
        try:
            if fixed:
                probe_training.prepare_probe_data = our_sets(case)
            clean = main_module.get_probe_test_accuracy(probes, names, meaned["test"], 500, False)
            effects = main_module.get_all_node_effects_for_one_sae(sae, probes, names, False, splits["train"], 125)
            changed = main_module.perform_feature_ablations(
                probes, sae, 125, splits["test"], effects, list(NS), names, 500, False
            )
            overall, _ = main_module.create_tpp_plotting_dict(changed, clean)
            latents = {
                key: activation_collection.get_sae_meaned_activations(acts, sae, 125) for key, acts in splits.items()
            }
            for k in KS:
                for key, values in ((f"top_{k}", latents), (f"lm_top_{k}", meaned)):
                    _, accuracies = probe_training.train_probe_on_activations(values["train"], values["test"], k)
                    figures[f"sparse_probing/{key}"] = sum(accuracies.values()) / len(accuracies)
        finally:
            probe_training.prepare_probe_data = original
        torch.set_grad_enabled(False)
        for part, theirs in (("top", "total_metric"), ("intended", "intended_diff_only"), ("unintended", None)):
            for n in NS:
                figures[f"tpp/{part}_{n}"] = overall[f"tpp_threshold_{n}_{theirs or 'unintended_diff_only'}"]
        figures |= scr_figures(case, sae, main_module, activation_collection)
    return figures


def scr_figures(case: dict[str, Any], sae: Any, main_module: Any, activation_collection: Any) -> dict[str, float]:
    rows, names = case["scr"]["rows"], [positive for positive, _ in SCR_SETS]
    probes = as_probes(case["scr"], names)
    x_NLD = case["x_NLD"][rows]
    acts: dict[str, dict[str, Tensor]] = {"train": {}, "test": {}}
    for split, sets in acts.items():
        sets_CM = case["scr"][split]
        half = sets_CM.shape[1] // 2
        for task, pair in enumerate(SCR_SETS):
            row_M = sets_CM[min(task, len(sets_CM) - 1)]  # it tests the biased probe on biased texts too, for nothing
            sets[pair[0]], sets[pair[1]] = x_NLD[row_M[:half]], x_NLD[row_M[half:]]
    meaned = activation_collection.create_meaned_model_activations(acts["test"])
    clean = main_module.get_probe_test_accuracy(probes, names, meaned, 500, True)
    effects = main_module.get_all_node_effects_for_one_sae(sae, probes, names, True, acts["train"], 125)
    changed = main_module.perform_feature_ablations(probes, sae, 125, acts["test"], effects, list(NS), names, 500, True)
    shares = main_module.get_scr_plotting_dict(changed, clean)
    return {f"scr/top_{n}": shares[f"scr_metric_threshold_{n}"] for n in NS}


def class_dictionary(case: dict[str, Any], train: bool) -> dict[str, Tensor]:
    chosen_N = case["train_N"] == train
    return {str(label): case["x_NLD"][chosen_N & (case["labels_N"] == label)] for label in range(CLASSES)}


def our_sets(case: dict[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Stands in for SAEBench's drawing of texts: gives the ones that we drew."""
    places = {}
    for split in ("train", "test"):
        chosen_N = case["train_N"] == (split == "train")
        order = torch.cat([(chosen_N & (case["labels_N"] == label)).nonzero()[:, 0] for label in range(CLASSES)])
        place_N = torch.full((len(chosen_N),), -1)
        place_N[order] = torch.arange(len(order))
        places[len(order)] = place_N[case["tpp"][split]]

    def prepare(activations: dict[str, Tensor], name: str, perform_scr: bool = False) -> tuple[Tensor, Tensor]:
        joined = torch.cat(list(activations.values()))
        row_M = places[len(joined)][int(name)]
        labels_M = (torch.arange(len(row_M)) < len(row_M) // 2).int()
        return joined[row_M], labels_M

    return prepare


def as_probes(weights: dict[str, Tensor], names: list[str]) -> dict[str, Any]:
    from sae_bench.evals.sparse_probing.probe_training import Probe

    probes = {}
    for name, w_D, b in zip(names, weights["W_CD"], weights["b_C"], strict=True):
        probe = Probe(len(w_D), torch.float32)
        probe.net.weight.data, probe.net.bias.data = w_D[None].clone(), b[None].clone()
        probes[name] = probe
    return probes


def own_probes(case: dict[str, Any]) -> dict[str, Any]:
    """TPP with the probes that SAEBench trains, which are the best on the test texts, beside ours."""
    from sae_bench.evals.sparse_probing import probe_training
    from sae_bench.sae_bench_utils import activation_collection

    meaned = [
        activation_collection.create_meaned_model_activations(class_dictionary(case, train)) for train in (True, False)
    ]
    original = probe_training.prepare_probe_data
    with quiet():
        try:
            probe_training.prepare_probe_data = our_sets(case)
            torch.manual_seed(0)
            probes, accuracies = probe_training.train_probe_on_activations(
                *meaned, None, use_sklearn=False, epochs=20, early_stopping_patience=20, l1_penalty=1e-3
            )
        finally:
            probe_training.prepare_probe_data = original
            torch.set_grad_enabled(False)
    stacked = {"W_CD": torch.cat([p.net.weight.data for p in probes.values()])}
    stacked["b_C"] = torch.cat([p.net.bias.data for p in probes.values()])
    figures = saebench_figures(case | {"tpp": case["tpp"] | stacked}, SilentAtPadding(case["weights"]), fixed=True)
    result = {"accuracy_on_test": sum(accuracies.values()) / len(accuracies)}
    result |= {f"tpp/top_{n}": figures[f"tpp/top_{n}"] for n in NS}
    print("with SAEBench's probes:", json.dumps({key: round(value, 4) for key, value in result.items()}))
    print("with ours:             ", round(case["ours"]["tpp/clean_accuracy"], 4))
    return result


def check_speed(speed: dict[str, Any]) -> dict[str, Any]:
    """SAEBench's seconds on the slice, scaled to its data, beside ours."""
    import sae_bench.evals.scr_and_tpp.main as main_module
    from sae_bench.evals.sparse_probing import probe_training
    from sae_bench.sae_bench_utils import activation_collection

    sizes, ours, sae, x_NLD = speed["sizes"], speed["ours"], PlainSAE(speed["weights"]), speed["x_NLD"]
    torch.set_num_threads(ours["threads"])
    texts = {str(label): x_NLD[speed["labels_N"] == label] for label in range(CLASSES)}
    probes = {name: probe_training.Probe(sizes["d_in"], torch.float32) for name in texts}
    to_ablate = torch.zeros(sizes["d_sae"], dtype=torch.bool)
    to_ablate[:20] = True
    with quiet(), torch.no_grad():
        encode = lambda: activation_collection.get_sae_meaned_activations({"0": x_NLD}, sae, 125)  # noqa: E731
        ablate = lambda: main_module.ablated_precomputed_activations(x_NLD, sae, to_ablate, 125)  # noqa: E731
        effects = lambda: main_module.get_effects_per_class_precomputed_acts(  # noqa: E731
            sae, probes["0"], "0", texts, False, 125
        )
        encode()
        encoding, ablating, effecting = (timed(call)[1] for call in (encode, ablate, effects))
    used = 2 * len(texts["0"])  # texts that one call for effects encodes
    n_slice, classes, n_values = len(x_NLD), CLASSES, len(NS)
    tpp_texts = {"all": (sizes["train"] + sizes["test"]) // 2 * classes, "test": sizes["test"] // 2 * classes}
    scr_test = 3 * sizes["test"]  # six sets of half of a probe's texts
    scr_texts = int(1.5 * (sizes["train"] + sizes["test"]))
    rows: dict[str, dict[str, float]] = {}
    for unit in ("seconds", "cpu_seconds"):
        one, two, three = (part[unit] for part in (encoding, ablating, effecting))
        mine = ours["encode_slice"][unit] / n_slice
        theirs_tpp = classes * sizes["train"] * three / used + classes * n_values * tpp_texts["test"] * two / n_slice
        theirs_scr = 3 * sizes["train"] * three / used + 3 * n_values * scr_test * two / n_slice
        rows[unit] = {
            "tpp_saebench": theirs_tpp,
            "tpp_ours": tpp_texts["all"] * mine + ours["tpp"][unit],
            "scr_saebench": theirs_scr,
            "scr_ours": scr_texts * mine + ours["scr"][unit],
            "encode_a_text_saebench": one / n_slice,
            "encode_a_text_ours": mine,
            "ablate_a_text_saebench": two / n_slice,
        }
        for metric in ("tpp", "scr"):
            rows[unit][f"{metric}_times"] = rows[unit][f"{metric}_saebench"] / rows[unit][f"{metric}_ours"]
    print(f"\nsizes {sizes}, {ours['threads']} threads, load {os.getloadavg()[0]:.1f}")
    for key in rows["seconds"]:
        print(f"{key:28}{rows['seconds'][key]:14.4f} s{rows['cpu_seconds'][key]:14.4f} cpu s")
    return {"sizes": sizes, "saebench_slice": [encoding, ablating, effecting], "ours": ours, "scaled": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["make", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--k", type=int, default=40, help="latents of an activation")
    parser.add_argument("--tokens", type=int, default=128, help="of a text")
    parser.add_argument("--train", type=int, default=4000, help="texts of a probe")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--slice", type=int, default=20, help="texts on which encoding is timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--no-speed", action="store_true", help="figures only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"d_in": 128, "d_sae": 2048, "tokens": 32, "train": 400, "test": 100}
        for key, value in quick.items():
            setattr(arguments, key, value)
    torch.set_num_threads(arguments.threads)
    (make if arguments.part == "make" else check)(arguments)


if __name__ == "__main__":
    main()
