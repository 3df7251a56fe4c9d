import json
import math
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from masked_sae.activations.lm import LM, load_lm
from masked_sae.errors import InputError
from masked_sae.masks.replacement import replacement_ids
from masked_sae.text.tokenizer import MEAN_TOKEN, load_tokenizer, special_tokens
from support.making import CONTEXT_LIMIT, HOOK, LAYERS, make_neox

KINDS = ["neox", "bert"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lm(kind: str, request: pytest.FixtureRequest) -> LM:
    return request.getfixturevalue(kind)


def peer_of(kind: str, request: pytest.FixtureRequest) -> Any:
    """The same checkpoint in Hugging Face's own class."""
    from transformers import BertForMaskedLM, GPTNeoXForCausalLM

    folder = request.getfixturevalue(f"{kind}_folder")
    return {"neox": GPTNeoXForCausalLM, "bert": BertForMaskedLM}[kind].from_pretrained(folder).eval()


@pytest.fixture(name="tokens_NT")
def a_few_tokens() -> Tensor:
    return torch.randint(5, 55, (3, 20), generator=torch.Generator().manual_seed(0))


def at(lm: LM, hook_name: str) -> LM:
    """The same model, read elsewhere."""
    return LM(lm.bridge, lm.tokenizer, hook_name, lm.device, has_head=True)


@contextmanager
def calls_of(root: torch.nn.Module, class_name: str) -> Generator[list[tuple[Any, Any, Any]]]:
    """(module, first input, output) of each forward of modules of this class, in order."""
    calls: list[tuple[Any, Any, Any]] = []
    modules = [m for m in root.modules() if type(m).__name__ == class_name]
    assert modules

    def note(module: Any, inputs: Any, output: Any) -> None:
        calls.append((module, inputs[0] if inputs else None, output))

    handles = [m.register_forward_hook(note) for m in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("layer", range(LAYERS - 1))  # the last hidden state of Hugging Face has the final norm in it
@pytest.mark.parametrize("side", ["pre", "post"])
def test_residual_activations_are_hugging_faces_hidden_states(
    kind: str, lm: LM, layer: int, side: str, tokens_NT: Tensor, request: pytest.FixtureRequest
) -> None:
    with torch.inference_mode():
        hidden = peer_of(kind, request)(tokens_NT, output_hidden_states=True).hidden_states
    x_NTD = at(lm, f"blocks.{layer}.hook_resid_{side}").activations(tokens_NT)
    assert x_NTD.dtype == torch.float32
    torch.testing.assert_close(x_NTD, hidden[layer + (side == "post")], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "hook_name", "class_name", "number", "which"),
    [
        ("neox", "blocks.1.hook_mlp_out", "GPTNeoXMLP", 1, "output"),
        ("neox", "blocks.2.attn.hook_z", "Linear", None, "dense"),
        ("bert", "blocks.1.attn.hook_z", "Linear", None, "dense"),
        ("bert", "blocks.1.hook_mlp_out", "BertOutput", 1, "mlp"),
    ],
)
def test_activations_inside_a_block_are_those_of_its_modules(
    kind: str,
    hook_name: str,
    class_name: str,
    number: int | None,
    which: str,
    tokens_NT: Tensor,
    request: pytest.FixtureRequest,
) -> None:
    peer, lm = peer_of(kind, request), request.getfixturevalue(kind)
    block = int(hook_name.split(".")[1])
    layer = peer.gpt_neox.layers[block] if kind == "neox" else peer.bert.encoder.layer[block]
    if which == "dense":  # heads' results side by side are what the output projection reads
        module = layer.attention.dense if kind == "neox" else layer.attention.output.dense
    else:
        module = layer.mlp if kind == "neox" else layer.output.dense
    caught: list[Tensor] = []
    module.register_forward_hook(lambda m, i, o: caught.append(i[0] if which == "dense" else o))
    with torch.inference_mode():
        peer(tokens_NT)
    reader = at(lm, hook_name)
    assert reader.d_in == caught[0].shape[-1]
    torch.testing.assert_close(reader.activations(tokens_NT), caught[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", range(LAYERS))
def test_the_forward_stops_at_the_hook_point(kind: str, lm: LM, stop: int, tokens_NT: Tensor) -> None:
    layer = {"neox": "GPTNeoXLayer", "bert": "BertLayer"}[kind]
    reader = at(lm, f"blocks.{stop}.hook_resid_pre")
    with calls_of(lm.bridge, "LayerNorm") as norms, calls_of(lm.bridge, layer) as layers:
        reader.activations(tokens_NT)
        assert len(layers) == stop
        up_to_here = len(norms)
        reader.logits(tokens_NT)
    assert len(layers) == stop + LAYERS
    assert len(norms) - up_to_here > up_to_here


@pytest.mark.parametrize("hook_name", ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"])
def test_pieces_of_a_forward_give_what_the_whole_does(lm: LM, hook_name: str, tokens_NT: Tensor) -> None:
    tokens_NT = torch.cat([tokens_NT, tokens_NT.flip(0)])
    tokens_NT[4, 3] = MEAN_TOKEN
    pieces = LM(lm.bridge, lm.tokenizer, HOOK, lm.device, has_head=True, micro_batch_size=4).at(hook_name)
    whole = at(lm, hook_name)
    sizes: list[int] = []
    embedding = lm.bridge.original_model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = pieces.activations_at([hook_name, HOOK], tokens_NT)
    handle.remove()
    assert [size for size in sizes if size > 1] == [4, 2]  # one at a time is the mean embedding
    for ours, theirs in zip(found, whole.activations_at([hook_name, HOOK], tokens_NT), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_reading_leaves_no_hooks_behind(lm: LM, tokens_NT: Tensor) -> None:
    clean_NTV = lm.logits(tokens_NT)
    before = sum(len(m._forward_hooks) for m in lm.bridge.modules())
    lm.activations(tokens_NT)
    lm.logits(tokens_NT, torch.zeros_like)
    assert sum(len(m._forward_hooks) for m in lm.bridge.modules()) == before
    assert torch.equal(lm.logits(tokens_NT), clean_NTV)


def test_logits_are_hugging_faces(kind: str, lm: LM, tokens_NT: Tensor, request: pytest.FixtureRequest) -> None:
    with torch.inference_mode():
        expected_NTV = peer_of(kind, request)(tokens_NT).logits
    torch.testing.assert_close(lm.logits(tokens_NT), expected_NTV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "hook_name", [HOOK, "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"]
)
def test_logits_with_the_activation_put_back_are_the_clean_ones(lm: LM, hook_name: str, tokens_NT: Tensor) -> None:
    reader = at(lm, hook_name)
    seen: list[Tensor] = []

    def keep(x_NTD: Tensor) -> Tensor:
        seen.append(x_NTD)
        return x_NTD

    assert torch.equal(reader.logits(tokens_NT, keep), reader.logits(tokens_NT))
    assert torch.equal(seen[0], reader.activations(tokens_NT))
    assert not torch.allclose(reader.logits(tokens_NT, torch.zeros_like), reader.logits(tokens_NT), atol=1e-3)


def test_logits_with_another_texts_activation_are_that_texts(neox: LM, tokens_NT: Tensor) -> None:
    """The residual stream after a block is all that later blocks read."""
    other_NTD = neox.activations(tokens_NT.flip(0))
    spliced_NTV = neox.logits(tokens_NT, lambda x_NTD: other_NTD)
    torch.testing.assert_close(spliced_NTV, neox.logits(tokens_NT.flip(0)))


def test_the_objective_is_what_the_checkpoint_was_trained_for(neox: LM, bert: LM, bert_base_folder: Path) -> None:
    assert neox.objective == "causal"
    assert bert.objective == "masked"
    assert load_lm(str(bert_base_folder), HOOK).objective is None


def test_a_checkpoint_without_output_layer_gives_the_same_activations(
    bert: LM, bert_base_folder: Path, tokens_NT: Tensor
) -> None:
    from transformers import BertModel

    base = load_lm(str(bert_base_folder), HOOK)
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(bert_base_folder).eval()(tokens_NT, output_hidden_states=True).hidden_states
    torch.testing.assert_close(base.activations(tokens_NT), hidden[2], rtol=1e-4, atol=1e-5)


def test_bfloat16_gives_float32_activations_that_are_near(neox: LM, neox_folder: Path, tokens_NT: Tensor) -> None:
    low = load_lm(str(neox_folder), HOOK, dtype="bfloat16")
    assert all(p.dtype == torch.bfloat16 for p in low.bridge.parameters())
    x_NTD, low_NTD = neox.activations(tokens_NT), low.activations(tokens_NT)
    assert low_NTD.dtype == torch.float32
    error = (x_NTD - low_NTD).norm() / x_NTD.norm()
    assert 1e-4 < error < 0.05
    assert torch.equal(low.logits(tokens_NT, lambda x: x), low.logits(tokens_NT))


def test_the_lm_is_frozen(neox: LM, tokens_NT: Tensor) -> None:
    assert not any(p.requires_grad for p in neox.bridge.parameters())
    assert not any(m.training for m in neox.bridge.modules())
    assert torch.equal(neox.activations(tokens_NT), neox.activations(tokens_NT))


def test_an_unknown_hook_point_suggests_near_ones(neox: LM) -> None:
    with pytest.raises(InputError, match=r"lm\.hook_name=blocks\.1\.hook_resid_pst: .*blocks\.1\.hook_resid_post"):
        at(neox, "blocks.1.hook_resid_pst")
    with pytest.raises(InputError, match=r"blocks\.0\.hook_resid_post"):
        at(neox, "nonsense")


@pytest.mark.parametrize("hook_name", ["blocks.1.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"])
def test_a_hook_point_without_one_vector_for_each_token_is_refused(lm: LM, hook_name: str) -> None:
    with pytest.raises(InputError, match="one vector for each token"):
        at(lm, hook_name)


@pytest.mark.slow
def test_every_hook_point_of_the_bridge_is_read_or_refused_in_one_line(lm: LM, tokens_NT: Tensor) -> None:
    read = 0
    for name in lm.bridge.hook_dict:
        try:
            x_NTD = at(lm, name).activations(tokens_NT)
        except InputError as error:
            assert error.key == "lm.hook_name"
            assert error.value == name
        else:
            assert x_NTD.shape[:2] == tokens_NT.shape
            assert x_NTD.dtype == torch.float32
            read += 1
    assert read > 40


def test_special_tokens_of_a_gpt_are_a_bos_before_each_sequence(neox_tokenizer: Any) -> None:
    end = neox_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    special = special_tokens(neox_tokenizer)
    assert (special.prefix, special.suffix, special.separator, special.ids) == ((end,), (), end, (end,))


def test_special_tokens_of_a_bert_frame_each_sequence(bert_tokenizer: Any) -> None:
    ids = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    special = special_tokens(bert_tokenizer)
    assert (special.prefix, special.suffix, special.separator) == ((ids["[CLS]"],), (ids["[SEP]"],), ids["[SEP]"])
    assert special.ids == tuple(sorted(ids.values()))


def test_special_tokens_of_a_tokenizer_without_any_are_none(neox_folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    special = special_tokens(PreTrainedTokenizerFast(tokenizer_file=str(neox_folder / "tokenizer.json")))
    assert (special.prefix, special.suffix, special.separator, special.ids) == ((), (), None, ())


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def hidden_with_a_mean_token(folder: Path, tokens_NT: Tensor, ordinary: Sequence[int]) -> Tensor:
    """After block 1 by the library itself, in a model whose embedding has one more row: the mean of the ordinary."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder)
    rows_VD = model.get_input_embeddings().weight.detach()
    row_D = rows_VD[list(ordinary)].double().mean(0).float()
    model.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.cat([rows_VD, row_D[None]])))
    tokens_NT = torch.where(tokens_NT == MEAN_TOKEN, len(rows_VD), tokens_NT)
    with torch.inference_mode():
        return model(input_ids=tokens_NT, output_hidden_states=True).hidden_states[2]


def test_a_mean_token_is_read_as_the_mean_of_the_vocabulary(kind: str, lm: LM, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{kind}_folder")
    ordinary = sorted(set(range(len(lm.tokenizer))) - set(lm.tokenizer.all_special_ids))
    tokens_NT = torch.tensor([ordinary[:9], ordinary[5:14]])
    plain_NTD = lm.activations(tokens_NT)
    tokens_NT[0, 2] = tokens_NT[1, 5] = tokens_NT[1, 6] = MEAN_TOKEN
    x_NTD = lm.activations(tokens_NT)
    torch.testing.assert_close(x_NTD, hidden_with_a_mean_token(folder, tokens_NT, ordinary), rtol=1e-4, atol=1e-5)
    assert not torch.equal(x_NTD, plain_NTD)
    tokens_NT = torch.tensor([ordinary[:9], ordinary[5:14]])
    assert torch.equal(lm.activations(tokens_NT), plain_NTD)  # nothing of it stays


def test_a_replacement_is_the_tokenizers_own_token(neox_tokenizer: Any, bert_tokenizer: Any) -> None:
    for name in ("bos", "eos", "<|endoftext|>"):
        assert replacement_ids(neox_tokenizer, name) == (0,)
    for text in ("q", " "):
        assert replacement_ids(neox_tokenizer, text) == ids_of(neox_tokenizer, text)
    for name, token in {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "[SEP]": "[SEP]", "the": "the"}.items():
        assert replacement_ids(bert_tokenizer, name) == (bert_tokenizer.convert_tokens_to_ids(token),)
    assert replacement_ids(neox_tokenizer, "random") is None
    assert replacement_ids(neox_tokenizer, "mean") == (MEAN_TOKEN,)


def test_a_replacement_may_be_a_text_of_several_tokens(neox_tokenizer: Any, bert_tokenizer: Any) -> None:
    assert len(replacement_ids(neox_tokenizer, "two") or ()) == 3
    assert replacement_ids(neox_tokenizer, "two") == ids_of(neox_tokenizer, "two")
    found = replacement_ids(bert_tokenizer, "bad")
    assert found == tuple(bert_tokenizer.convert_tokens_to_ids(["b", "##a", "##d"]))


@pytest.mark.parametrize(
    ("tokenizer", "replacement", "hint"),
    [
        ("neox_tokenizer", "mask", "bos, eos, mean, random"),
        ("neox_tokenizer", "pad", "bos, eos, mean, random"),
        ("neox_tokenizer", "unk", "bos, eos, mean, random"),
        ("bert_tokenizer", "bos", "pad, unk, mask, mean, random"),
        ("bert_tokenizer", "é1☕", "a text that it can spell"),
        ("bert_tokenizer", "the ☕", "a text that it can spell"),
        ("neox_tokenizer", "", "a text that it can spell"),
    ],
)
def test_a_replacement_that_the_tokenizer_lacks_is_refused(
    tokenizer: str, replacement: str, hint: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(InputError, match=hint) as info:
        replacement_ids(request.getfixturevalue(tokenizer), replacement)
    assert str(info.value).startswith(f"mask.token.replacement={replacement}: ")


def a_folder(tmp_path: Path, without: str) -> Path:
    folder = make_neox(tmp_path / "lm")
    for path in folder.glob(without):
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("without", "hint"), [("*.safetensors", "weights"), ("config.json", "config.json"), ("tokenizer*", "tokenizer")]
)
def test_a_folder_that_lacks_a_part_of_a_checkpoint_is_refused(without: str, hint: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path, without)
    with pytest.raises(InputError, match=hint) as info:
        load_tokenizer(str(folder))
        load_lm(str(folder), HOOK)
    assert str(info.value).startswith(f"lm.name={folder}: ")
    assert "\n" not in str(info.value)


def test_damaged_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_neox(tmp_path / "lm")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"lm\.name=") as info:
        load_lm(str(folder), HOOK)
    assert "\n" not in str(info.value)


def test_a_damaged_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_neox(tmp_path / "lm")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"lm\.name=") as info:
        load_lm(str(folder), HOOK, tokenizer=object())
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "a/b/c", "no-such-owner/no-such-model"])
def test_an_lm_that_is_nowhere_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(InputError) as info:
        load_tokenizer(name)
    assert str(info.value).startswith(f"lm.name={name}: ")
    assert "folder" in str(info.value)
    assert "\n" not in str(info.value)


def copy(folder: Path, to: Path, **configuration: object) -> Path:
    """A checkpoint of one's own, with changes of its configuration."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | configuration))
    return to


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path, hook_name: str = HOOK) -> str:
    """The line that loading it ends with, after its name."""
    with pytest.raises(InputError) as info:
        load_lm(str(folder), hook_name)
    line = str(info.value)
    assert line.startswith(f"lm.name={folder}: expected ")
    assert "\n" not in line
    return line.split(": expected ", 1)[1]


@pytest.mark.parametrize("name", ["gpt_neox.layers.2.mlp.dense_4h_to_h.weight", "gpt_neox.embed_in.weight"])
def test_a_missing_weight_is_refused_by_name(name: str, neox_folder: Path, tmp_path: Path) -> None:
    """Behind the hook point, too: metrics read it."""
    folder = copy(neox_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights.pop(name))
    assert refusal(folder) == f"a checkpoint with all weights: model.safetensors lacks {name}"


def test_a_missing_weight_of_an_encoder_without_output_layer_is_refused(bert_base_folder: Path, tmp_path: Path) -> None:
    folder = copy(bert_base_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights.pop("encoder.layer.0.output.dense.bias"))
    assert "lacks bert.encoder.layer.0.output.dense.bias" in refusal(folder)


def test_a_weight_of_another_shape_is_refused_with_both_shapes(neox_folder: Path, tmp_path: Path) -> None:
    folder = copy(neox_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights.update({"gpt_neox.final_layer_norm.weight": torch.ones(7)}))
    line = refusal(folder)
    assert "gpt_neox.final_layer_norm.weight of shape (32,)" in line
    assert "model.safetensors it is (7,)" in line


@pytest.mark.parametrize("kind", ["neox", "bert", "bert_base"])
def test_two_layers_more_or_fewer_than_the_weights_have_are_refused(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{kind}_folder")
    more = copy(folder, tmp_path / "more", num_hidden_layers=LAYERS + 2)
    assert "lacks" in refusal(more)
    assert f".{LAYERS}." in refusal(more)
    fewer = copy(folder, tmp_path / "fewer", num_hidden_layers=LAYERS - 2)
    assert "of a layer beyond those that config.json says" in refusal(fewer, "blocks.0.hook_resid_post")


def test_an_output_layer_that_is_promised_and_not_there_is_said_and_never_random(
    neox: LM, neox_folder: Path, tmp_path: Path, tokens_NT: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(neox_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights.pop("embed_out.weight"))
    lm = load_lm(str(folder), HOOK)
    said = capsys.readouterr().err
    assert "no trained output layer (lm_head.weight" in said and said.count("\n") == 1
    assert lm.objective is None
    assert torch.equal(lm.activations(tokens_NT), neox.activations(tokens_NT))
    assert lm.logits(tokens_NT).isnan().all()
    with pytest.raises(InputError, match=r"lm\.hook_name=unembed.hook_out: expected a hook point before"):
        load_lm(str(folder), "unembed.hook_out")


def test_a_part_of_an_output_layer_is_none(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(bert_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights.pop("cls.predictions.transform.dense.weight"))
    assert load_lm(str(folder), HOOK).objective is None
    assert "cls.predictions.transform.dense.weight" in capsys.readouterr().err


def test_the_objective_follows_the_weights_not_the_configuration(neox_folder: Path, tmp_path: Path) -> None:
    assert load_lm(str(copy(neox_folder, tmp_path / "lm", architectures=None)), HOOK).objective == "causal"


@pytest.mark.parametrize("kept", ["gpt_neox.embed_in.weight", "embed_out.weight"])
def test_a_tied_output_layer_is_not_missing(
    kept: str, neox_folder: Path, tmp_path: Path, tokens_NT: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(neox_folder, tmp_path / "lm", tie_word_embeddings=True)
    change_weights(
        folder, lambda weights: weights.pop(({"gpt_neox.embed_in.weight", "embed_out.weight"} - {kept}).pop())
    )
    lm = load_lm(str(folder), HOOK)
    assert lm.objective == "causal" and capsys.readouterr().err == ""
    assert torch.isfinite(lm.logits(tokens_NT)).all()


def test_a_missing_pooler_is_not_missed(bert_base_folder: Path, bert: LM, tmp_path: Path, tokens_NT: Tensor) -> None:
    folder = copy(bert_base_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: [weights.pop(f"pooler.dense.{what}") for what in ("weight", "bias")])
    assert torch.equal(
        load_lm(str(folder), HOOK).activations(tokens_NT), load_lm(str(bert_base_folder), HOOK).activations(tokens_NT)
    )


def test_buffers_of_old_checkpoints_are_neither_missing_nor_left_over(
    neox: LM, neox_folder: Path, tmp_path: Path, tokens_NT: Tensor
) -> None:
    folder = copy(neox_folder, tmp_path / "lm")

    def add(weights: dict[str, Tensor]) -> None:
        for layer in range(LAYERS):
            at = f"gpt_neox.layers.{layer}.attention"
            weights[f"{at}.bias"] = torch.ones(1, 1, CONTEXT_LIMIT, CONTEXT_LIMIT)
            weights[f"{at}.masked_bias"] = torch.tensor(-1e9)
            weights[f"{at}.rotary_emb.inv_freq"] = torch.ones(2)

    change_weights(folder, add)
    assert torch.equal(load_lm(str(folder), HOOK).logits(tokens_NT), neox.logits(tokens_NT))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["gpt_neox.layers.2.mlp.dense_4h_to_h.weight", "embed_out.weight"])
def test_a_weight_that_is_not_finite_is_refused_behind_the_hook_point_too(
    name: str, value: float, neox_folder: Path, tmp_path: Path
) -> None:
    folder = copy(neox_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights[name][3:5, 5].fill_(value))
    named = name.replace("embed_out", "lm_head")
    assert refusal(folder).startswith("finite weights: 2 of ")
    assert f"in {named} are NaN or inf" in refusal(folder)


def test_finite_weights_whose_sum_is_not_are_read(neox_folder: Path, tmp_path: Path) -> None:
    folder = copy(neox_folder, tmp_path / "lm")
    change_weights(folder, lambda weights: weights["embed_out.weight"].fill_(1e38))
    assert load_lm(str(folder), HOOK).objective == "causal"


@pytest.mark.parametrize("kind", KINDS)
def test_the_checks_change_no_bit(kind: str, lm: LM, tokens_NT: Tensor, request: pytest.FixtureRequest) -> None:
    """As the bridge alone loads it."""
    from transformer_lens.model_bridge import TransformerBridge

    folder = request.getfixturevalue(f"{kind}_folder")
    bridge = TransformerBridge.boot_transformers(str(folder), dtype=torch.float32, device="cpu").eval()
    plain = LM(bridge, lm.tokenizer, HOOK, lm.device, has_head=True)
    assert torch.equal(plain.activations(tokens_NT), lm.activations(tokens_NT))
    assert torch.equal(plain.logits(tokens_NT), lm.logits(tokens_NT))


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("hidden_size", 0, "hidden_size in config.json from 1 to 260"),
        ("hidden_size", 10**9, "it is 1000000000"),
        ("hidden_size", "abc", "hidden_size"),
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("num_hidden_layers", 0, "num_hidden_layers"),
        ("vocab_size", 10**12, "vocab_size"),
        ("vocab_size", 7, "gpt_neox.embed_in.weight of shape (7, 32)"),
        ("hidden_act", "no-such", "no-such"),
        ("architectures", 5, "TransformerBridge"),
        ("model_type", "no-such", "no-such"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    key: str, value: object, hint: str, neox_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy(neox_folder, tmp_path / "lm", **{key: value})
    assert hint in refusal(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (8).to_bytes(8, "little") + b'{"a":12}', None])
def test_weights_that_are_none_are_refused_by_the_files_name(
    content: bytes | None, neox_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = copy(neox_folder, tmp_path / "lm") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if content is None else content)
    assert refusal(weights.parent).startswith("a whole model.safetensors (")
    assert capfd.readouterr() == ("", "")


def test_no_code_of_a_checkpoint_runs(neox_folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    ours = copy(neox_folder, tmp_path / "ours", auto_map=names)
    theirs = copy(neox_folder, tmp_path / "theirs", auto_map=names, model_type="evil")
    for folder in (ours, theirs):
        (folder / "evil.py").write_text(
            f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass T: pass\n"
        )
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        evil = settings | {"auto_map": names, "tokenizer_class": "T"}
        (folder / "tokenizer_config.json").write_text(json.dumps(evil))
    assert load_lm(str(ours), HOOK).objective == "causal"  # of an architecture that the library knows itself
    assert "custom code" in refusal(theirs)
    assert not ran.exists()


def test_a_tokenizer_with_more_tokens_than_the_lm_is_refused(
    neox_folder: Path, bert_tokenizer: Any, tmp_path: Path
) -> None:
    folder = copy(neox_folder, tmp_path / "lm", vocab_size=50)
    change_weights(
        folder, lambda w: w.update({k: w[k][:50].clone() for k in ("gpt_neox.embed_in.weight", "embed_out.weight")})
    )
    assert "beyond its embedding of 50 rows" in refusal(folder)


@pytest.mark.parametrize(
    "order",
    [("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"), ("blocks.1.hook_mlp_out", "blocks.0.hook_resid_post")],
)
def test_several_hook_points_are_read_from_one_forward(neox: LM, order: tuple[str, str]) -> None:
    """Bit for bit as each alone, whichever is the deeper."""
    tokens_NT = torch.arange(2 * 11).reshape(2, 11)
    for x_NTD, name in zip(neox.activations_at(order, tokens_NT), order, strict=True):
        assert torch.equal(x_NTD, neox.at(name).activations(tokens_NT))
    assert neox.at(neox.hook_name) is neox


def test_another_hook_point_has_to_exist(neox: LM) -> None:
    with pytest.raises(InputError, match=r"lm\.hook_name=blocks\.77"):
        neox.at("blocks.77.hook_resid_post")
