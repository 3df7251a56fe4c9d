"""Runs whose ids are written down, today's and those that they had before whole files were in them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """Attributes:
    settings: on the command line.
    swept: the keys that are swept, with spaces between them.
    today: its id.
    former: its id at commit 1c9cfa0.
    """

    settings: str
    swept: str
    today: str
    former: str

    @property
    def overrides(self) -> list[str]:
        return self.settings.split()

    @property
    def values(self) -> dict[str, str]:
        """Of the keys that are swept."""
        given = dict(override.split("=", 1) for override in self.overrides)
        return {key: given[key] for key in self.swept.split()}


# A new default changes the ids of those that have it, as it should.
NAMED = [
    Named("", "", "saematryoshka-rate0.1-2d50f1f4", "saematryoshka-rate0.1-8d5215cd"),
    Named("sae=topk", "", "saetopk-rate0.1-9dfbbf09", "saetopk-rate0.1-f2b6e82c"),
    Named("sae=batch_topk", "", "saebatch_topk-rate0.1-aa1ab749", "saebatch_topk-rate0.1-5b441d91"),
    Named("sae=relu sae.encoder_norm_init=1", "", "saerelu-rate0.1-4f5de777", "saerelu-rate0.1-faf2d607"),
    Named(
        "sae=jumprelu sae.encoder_norm_init=1 sae.threshold_init=0.5 sae.bandwidth=1.0",
        "",
        "saejumprelu-rate0.1-db048d2a",
        "saejumprelu-rate0.1-82c6563a",
    ),
    Named("sae=gated sae.encoder_norm_init=1", "", "saegated-rate0.1-8121a421", "saegated-rate0.1-a8ebacf6"),
    Named("mask=none", "", "saematryoshka-rate0-8da8b988", "saematryoshka-rate0-b90f34e2"),
    Named("mask=latent", "", "saematryoshka-rate0-f0bf3168", "saematryoshka-rate0-83cc6c79"),
    Named("mask=input", "", "saematryoshka-rate0-9be5cac9", "saematryoshka-rate0-1ba443a5"),
    Named(
        "mask.token.replacement=random mask.token.loss_positions=unmasked mask.token.span=3",
        "mask.token.span",
        "span3-6d877c3c",
        "span3-3e402c2e",
    ),
    Named(
        "mask.token.schedule=linear mask.token.initial_rate=0.3",
        "",
        "saematryoshka-rate0.1-d12195ec",
        "saematryoshka-rate0.1-b8fb6483",
    ),
    Named("experiment=ground_truth", "", "saebatch_topk-rate0.1-f8e3e215", "saebatch_topk-rate0.1-c3ef4f96"),
    Named("experiment=paper_pythia_160m", "", "saematryoshka-rate0.1-a807359d", "saematryoshka-rate0.1-7a52cc5c"),
    Named(
        "experiment=paper_gemma_2_2b data.revision=main",
        "",
        "saematryoshka-rate0.1-43012ad9",
        "saematryoshka-rate0.1-2f633f5c",
    ),
    Named(
        "experiment=paper_pythia_160m +sweep=mask_rate mask.token.rate=0.05",
        "mask.token.rate",
        "rate0.05-c75667f1",
        "rate0.05-6b46d0e7",
    ),
    Named("+sweep=mask_rate mask.token.rate=0.0", "mask.token.rate", "rate0.0-8da8b988", "rate0.0-b90f34e2"),
    Named(
        "+sweep=mask_rate_x_sparsity mask.token.rate=0.2 sae.k=8",
        "mask.token.rate sae.k",
        "rate0.2-k8-98cacc1d",
        "rate0.2-k8-2e0f3be4",
    ),
    Named(
        "+sweep=mask_rate_x_penalty sae=gated sae.encoder_norm_init=1 mask.token.rate=0.1 sae.sparsity_coefficient=5",
        "sae mask.token.rate sae.sparsity_coefficient",
        "saegated-rate0.1-sparsity_coefficient5-744ecb74",
        "saegated-rate0.1-sparsity_coefficient5-a150a50e",
    ),
    Named(
        "+sweep=architectures sae=topk mask.token.rate=0.1",
        "sae mask.token.rate",
        "saetopk-rate0.1-9dfbbf09",
        "saetopk-rate0.1-f2b6e82c",
    ),
    Named(
        "+sweep=mask_token mask.token.replacement=pad",
        "mask.token.replacement",
        "replacementpad-61cfdd1a",
        "replacementpad-6d818436",
    ),
    Named(
        "+sweep=seeds seed=3 mask.token.rate=0.1",
        "mask.token.rate seed",
        "rate0.1-seed3-b87bf174",
        "rate0.1-seed3-83c99067",
    ),
    Named("+sweep=sparsity sae.k=64", "sae.k", "k64-80b3b4f9", "k64-d3a28ae7"),
    Named(
        "data=text data.path=[a.txt,b.txt] lm=pythia_70m sae.calibrate=none",
        "",
        "saematryoshka-rate0.1-ab466e52",
        "saematryoshka-rate0.1-cf6b4072",
    ),
    Named(
        "lm=pythia_70m data=hub data.name=x/y", "", "saematryoshka-rate0.1-e5719b62", "saematryoshka-rate0.1-831a28ec"
    ),
]
