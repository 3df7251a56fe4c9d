"""Many runs: on this machine, on SLURM, and how they are doing."""
