"""What a sweep can show, told from its configurations before anything is trained."""

from collections.abc import Sequence
from dataclasses import fields

from masked_sae.config import RunConfig
from masked_sae.masks.run_masks import PAPER_RATE
from masked_sae.settings import cures_of


def what_a_claim_lacks(configs: Sequence[RunConfig]) -> list[str]:
    """What the report needs to say whether masking made a difference, and these runs do not have."""
    plain = [one for one in configs if all(mask.is_off for mask in one.mask.values()) and not cures_of(one.sae)]
    masked = [config for config in configs if config not in plain]
    lacking: list[str] = []
    if not plain:
        lacking.append(f"no unmasked run to compare with (add {PAPER_RATE}=0)")
    if not masked:
        lacking.append(f"no masked run (add {PAPER_RATE}=0,0.1)")
    lacking += _repetitions_lacking([some for some in (plain, masked) if some])
    sae = configs[0].sae
    if all(config.sae.target_l0 is None or config.sae.calibrate == "none" for config in configs):
        keys = [one.name for one in fields(sae) if one.metadata.get("sparsity")]
        if len({tuple(getattr(config.sae, key, None) for key in keys) for config in configs}) < 2:
            which = f" (sweep sae.{keys[0]})" if keys else ""
            lacking.append(f"one sparsity, and masking shifts L0, so runs may not compare at matched L0{which}")
    return lacking


def _repetitions_lacking(sides: Sequence[Sequence[RunConfig]]) -> list[str]:
    """Masked and unmasked runs are paired by both seeds, and text orders are the sample."""
    paired = set[tuple[int, int]].intersection(*({(one.data_seed, one.seed) for one in side} for side in sides))
    if len({data_seed for data_seed, _ in paired}) >= 2:
        return []
    if all(one.data.seed is None for side in sides for one in side):
        return ["one seed, so nothing tells an effect from chance (add seed=0,1,2,3,4)"]
    return ["one text order, so nothing tells an effect from chance (add data.seed=0,1,2)"]
