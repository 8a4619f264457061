"""One pass of the language model: a new token for each row, over a `SlotCache`.

`LeanStep` walks the layers itself, for the families whose layer is known (Llama, Mistral, Qwen2,
Qwen3 and what shares their classes): of a small model transformers' own forward spends most of the
time on masks, caches and hooks. `OwnStep` is that forward, for every other model.

Shapes: R rows, D width, H heads, G heads of keys and values, d width of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from mllm.drawing.step.slots import BLOCK_SIZE, Prefix, SlotCache, is_masked

KNOWN_LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
Product = Callable[[Tensor], Tensor]  # (R, D) → (R, D')
# Rotary embeddings that are a fixed function of the position; others depend on the whole length.
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
# Joining matrices saves calls, which is most of a small model's time, but copies them.
MAX_JOINED_NUMBERS = 2**26


class OwnStep:
    """Transformers' own forward."""

    pads_products_alone = False

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.config = decoder.config
        self.window = getattr(self.config, "sliding_window", None)

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: SlotCache) -> Tensor:
        """Append one token to each row that `cache` has been set to.

        Args:
            embeddings: (R', D). With a `LeanStep` R' may be greater than R: the last rows then take
                part in the products alone, and what comes back for them means nothing.
            positions: (R,) of the token in its row.

        Returns:
            (R', D) last hidden states.
        """
        dtype = embeddings.dtype
        masks: Any = cache.attention_mask(positions, None, dtype)
        if self.window is not None and cache.visible > self.window:
            sliding = cache.attention_mask(positions, self.window, dtype)
            if hasattr(self.config, "layer_types"):
                masks = {"full_attention": masks, "sliding_attention": sliding}
            else:
                masks = sliding
        return self.decoder(
            inputs_embeds=embeddings.unsqueeze(1),
            attention_mask=masks,
            position_ids=positions.unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]

    def read(self, embeddings: Tensor) -> Prefix:
        """What the (L, D) embeddings of a prompt leave for the tokens after it."""
        output = self.decoder(
            inputs_embeds=embeddings.unsqueeze(0),
            position_ids=torch.arange(len(embeddings), device=embeddings.device).unsqueeze(0),
            past_key_values=DynamicCache(),
            use_cache=True,
        )
        layers = output.past_key_values.layers
        return Prefix(
            [layer.keys[0] for layer in layers],
            [layer.values[0] for layer in layers],
            output.last_hidden_state[0, -1],
        )


class _Layer(NamedTuple):
    """What one layer computes with.

    `heads` makes queries, keys and values, and `gates` both halves of the MLP's inner states: three
    and two products, or one where their matrices are joined. The weights of RMSNorm are then folded
    into the joined matrix, and `norm` and `mlp_norm` are None.
    """

    norm: Tensor | None
    heads: list[Product]
    head_norms: tuple[Tensor, Tensor] | None
    out: Product
    mlp_norm: Tensor | None
    gates: list[Product]
    activation: Callable[[Tensor], Tensor]
    down: Product
    window: int | None


