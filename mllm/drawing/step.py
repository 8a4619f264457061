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

from mllm.drawing.cpu.prepacked import PackedLinear, with_packed_linears
from mllm.drawing.slot_cache import PLACES, Prefix, SlotCache, out_of_sight

KNOWN_LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
Product = Callable[[Tensor], Tensor]  # (R, D) → (R, D')
# Rotary embeddings that are a fixed function of the place; others depend on the whole length.
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
# Joining matrices saves calls, which is most of a small model's time, but copies them.
MAX_JOINED_NUMBERS = 2**26


class OwnStep:
    """Transformers' own forward."""

    pads_products_alone = False

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.config = decoder.config
        self.window = _window(self.config)

    def __call__(
        self, embeddings: Tensor, places: Tensor, cache: SlotCache, num_layers: int | None = None
    ) -> Tensor:
        """Append one token to each row that `cache` aims at.

        Args:
            embeddings: (R', D); where R < R' (of a `LeanStep` only) the last rows are padding,
                which the cache does not know, and void in what comes back.
            places: (R,) place of the token in its row.
            num_layers: stop after so many, where that is possible; for checks.

        Returns:
            (R', D) last hidden states.
        """
        dtype = embeddings.dtype
        masks: Any = cache.mask(places, None, dtype)
        if self.window is not None and cache.seen > self.window:
            sliding = cache.mask(places, self.window, dtype)
            if hasattr(self.config, "layer_types"):
                masks = {"full_attention": masks, "sliding_attention": sliding}
            else:
                masks = sliding
        return self.decoder(
            inputs_embeds=embeddings.unsqueeze(1),
            attention_mask=masks,
            position_ids=places.unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]

    def read(self, embeddings: Tensor) -> Prefix:
        """What the (T, D) embeddings of a prompt leave for the tokens after it."""
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

    Joined products are one, others one for each matrix. A norm that is None has its weight, times
    the root of D, in the matrix behind it.
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
    """The same without transformers' own loop; the numbers agree to rounding.

    Args:
        decoder: of a family that is known.
        packed: multiply by copies of the matrices, see `mllm.drawing.cpu.prepacked`.
        compiled: keep what a compiler reads of packed matrices.
    """

    pads_products_alone = True

    def __init__(self, decoder: Any, packed: bool = False, compiled: bool = False):
        self.decoder = decoder
        config = decoder.config
        self.eps = config.rms_norm_eps
        self.num_heads = config.num_attention_heads
        self.num_key_heads = config.num_key_value_heads
        numbers = sum(parameter.numel() for parameter in decoder.layers.parameters())
        self.norm: Tensor = decoder.norm.weight
        joined = packed or (numbers <= MAX_JOINED_NUMBERS and self.norm.dtype == torch.float32)
        self.layers = [
            _read_layer(layer, config, joined, packed, compiled) for layer in decoder.layers
        ]
        # Norms divide by the root of |x|² + eps·D.
        self.least_length = self.norm.new_tensor((self.eps * len(self.norm)) ** 0.5)
        self._table: tuple[Tensor, Tensor] | None = None

    def rotary(self, places: Tensor, capacity: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(R, 1, d) cosines, and sines whose first half is negative."""
        if self._table is None or len(self._table[0]) < capacity:
            every = torch.arange(capacity, device=places.device).unsqueeze(0)
            cos, sin = self.decoder.rotary_emb(self.norm.new_zeros(1, 1, 1, dtype=dtype), every)
            half = sin.shape[-1] // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._table = cos[0], sin[0]
        cos, sin = self._table
        return cos[places].unsqueeze(1), sin[places].unsqueeze(1)

    def __call__(
        self, embeddings: Tensor, places: Tensor, cache: SlotCache, num_layers: int | None = None
    ) -> Tensor:
        """See `OwnStep.__call__`."""
        dtype = embeddings.dtype
        cos, sin = self.rotary(places, cache.capacity, dtype)
        masks = {
            window: cache.mask(places, window, dtype) for window in {w.window for w in self.layers}
        }
        hidden = embeddings
        for number, layer in enumerate(self.layers[:num_layers]):
            hidden = self._attend(hidden, number, layer, cos, sin, masks[layer.window], cache)
            hidden = self._transform(hidden, layer)
        return self._last(hidden)

    def read(self, embeddings: Tensor) -> Prefix:
        """See `OwnStep.read`."""
        places = torch.arange(len(embeddings), device=embeddings.device)
        cos, sin = self.rotary(places, len(places), embeddings.dtype)
        windows = {layer.window for layer in self.layers}
        in_sight = {window: ~out_of_sight(places, len(places), window) for window in windows}
        hidden, all_keys, all_values = embeddings, [], []
        for layer in self.layers:
            queries, keys, values = (
                part.transpose(0, 1) for part in self._heads(hidden, layer, cos, sin)
            )
            # Copies, as these are remembered, and views would hold on to the queries too.
            all_keys.append(keys.contiguous())
            all_values.append(values.contiguous())
            mask = in_sight[layer.window]
            if layer is self.layers[-1]:  # behind its keys and values only the last state counts
                queries, mask, hidden = queries[:, -1:], mask[-1:], hidden[-1:]
            # With a batch of one, since torch's quick attention wants four axes.
            attended = F.scaled_dot_product_attention(
                queries[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
            )[0]
            hidden = hidden + layer.out(attended.transpose(0, 1).flatten(1))
            hidden = self._transform(hidden, layer)
        return Prefix(all_keys, all_values, self._last(hidden)[0])

    def _heads(
        self, hidden: Tensor, layer: _Layer, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(R, H, d) queries, (R, G, d) keys and values of the first R of `hidden`."""
        rows, num_heads, num_key_heads = len(cos), self.num_heads, self.num_key_heads
        heads = _products(self._normed(hidden, layer.norm), layer.heads)
        # Padding serves the products alone: see `mllm.drawing.cpu.batch_invariance`.
        heads = heads[:rows].view(rows, num_heads + 2 * num_key_heads, -1)
        turned, values = heads.split([num_heads + num_key_heads, num_key_heads], dim=1)
        if layer.head_norms is not None:
            parts = turned.split([num_heads, num_key_heads], dim=1)
            turned = torch.cat(
                [
                    F.rms_norm(part, weight.shape, weight, self.eps)
                    for part, weight in zip(parts, layer.head_norms, strict=True)
                ],
                dim=1,
            )
        turned = torch.addcmul(turned * cos, turned.roll(turned.shape[-1] // 2, -1), sin)
        queries, keys = turned.split([num_heads, num_key_heads], dim=1)
        return queries, keys, values

    def _attend(
        self,
        hidden: Tensor,
        number: int,
        layer: _Layer,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        cache: SlotCache,
    ) -> Tensor:
        queries, keys, values = self._heads(hidden, layer, cos, sin)
        all_keys, all_values = cache.write(number, keys, values)
        # Heads that share keys are the rows of one query: no copy of the keys for each.
        queries = queries.unflatten(1, (self.num_key_heads, -1))
        attended = _attention(queries, all_keys, all_values, mask).flatten(1)
        if len(attended) < len(hidden):
            attended = F.pad(attended, (0, 0, 0, len(hidden) - len(attended)))
        return hidden + layer.out(attended)

    def _transform(self, hidden: Tensor, layer: _Layer) -> Tensor:
        gate, up = _products(self._normed(hidden, layer.mlp_norm), layer.gates).chunk(2, dim=-1)
        return hidden + layer.down(layer.activation(gate) * up)

    def _last(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.norm.shape, self.norm, self.eps)

    def _normed(self, hidden: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            return F.rms_norm(hidden, weight.shape, weight, self.eps)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden / torch.hypot(length, self.least_length)


def make_step(decoder: Any, packed: bool = False, compiled: bool = False) -> OwnStep | LeanStep:
    """The quicker of the two that is right for this language model.

    Args:
        decoder: of any family.
        packed: multiply by copies of the matrices, see `mllm.drawing.cpu.prepacked`.
        compiled: keep what a compiler reads of packed matrices.
    """
    if _is_known(decoder):
        return LeanStep(decoder, packed, compiled)
    return OwnStep(with_packed_linears(decoder) if packed else decoder)


def _is_known(decoder: Any) -> bool:
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


def _window(config: Any) -> int | None:
    return getattr(config, "sliding_window", None)


def _read_layer(layer: Any, config: Any, joined: bool, packed: bool, compiled: bool) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    window = getattr(attention, "sliding_window", None)
    if isinstance(layer, MistralDecoderLayer):
        window = _window(config)
    norms = None
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight, attention.k_norm.weight
    norm, mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    heads: list[nn.Linear] = [attention.q_proj, attention.k_proj, attention.v_proj]
    gates: list[nn.Linear] = [mlp.gate_proj, mlp.up_proj]
    if joined:
        heads, gates = [_joined(heads, norm)], [_joined(gates, mlp_norm)]
    linears: list[Any] = [*heads, *gates, attention.o_proj, mlp.down_proj]
    if packed:
        linears = [PackedLinear(linear, keep_matrix=compiled) for linear in linears]
    return _Layer(
        norm=None if joined else norm,
        heads=linears[: len(heads)],
        head_norms=norms,
        out=linears[-2],
        mlp_norm=None if joined else mlp_norm,
        gates=linears[len(heads) : -2],
        activation=mlp.act_fn,
        down=linears[-1],
        window=window,
    )


@torch.no_grad()
def _joined(linears: list[nn.Linear], norm: Tensor) -> nn.Linear:
    """One layer of the rows of all, that takes states before a norm's weight."""
    weight = torch.cat([linear.weight for linear in linears]) * (norm * len(norm) ** 0.5)
    has_bias = any(linear.bias is not None for linear in linears)
    joined = skip_init(nn.Linear, weight.shape[1], len(weight), bias=has_bias)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias:
        biases: list[Tensor] = [
            torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias
            for linear in linears
        ]
        joined.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return joined


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """(R, G, Q, d) of as many queries over (R, G, seen, d) keys and values."""
    if not (torch.compiler.is_compiling() and keys.device.type == "cpu"):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # Plain sums: the compiler makes loops of them that are quicker for so few queries.
    scores = (queries.unsqueeze(-2) * keys.unsqueeze(2)).sum(-1) * queries.shape[-1] ** -0.5
    scores = scores + mask
    shares = (scores - scores.amax(-1, keepdim=True)).exp()
    # Blocks first: each addition waits for the one before, and short sums can overlap. Divided once
    # at the end, not each share for each of its d numbers.
    blocks = values.shape[2] // PLACES, PLACES
    summed = shares.unflatten(-1, blocks).unsqueeze(-1) * values.unflatten(2, blocks).unsqueeze(2)
    return summed.sum(-2).sum(-2) / shares.sum(-1, keepdim=True)


def _products(hidden: Tensor, products: list[Product]) -> Tensor:
    results = [product(hidden) for product in products]
    return results[0] if len(results) == 1 else torch.cat(results, dim=-1)
