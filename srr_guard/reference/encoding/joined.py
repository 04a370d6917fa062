"""Joined weights: a Llama-like block's linear layers that read the same input, as one matrix.

Fused encoding and fused decoding multiply by the same joined matrices, so a model that scores and
generates holds them once; the block's own parameters become views of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
_HELD = "srr_guard_joined"


@dataclass(frozen=True, eq=False)
class JoinedBlock:
    """The weights of one block, each as (outputs, inputs).

    Attributes:
        qkv: Queries, keys and values side by side.
        bias: Their bias; None where there is none.
        out: From heads back to the residual stream.
        gate_up: Gates, then the values that they gate.
        down: Back to the residual stream.
        norms: The RMS norms before attention and before the MLP, as modules.
        head: Width of one head.
        heads: Heads of the queries.
        groups: Heads of the keys, and of the values.
    """

    qkv: Tensor
    bias: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor
    norms: tuple[Any, Any]
    head: int
    heads: int
    groups: int


def joined(block: Any) -> JoinedBlock:
    """Join the weights of a block that `is_known`; on the second call they are at hand.

    The weights are laid out anew, which takes them out of the file they were mapped from. Any
    other forward pass of the block gives what it gave before.
    """
    held = vars(block).get(_HELD)
    if isinstance(held, JoinedBlock):
        return held
    attention, mlp = block.self_attn, block.mlp
    qkv, bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
    made = JoinedBlock(
        qkv=qkv,
        bias=bias,
        out=attention.o_proj.weight.data,
        gate_up=_joined(mlp.gate_proj, mlp.up_proj)[0],
        down=mlp.down_proj.weight.data,
        norms=(block.input_layernorm, block.post_attention_layernorm),
        head=attention.head_dim,
        heads=attention.q_proj.out_features // attention.head_dim,
        groups=attention.k_proj.out_features // attention.head_dim,
    )
    vars(block)[_HELD] = made
    return made


def is_known(block: Any) -> bool:
    """True if a block has the parts of a Llama block and no others."""
    from torch import nn
    from transformers.activations import SiLUActivation

    def parts(module: Any) -> dict[str, Any]:
        return dict(module.named_children())

    if set(parts(block)) != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    found = parts(block.self_attn) | parts(block.mlp)
    linears: list[Any] = [found.get(f"{name}_proj") for name in _LINEARS]
    if len(found) != len(linears) + 1 or any(type(linear) is not nn.Linear for linear in linears):
        return False
    return (
        len({linear.bias is None for linear in linears[:3]}) == 1
        and all(linear.bias is None for linear in linears[3:])
        and isinstance(found.get("act_fn"), (nn.SiLU, SiLUActivation))
        and hasattr(block.input_layernorm, "variance_epsilon")
    )


def _joined(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weights (outputs together, inputs) and bias of layers, whose weights become views of it."""
    import torch
    from torch import nn

    outputs = [linear.out_features for linear in linears]
    whole = torch.cat([linear.weight.data for linear in linears])
    for linear, rows in zip(linears, torch.split(whole, outputs), strict=True):
        linear.weight = nn.Parameter(rows, requires_grad=False)
    if linears[0].bias is None:
        return whole, None
    return whole, torch.cat([linear.bias.data for linear in linears])
