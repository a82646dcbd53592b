"""The page counts a config as the package does, to the last digit, or names the command."""

import gzip
import json

import pytest
from test_parts import STATIC, in_javascript

from moe_leverage.config import PAPER_SEQUENCE_LENGTH
from moe_leverage.design import class_words, closed_form, files, huggingface
from moe_leverage.design.anatomy import Anatomy, of_shape
from moe_leverage.instruments import gallery

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512}
READ = """
    eval(values.data);
    return values.configs.map((raw) => {
      try {
        const m = ml.configs.read(raw);
        // as the form and the address have a shape: what is 0 among the extras is left out
        const kept = Object.entries(m).filter(([key, v]) => v || !(key in ml.calculator.EXTRAS));
        return { ...ml.count(Object.fromEntries(kept), values.length), ...ml.axes(m) };
      } catch (error) {
        return error.message;
      }
    });
"""


def read(configs: list[dict]) -> list:
    values = {"data": gallery.script(), "configs": configs, "length": PAPER_SEQUENCE_LENGTH}
    return in_javascript(READ, values, "leverage.js", "configs.js", "calculator.js")


def of_gallery() -> list[dict]:
    return [files.parse(huggingface.MODELS / f"{name}.json") for name in huggingface.closed_names()]


def varied() -> list[dict]:
    """Each type at its class's defaults and with the options that change its counts."""
    options = [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "use_bias": True},
               {"num_key_value_heads": 2}, {"head_dim": 24}, {"use_qk_norm": True},
               {"first_k_dense_replace": 1}, {"mlp_only_layers": [0, 2]},
               {"decoder_sparse_step": 2}, {"mlp_bias": True}, {"use_qkv_bias": True},
               {"n_shared_experts": 2, "num_shared_experts": 2, "moe_num_shared_experts": 2},
               {"q_lora_rank": None}, {"num_experts": 16}, {"num_local_experts": 16},
               {"num_hidden_layers": 4.5}, {"num_key_value_heads": 3}, {"hidden_act": 3},
               {"vocab_size": 0}, {"per_layer_config": []}, {"num_experts_per_tok": 10**6},
               {"intermediate_size": "wide"}, {"num_hidden_layers": 10**6}]  # fmt: skip
    sizes = {"intermediate_size": 96, "moe_intermediate_size": 32, "num_experts_per_tok": 2,
             "num_experts": 8, "n_routed_experts": 8}  # fmt: skip
    found = []
    for kind in closed_form.FORMS:
        own = kind in class_words.REPOSITORY
        table = class_words.class_tables()[kind]["defaults"]
        given = {k: v for k, v in sizes.items() if own or k in table}
        if kind == "kimi_k2":
            del given["num_experts"]
            given |= {"kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4,
                      "v_head_dim": 16}  # fmt: skip
        elif own:
            del given["n_routed_experts"]
        found += [{"model_type": kind} | SMALL | given | option for option in options]
    return found


def wanted(raw: dict) -> tuple[Anatomy | None, str]:
    """What the package says of a config: its anatomy, or why there is none."""
    words = {key: value for key, value in raw.items() if key not in huggingface.OURS}
    try:
        return of_shape(closed_form.read(words).model), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("configs", [of_gallery, varied])
def test_the_page_counts_what_the_package_counts(configs):
    given, counted, refused = configs(), 0, 0
    for raw, got in zip(given, read(given), strict=True):
        anatomy, why = wanted(raw)
        if anatomy is None:
            refused += 1
            assert isinstance(got, str), (raw, why)
            assert "command counts it" in got or got.split(" = ")[0] == why.split(" = ")[0], raw
            continue
        assert not isinstance(got, str), (raw, got)
        counted += 1
        count, flops = anatomy.parameters, anatomy.forward_flops(PAPER_SEQUENCE_LENGTH)
        assert got["total"] == count.non_vocabulary, raw
        assert got["active"] == count.active_non_vocabulary, raw
        assert got["vocabulary"] == count.total - count.non_vocabulary, raw
        assert got["flopsPerToken"] == flops.total, raw
        assert got["nonEmbedding"] == flops.non_embedding, raw
        assert got["A"] == anatomy.activation_ratio, raw
        assert got["G"] == anatomy.granularity, raw
    assert counted >= 20
    assert refused > 50 or configs is of_gallery


def test_what_has_no_closed_form_names_the_command_and_the_rest_its_field():
    no_type, unknown, no_config = read([SMALL, SMALL | {"model_type": "jamba"}, {}])
    for said in (no_type, unknown, no_config):
        assert said.endswith("moe-leverage explain config.json")
    assert "jamba" in unknown
    said = read([SMALL | {"model_type": "llama", "num_experts": 8, "moe_intermediate_size": 8}])
    assert said[0].startswith(("num_experts = 8", "moe_intermediate_size = 8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", gallery.built_names())
def test_models_that_are_built_stand_in_the_file_as_they_are_counted(name):
    pytest.importorskip("transformers")
    assert json.loads(gallery.BUILT.read_text())[name] == gallery.measure(name)


def test_the_gallery_is_light():
    parts = (gallery.script().encode(), (STATIC / "configs.js").read_bytes())
    assert sum(len(gzip.compress(part)) for part in parts) < 10_000