class LeanStep:
    """The same for a decoder that is known, without transformers' own loop; the numbers agree to
    rounding. `make_product` makes what multiplies by a matrix, by default the linear layer itself.
    """

    pads_products_alone = True

    def __init__(self, decoder: Any, make_product: Callable[[nn.Linear], Product] | None = None):
        self.decoder, config = decoder, decoder.config
        self.eps = config.rms_norm_eps
        self.num_heads, self.num_key_heads = config.num_attention_heads, config.num_key_value_heads
        self.norm: Tensor = decoder.norm.weight
        numbers = sum(parameter.numel() for parameter in decoder.layers.parameters())
        # What `make_product` makes is a copy already.
        joined = make_product is not None or (
            numbers <= MAX_JOINED_NUMBERS and self.norm.dtype == torch.float32
        )
        make_product = make_product or nn.Identity()
        self.layers = [_read_layer(layer, config, joined, make_product) for layer in decoder.layers]
        # Norms divide by the root of |x|² + eps·D.
        self.least_length = self.norm.new_tensor((self.eps * len(self.norm)) ** 0.5)
        self._table: tuple[Tensor, Tensor] | None = None

    def rotary(self, positions: Tensor, capacity: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(R, 1, d) cosines, and sines whose first half is negative."""
        if self._table is None or len(self._table[0]) < capacity:
            every = torch.arange(capacity, device=positions.device).unsqueeze(0)
            cos, sin = self.decoder.rotary_emb(self.norm.new_zeros(1, 1, 1, dtype=dtype), every)
            half = sin.shape[-1] // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._table = cos[0], sin[0]
        cos, sin = self._table
        return cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: SlotCache) -> Tensor:
        """See `OwnStep.__call__`."""
        dtype = embeddings.dtype
        cos, sin = self.rotary(positions, cache.capacity, dtype)
        windows = {layer.window for layer in self.layers}
        masks = {window: cache.attention_mask(positions, window, dtype) for window in windows}
        hidden = embeddings
        for number, layer in enumerate(self.layers):
            queries, keys, values = self._heads(hidden, layer, cos, sin)
            all_keys, all_values = cache.write(number, keys, values)
            # Heads that share keys are the rows of one query: no copy of the keys for each.
            queries = queries.unflatten(1, (self.num_key_heads, -1))
            attended = _attention(queries, all_keys, all_values, masks[layer.window]).flatten(1)
            if len(attended) < len(hidden):
                attended = F.pad(attended, (0, 0, 0, len(hidden) - len(attended)))
            hidden = self._transform(hidden + layer.out(attended), layer)
        return self._normed(hidden, self.norm)

    def read(self, embeddings: Tensor) -> Prefix:
        """See `OwnStep.read`."""
        positions = torch.arange(len(embeddings), device=embeddings.device)
        cos, sin = self.rotary(positions, len(positions), embeddings.dtype)
        windows = {layer.window for layer in self.layers}
        masks = {window: ~is_masked(positions, len(positions), window) for window in windows}
        hidden, all_keys, all_values = embeddings, [], []
        for layer in self.layers:
            queries, keys, values = (
                part.transpose(0, 1) for part in self._heads(hidden, layer, cos, sin)
            )
            # Copies, as these are remembered, and views would hold on to the queries too.
            all_keys.append(keys.contiguous())
            all_values.append(values.contiguous())
            mask = masks[layer.window]
            if layer is self.layers[-1]:  # behind its keys and values only the last state counts
                queries, mask, hidden = queries[:, -1:], mask[-1:], hidden[-1:]
            # With a batch of one, since torch's quick attention wants four axes.
            attended = F.scaled_dot_product_attention(
                queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
            )[0]
            hidden = hidden + layer.out(attended.transpose(0, 1).flatten(1))
            hidden = self._transform(hidden, layer)
        return Prefix(all_keys, all_values, self._normed(hidden, self.norm)[0])

    def _heads(
        self, hidden: Tensor, layer: _Layer, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(R, H, d) queries, (R, G, d) keys and values of the first R of `hidden`."""
        rows, num_heads, num_key_heads = len(cos), self.num_heads, self.num_key_heads
        heads = _products(self._normed(hidden, layer.norm), layer.heads)
        heads = heads[:rows].view(rows, num_heads + 2 * num_key_heads, -1)
        turned, values = heads.split([num_heads + num_key_heads, num_key_heads], dim=1)
        if layer.head_norms is not None:
            parts = turned.split([num_heads, num_key_heads], dim=1)
            pairs = zip(parts, layer.head_norms, strict=True)
            turned = torch.cat([self._normed(*pair) for pair in pairs], dim=1)
        turned = torch.addcmul(turned * cos, turned.roll(turned.shape[-1] // 2, -1), sin)
        queries, keys = turned.split([num_heads, num_key_heads], dim=1)
        return queries, keys, values

    def _transform(self, hidden: Tensor, layer: _Layer) -> Tensor:
        gate, up = _products(self._normed(hidden, layer.mlp_norm), layer.gates).chunk(2, dim=-1)
        return hidden + layer.down(layer.activation(gate) * up)

    def _normed(self, hidden: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            return F.rms_norm(hidden, weight.shape, weight, self.eps)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden / torch.hypot(length, self.least_length)


def is_known(decoder: Any) -> bool:
    """Whether `LeanStep` computes what this decoder does."""
    config = decoder.config
    layers = getattr(decoder, "layers", [])
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        len(layers) == config.num_hidden_layers
        and all(type(layer) in KNOWN_LAYERS for layer in layers)
        # Not an adapter's wrapper, nor quantised: their weights alone aren't what they compute.
        and all(
            type(module) is nn.Linear
            for layer in layers
            for name, module in layer.named_modules()
            if name.endswith("_proj")
        )
        and rope.get("rope_type") in FIXED_ROTARY
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


def _read_layer(
    layer: Any, config: Any, joined: bool, make_product: Callable[[nn.Linear], Product]
) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    window = getattr(attention, "sliding_window", None)
    if isinstance(layer, MistralDecoderLayer):
        window = config.sliding_window
    norms = None
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight, attention.k_norm.weight
    norm, mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    heads: list[nn.Linear] = [attention.q_proj, attention.k_proj, attention.v_proj]
    gates: list[nn.Linear] = [mlp.gate_proj, mlp.up_proj]
    if joined:
        heads, gates = [_joined(heads, norm)], [_joined(gates, mlp_norm)]
    return _Layer(
        norm=None if joined else norm,
        heads=[make_product(linear) for linear in heads],
        head_norms=norms,
        out=make_product(attention.o_proj),
        mlp_norm=None if joined else mlp_norm,
        gates=[make_product(linear) for linear in gates],
        activation=mlp.act_fn,
        down=make_product(mlp.down_proj),
        window=window,
    )


@torch.no_grad()
def _joined(linears: list[nn.Linear], norm: Tensor) -> nn.Linear:
    """One layer of all rows, with the norm's weight and the root of D folded into its matrix."""
    weight = torch.cat([linear.weight for linear in linears]) * (norm * len(norm) ** 0.5)
    has_bias = any(linear.bias is not None for linear in linears)
    joined = skip_init(nn.Linear, weight.shape[1], len(weight), bias=has_bias)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias:
        biases = [
            torch.zeros_like(one.weight[:, 0]) if one.bias is None else one.bias.data
            for one in linears
        ]
        joined.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return joined


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """(R, G, Q, d) of as many queries over (R, G, visible, d) keys and values."""
    if not (torch.compiler.is_compiling() and keys.device.type == "cpu"):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # Plain sums: the compiler makes loops of them that are quicker for so few queries.
    scores = (queries.unsqueeze(-2) * keys.unsqueeze(2)).sum(-1) * queries.shape[-1] ** -0.5
    scores = scores + mask
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    # Blocks first: each addition waits for the one before, and short sums can overlap. Divided once
    # at the end, not each weight for each of its d numbers.
    blocks = values.shape[2] // BLOCK_SIZE, BLOCK_SIZE
    summed = weights.unflatten(-1, blocks).unsqueeze(-1) * values.unflatten(2, blocks).unsqueeze(2)
    return summed.sum(-2).sum(-2) / weights.sum(-1, keepdim=True)


def _products(hidden: Tensor, products: list[Product]) -> Tensor:
    results = [product(hidden) for product in products]
    return results[0] if len(results) == 1 else torch.cat(results, dim=-1)
