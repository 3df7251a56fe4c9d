"""What a run needs of the network and of the text, had before it is trained."""

from masked_sae.activations.hook_points import by_kind, hook_points
from masked_sae.config import RunConfig
from masked_sae.runs.run import find_inputs_of, make_run
from masked_sae.training.assemble import find_device, load_lm_and_text, make_plan


def prepare(config: RunConfig) -> list[str]:
    """Downloads the LM where it is not here, makes the token store, and looks whether the run could be trained.

    Returns:
        Lines that say what there is.

    Raises:
        InputError: see `make_run`, `load_lm_and_text` and `make_plan`.
    """
    inputs = find_inputs_of(make_run(config, {}))
    found = load_lm_and_text(config, inputs, find_device(config.trainer.device))
    plan = make_plan(config, found)
    sequences, lm = len(found.training), found.lm
    return [
        f"hook points of {config.lm.name}, and the numbers that each has for a token:",
        *(f"  {line}" for line in by_kind(hook_points(lm))),
        f"read is {lm.hook_name}: {lm.d_in}",
        f"text: {sequences:,} sequences of {config.data.context_length} tokens to train on, "
        f"of which a run reads {plan.sequences:,}; {len(found.held_out):,} held out",
    ]
