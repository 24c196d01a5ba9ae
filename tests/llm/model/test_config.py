"""GPTConfig: presets, published sizes, bad settings, and how a command line reads it."""

import dataclasses

import jsonargparse
import pytest
import torch

from llm.model import GPT, ConfigError, GPTConfig
from llm.model.config import GPTOverrides
from llm.model.rope_scaling import RopeScaling

PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "1b": 1_100_048_384,  # TinyLlama 1.1B
    "7b": 6_738_415_616,  # Llama 2 7B
    "70b": 70_553_706_496,  # Llama 3 70B
}
SMALL = {"vocab_size": 50, "context_length": 8, "n_layers": 2, "d_model": 24, "n_heads": 4}


def count(config: GPTConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    assert count(GPTConfig.preset(name)) == PUBLISHED[name]


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 1e6, 2e6), ("30m", 28e6, 32e6), ("120m", 115e6, 125e6)])
def test_presets_are_as_large_as_their_names_say(name: str, low: float, high: float) -> None:
    assert low < GPTConfig.preset(name).n_parameters() < high


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"position": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tie_embeddings": True},
        {"norm": "layernorm", "feedforward": "relu2"},
        {"qk_norm": True, "n_kv_heads": 2, "head_dim": 10, "d_ff": 30, "bias": True},
        {"qkv_bias": True, "n_kv_heads": 2},
        {"qkv_bias": False, "bias": True},
    ],
)
def test_the_formula_counts_what_the_model_holds(change: dict[str, object]) -> None:
    config = GPTConfig(**SMALL, **change)
    assert config.n_parameters() == count(config)
    matrices = sum(
        p.numel() for n, p in GPT(config).named_parameters() if p.ndim == 2 and not n.endswith("embedding.weight")
    )
    head = config.vocab_size * config.d_model if config.tie_embeddings else 0
    assert config.n_matmul_parameters == matrices + head


def test_flops_follow_palm() -> None:
    config = GPTConfig(**SMALL, head_dim=10)
    assert config.flops_per_token() == 6 * config.n_matmul_parameters + 12 * 2 * 40 * 8


@pytest.mark.parametrize("name", GPTConfig.presets())
def test_a_config_survives_the_way_through_a_dict(name: str) -> None:
    config = GPTConfig.preset(name)
    assert GPTConfig.from_dict(config.to_dict()) == config
    assert all(isinstance(value, int | float | bool | str | None) for value in config.to_dict().values())


def test_a_rope_scaling_survives_the_way_through_a_dict() -> None:
    scaling = {"type": "llama3", "factor": 8, "original_context_length": 16}
    config = GPTConfig(**SMALL, rope_scaling=scaling)
    assert config.rope_scaling == RopeScaling(**scaling)
    assert GPTConfig.from_dict(config.to_dict()) == config


