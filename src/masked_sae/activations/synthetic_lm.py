"""Writes a synthetic LM: `python -m masked_sae.activations.synthetic_lm FOLDER`, in a second, the same each time.

It is a GPT-NeoX of one block whose weights are set, not trained. Queries and keys are zero, so attention is uniform
over the tokens so far; values and output read the parents from each token and write a feature for each; the MLP
gives zero. So at `blocks.0.hook_resid_post` an activation is a sum of known features with known coefficients.

Axes: D `d_in`, V vocabulary, G features, P parents.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.synthetic_truth import TABLES, Truth, save_truth
from masked_sae.files import folder_aside, write_json
from masked_sae.randomness import numpy_generator
from masked_sae.text.synthetic import DESCRIPTION, SPECIAL_WORDS, Recipe, topic_shares

CONTEXT_LIMIT = 1024
_EPSILON = 1e-5  # of the layer norms
_SHARPNESS = 3.0  # how much the output layer believes the context
_RARE = 1e-6  # chance that the output layer gives to special tokens


def build(folder: Path, recipe: Recipe) -> None:
    """Writes checkpoint, tokenizer, description and truth as a new folder."""
    truth = make_truth(recipe)
    with folder_aside(folder) as aside:
        make_model(recipe, truth).save_pretrained(aside)
        make_tokenizer(recipe).save_pretrained(aside)
        save_truth(truth, aside / TABLES)
        write_json(aside / DESCRIPTION, {"recipe": asdict(recipe)})


def make_truth(recipe: Recipe) -> Truth:
    """Directions and coefficients. The block's layer norm divides a token's vector by its own standard deviation."""
    features = recipe.features()
    directions_GD = torch.from_numpy(_directions(recipe)).float()
    own_VG = torch.from_numpy(_own_coefficients(recipe)).float()
    e_VD = (own_VG @ directions_GD).double()
    scale_V = (e_VD.var(1, correction=0) + _EPSILON).rsqrt()
    context_VG = torch.zeros_like(own_VG)
    gain = recipe.context_gain / math.sqrt(recipe.d_in)
    for parent, target in enumerate(_targets(recipe)):
        context_VG[:, target] = (own_VG[:, parent] * scale_V * gain).float()
    return Truth(features, recipe.carried_parents, directions_GD, own_VG, context_VG)


def _directions(recipe: Recipe) -> NDArray[np.float64]:
    """(G, D) unit vectors of mean zero. Parents are orthogonal to all others, so that the context's reading of them
    is exact; the others crowd the rest of the space, at random.
    """
    rng = numpy_generator(recipe.seed, "feature directions")
    columns = np.concatenate([np.ones((recipe.d_in, 1)), rng.standard_normal((recipe.d_in, recipe.d_in - 1))], axis=1)
    basis_DD = np.linalg.qr(columns)[0].T[1:]  # of the vectors of mean zero
    others = rng.standard_normal((len(recipe.features()) - recipe.parents, len(basis_DD) - recipe.parents))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    return np.concatenate([basis_DD[: recipe.parents], others @ basis_DD[recipe.parents :]])


def _own_coefficients(recipe: Recipe) -> NDArray[np.float64]:
    """(V, G) what each token carries."""
    rng = numpy_generator(recipe.seed, "coefficients")
    names = [feature.name for feature in recipe.features()]
    own_VG = np.zeros((len(recipe.words()), len(names)))
    for token, name in enumerate(SPECIAL_WORDS):
        own_VG[token, names.index(name)] = 1
    for parent in range(recipe.parents):
        for word, token in enumerate(recipe.ids_of(parent)):
            strengths = rng.uniform(1 - recipe.spread, 1 + recipe.spread, size=2)
            own_VG[token, parent] = strengths[0]
            child = recipe.child_of(word)
            if child is not None:
                own_VG[token, names.index(f"child {parent}.{child}")] = strengths[1]
    return own_VG


def _targets(recipe: Recipe) -> list[int]:
    """For each parent the feature that the context writes: itself, or a context feature."""
    written = {feature.parent: g for g, feature in enumerate(recipe.features()) if feature.kind == "context"}
    return [written.get(parent, parent) for parent in range(recipe.parents)]


def make_model(recipe: Recipe, truth: Truth) -> Any:
    """The LM. Its output layer predicts tokens by their frequency, more so those whose parent the context holds."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    d_in, parents = recipe.d_in, recipe.parents
    model: Any = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(recipe.words()),
            hidden_size=d_in,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=1,
            max_position_embeddings=CONTEXT_LIMIT,
            layer_norm_eps=_EPSILON,
            use_parallel_residual=True,
            tie_word_embeddings=False,
            bos_token_id=list(SPECIAL_WORDS).index("bos"),
            eos_token_id=list(SPECIAL_WORDS).index("eos"),
            pad_token_id=list(SPECIAL_WORDS).index("pad"),
        )
    )
    written_PD = truth.directions_GD[_targets(recipe)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm.weight" in name else 0.0)
        block = model.gpt_neox.layers[0]
        values = slice(2 * d_in, 2 * d_in + parents)  # after queries and keys; a dimension of the head for each parent
        model.gpt_neox.embed_in.weight.copy_(truth.own_VG @ truth.directions_GD)
        block.attention.query_key_value.weight[values] = truth.directions_GD[:parents]
        block.attention.dense.weight[:, :parents] = written_PD.T * (recipe.context_gain / math.sqrt(d_in))
        # The last layer norm's bias along (1, …, 1), where no activation points, carries the logarithms of frequency.
        ones_D = torch.full((d_in,), 1 / math.sqrt(d_in))
        model.gpt_neox.final_layer_norm.bias.copy_(ones_D)
        logits = model.get_output_embeddings()
        logits.weight.copy_(_log_shares(recipe)[:, None] * ones_D)
        for parent in range(parents):
            ids = list(recipe.ids_of(parent))
            logits.weight[ids] += _SHARPNESS / math.sqrt(d_in) * written_PD[parent]
    return model.eval()


def _log_shares(recipe: Recipe) -> Tensor:
    return torch.from_numpy(np.log(topic_shares(recipe).mean(0).clip(min=_RARE))).float()


def make_tokenizer(recipe: Recipe) -> Any:
    """One token for each word between spaces; adds no special tokens of itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(recipe.words())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL_WORDS["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL_WORDS.values()))
    special: dict[str, Any] = {f"{name}_token": word for name, word in SPECIAL_WORDS.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT_LIMIT, **special)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a synthetic LM whose features are known.")
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    alone = "share of a parent's tokens without a child of it: 0 (always together) to 1 (never)"
    parser.add_argument("--alone-share", type=float, default=Recipe.alone_share, metavar="SHARE", help=alone)
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed, alone_share=arguments.alone_share)
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} exists")
    try:
        recipe.check()
    except ValueError:
        parser.error("expected --seed from 0 to 4294967295 and --alone-share from 0 to 1")
    build(arguments.folder, recipe)


if __name__ == "__main__":
    main()
