"""What a bfloat16 encoder product changes: which latents are selected, and the explained variance after training.

    python -m src.train sae.compute_dtype=float32,bfloat16 seed=0,1,2 name=compute_dtype -m
    python benchmarks/bfloat16.py runs/compute_dtype

Selection: the share of the k·B largest latents of held-out batches that both products select, by the run's own weights.
"""

import argparse
import json
from pathlib import Path

import torch
from omegaconf import OmegaConf

from masked_sae.activations.held_out import sequences_to_measure
from masked_sae.config import typed_config
from masked_sae.interop.saelens import load_sae
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import find_inputs
from masked_sae.saes.fast_topk import largest
from masked_sae.training.assemble import load_lm_and_text


@torch.inference_mode()
def selected_in_common(run: RunFolder, tokens: int) -> float:
    config = typed_config(OmegaConf.load(run.config))  # type: ignore[arg-type]
    sae, _ = load_sae(run.sae)
    found = load_lm_and_text(config, find_inputs(config), torch.device("cpu"))
    tokens_NT, kept_NT = found.held_out.read(sequences_to_measure(found.held_out, tokens))
    shares: list[float] = []
    for x_BD in found.lm.activations(tokens_NT)[kept_NT].split(config.data.batch_size):
        exact_BF = sae.pre_activations(x_BD)
        rounded_BF = ((x_BD - sae.b_in_D).bfloat16() @ sae.W_enc_DF.bfloat16()).float() + sae.b_enc_F
        k = round(config.sae.target_l0 or 0) * len(x_BD)
        places = [largest(pre_BF.view(1, -1), k, static=False)[0] for pre_BF in (exact_BF, rounded_BF)]
        shares.append(torch.isin(*places).double().mean().item())
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    arguments = parser.parse_args()
    print(f"{'product':10}{'seed':>5}{'expl. var.':>12}{'selected in common':>20}")
    for path in sorted(arguments.sweep.glob("*/results.json")):
        results = json.loads(path.read_text())
        config = results["config"]
        share = selected_in_common(RunFolder(path.parent), arguments.tokens)
        variance = results["metrics"]["core/explained_variance"]
        print(f"{config['sae']['compute_dtype']:10}{config['seed']:5}{variance:12.4f}{share:20.5f}")


if __name__ == "__main__":
    main()