def test_derived_fields_follow_the_ones_that_are_given() -> None:
    config = GPTConfig.preset("tiny", d_model=192)
    assert (config.n_kv_heads, config.head_dim, config.d_ff) == (2, 96, 512)
    assert GPTConfig(**SMALL, feedforward="gelu").d_ff == 96
    assert GPTConfig(**SMALL, n_kv_heads=None, d_ff=None) == GPTConfig(**SMALL)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig(**SMALL).d_model = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 5}, r"d_model 24 is not divisible by n_heads 5"),
        ({"n_kv_heads": 3}, r"n_heads 4 is not divisible by n_kv_heads 3"),
        ({"head_dim": 3}, r"head_dim 3 is odd: RoPE"),
        ({"n_layers": 0}, r"n_layers is 0: it must be at least 1"),
        ({"n_heads": 0}, r"n_heads is 0: it must be at least 1"),
        ({"n_kv_heads": -1}, r"n_kv_heads is -1: it must be at least 1"),
        ({"n_layers": "4"}, r"n_layers is '4': it must be an integer"),
        ({"n_layers": True}, r"n_layers is True: it must be an integer"),
        ({"bias": 1}, r"bias is 1: it must be true or false"),
        ({"dropout": 1.0}, r"dropout is 1.0"),
        ({"dropout": float("nan")}, r"dropout is nan"),
        ({"norm_eps": 0}, r"norm_eps is 0: it must be above 0"),
        ({"rope_theta": "big"}, r"rope_theta is 'big': it must be a number"),
        ({"position": "rop"}, r"position is 'rop': did you mean 'rope'\?"),
        ({"feedforward": "swigle"}, r"did you mean 'swiglu'\?"),
        ({"n_layer": 4}, r"no field 'n_layer': did you mean 'n_layers'\?"),
        ({"sliding_window": 0}, r"sliding_window is 0: it must be above 0"),
        ({"sliding_window": 2.5}, r"sliding_window is 2.5: it must be an integer"),
        ({"logit_soft_cap": -1.0}, r"logit_soft_cap is -1.0: it must be above 0"),
        ({"rope_scaling": "yarn"}, r"rope_scaling is 'yarn': it must be a mapping"),
        ({"rope_scaling": {"type": "yarm", "factor": 2}}, r"rope_scaling.type is 'yarm': did you mean 'yarn'\?"),
        ({"rope_scaling": {"type": "yarn"}}, r"rope_scaling needs a value for factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, r"type yarn needs original_context_length"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, r"rope_scaling.factor is 0: it must be a number above 0"),
        ({"rope_scaling": {"type": "linear", "factors": 2}}, r"no field 'factors': did you mean 'factor'\?"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "position": "learned"}, r"rope_scaling goes with"),
        ({"vocab_size": None}, r"needs a value for vocab_size"),
        ({"ngram_order": 1}, r"ngram_order is 1: it can be 2 to 8, or 0 for none"),
        ({"ngram_order": 9}, r"ngram_order is 9: it can be 2 to 8"),
        ({"tie_embeddings": True, "zero_init_head": True}, r"zero_init_head with tie_embeddings"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        GPTConfig.from_dict({**SMALL, **change})
    assert "\n" not in str(error.value)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'gpt2-127m': did you mean 'gpt2-124m'\?"):
        GPTConfig.preset("gpt2-127m")
    with pytest.raises(ConfigError, match="known are gpt2-124m, "):
        GPTConfig.preset("∞")


def test_odd_heads_are_fine_without_rope() -> None:
    assert GPTConfig(**SMALL, head_dim=3, position="learned").head_dim == 3


class TestCommandLine:
    """GPTOverrides makes the fields of GPTConfig settable, and checked, one by one."""

    @staticmethod
    def parse(*arguments: str) -> dict[str, object]:
        def build(preset: str = "tiny", gpt: GPTOverrides | None = None) -> GPTConfig:
            return GPTConfig.preset(preset, **(gpt or {}))

        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_function_arguments(build)
        return build(**parser.parse_args(list(arguments)).as_dict()).to_dict()

    def test_fields_can_be_set(self) -> None:
        config = self.parse("--gpt.n_layers=3", "--gpt.rope_theta=5e5", "--gpt.norm=layernorm", "--gpt.d_ff=null")
        assert (config["n_layers"], config["rope_theta"], config["norm"]) == (3, 5e5, "layernorm")
        assert self.parse("--gpt={n_layers: 3, qk_norm: false}")["qk_norm"] is False
        scaling = self.parse("--gpt.rope_scaling={type: linear, factor: 2}")["rope_scaling"]
        assert (scaling["type"], scaling["factor"]) == ("linear", 2)  # type: ignore[index]

    @pytest.mark.parametrize("argument", ["--gpt.n_layer=3", "--gpt.n_layers=many", "--gpt.norm=rms", "--gpt=[1]"])
    def test_wrong_keys_and_types_are_refused(self, argument: str) -> None:
        with pytest.raises(jsonargparse.ArgumentError):
            self.parse(argument)
