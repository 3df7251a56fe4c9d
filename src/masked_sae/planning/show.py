"""`plan=true`: the bill in place of the training."""

from pathlib import Path

from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.planning.bill import bill_of
from masked_sae.planning.speed import speed_of
from masked_sae.planning.table import print_bill, write_bill
from masked_sae.runs.run import make_run
from masked_sae.sweeps.foreseen import Foreseen, jobs_here


def plan_alone(config: RunConfig) -> None:
    """The bill of one run."""
    show_plan(jobs_here([make_run(config, {})]), config)


def show_plan(foreseen: Foreseen, config: RunConfig) -> None:
    """Prints what the jobs take, and writes it where `plan_json` says.

    Args:
        config: of any member.

    Raises:
        InputError: what is planned could not begin.
    """
    file = None if config.plan_json is None else Path(config.plan_json).expanduser()
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError("plan_json", config.plan_json, "a file in a folder that exists")
    if not foreseen.packs:
        print(f"nothing is left to do: {foreseen.done} runs are done")
        return
    bill = bill_of(foreseen, speed_of(config))
    print_bill(bill)
    if file is not None:
        write_bill(file, bill)
        print(file)
