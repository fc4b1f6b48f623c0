"""The shape of the shipped model, and its description in the hub's `config.json` form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|pad|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT_ID, PAD_ID, TURN_START_ID, TURN_END_ID = range(4)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen3-MoE model without shared experts and with tied embeddings."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 16
    top_k: int = 4
    ffn: int = 128
    rope_theta: float = 10_000.0
    eps: float = 1e-6
    max_positions: int = 1024


def hub_config(shape: Shape) -> dict[str, Any]:
    """`config.json` of the model, in the style of the hub's Qwen3-MoE checkpoints."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT_ID,
        "decoder_sparse_step": 1,
        "eos_token_id": TURN_END_ID,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        # Every layer is sparse, so the dense width is never used; loaders still ask for it.
        "intermediate_size": shape.ffn * shape.top_k,
        "max_position_embeddings": shape.max_positions,
        "max_window_layers": shape.layers,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": shape.ffn,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "output_router_logits": False,
        "pad_token_id": PAD_ID,
        "rms_norm_eps": shape.eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.01,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }


def generation_config() -> dict[str, Any]:
    """`generation_config.json`: a plain text ends with one token, a chat turn with another."""
    return {
        "bos_token_id": END_OF_TEXT_ID,
        "do_sample": True,
        "eos_token_id": [END_OF_TEXT_ID, TURN_END_ID],
        "pad_token_id": PAD_ID,
        "temperature": 0.7,
        "top_p": 0.95,
    }
