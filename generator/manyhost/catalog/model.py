"""Models: weights and architecture (values/models/). Dimensions are those of the model's config.json."""

from typing import Annotated, Literal

from msgspec import Meta

from manyhost.catalog.struct import Count, Name, Positive, Struct


class Architecture(Struct, frozen=True, tag_field="kind"):
    """What every decoder-only transformer has."""

    layers: Positive
    hidden: Positive
    heads: Positive
    vocabulary: Positive


class MlaMoe(Architecture, frozen=True, tag="mla-moe"):
    """Multi-head latent attention and a mixture of experts: DeepSeek-V3 and its kin."""

    dense_layers: Count
    mtp_layers: Count
    q_lora_rank: Positive
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: Positive
    v_head_dim: Positive
    intermediate: Positive
    moe_intermediate: Positive
    routed_experts: Positive
    experts_per_token: Positive
    shared_experts: Count


class GqaMoe(Architecture, frozen=True, tag="gqa-moe"):
    """Grouped-query attention and a mixture of experts in every layer: Qwen3 MoE."""

    kv_heads: Positive
    head_dim: Positive
    moe_intermediate: Positive
    routed_experts: Positive
    experts_per_token: Positive


class GqaDense(Architecture, frozen=True, tag="gqa-dense"):
    """Grouped-query attention and one feed-forward network a layer: Qwen3."""

    kv_heads: Positive
    head_dim: Positive
    intermediate: Positive
    tied_embeddings: bool = False


class Model(Struct, frozen=True):
    """A large language model: its weights and its architecture.

    Attributes:
        name: Its file's name.
        hub_id: Its name on Hugging Face.
        served_name: What clients ask for.
        weights_bytes: Size of all weight files, or of all tensors in them.
        weights_files: Number of weight files; 0 where nobody says.
        gated: Whether a download needs a token.
        reasoning_parser: vLLM's parser of its thoughts; empty for a model that does not think aloud.
        sglang_reasoning_parser: SGLang's.
        weight_format: bf16, or FP8 e4m3 in 128 x 128 blocks with one float32 scale each.
        max_context_tokens: Longest request.
        architecture: Tagged by kind.
        trained: Whether its answers can be right; a model of random weights is held to being the same twice.
        revision: The commit on Hugging Face that all of this is of; empty where nobody has pinned one.
    """

    name: Name
    hub_id: str
    served_name: str
    weights_bytes: Positive
    weights_files: Count
    gated: bool
    reasoning_parser: str
    weight_format: Literal["fp8-block", "bf16"]
    max_context_tokens: Positive
    architecture: MlaMoe | GqaMoe | GqaDense
    trained: bool = True
    sglang_reasoning_parser: str = ""
    revision: Annotated[str, Meta(pattern=r"^([0-9a-f]{40})?$")] = ""
