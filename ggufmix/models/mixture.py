"""Routed experts beside shared ones, behind some dense blocks: DeepSeek and those built like it."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from .block import GATE_UP_DOWN, Block
from .config import Config


@dataclass(frozen=True, slots=True)
class Mixture:
    """The feed-forward networks of a model.

    hidden       width of the model
    n            routed experts
    width        of one expert
    shared       experts that every token goes through, stored as one that is as much wider
    dense        leading blocks with a plain network
    dense_width  of that network
    bias         whether a bias corrects the router's choice
    prefix       of routed and shared experts in a block of the checkpoint
    parts        what it calls gate, up and down of a routed expert
    """

    hidden: int
    n: int
    width: int
    shared: int
    dense: int
    dense_width: int
    bias: bool
    prefix: str = "mlp."
    parts: tuple[str, str, str] = GATE_UP_DOWN

    @classmethod
    def read(cls, config: Config, *, bias: bool) -> Mixture:
        """The sizes in a config. Raises ModelError for sizes that make no sense."""
        for key, value in (("moe_layer_freq", 1), ("mlp_bias", False)):
            config.only(key, value)
        return cls(
            config.integer("hidden_size"),
            routed(config),
            config.integer("moe_intermediate_size"),
            config.integer("n_shared_experts"),
            leading_dense(config),
            config.integer("intermediate_size"),
            bias,
        )

    def place(self, block: Block) -> None:
        """Place the network of one block."""
        if block.layer is not None and block.layer < self.dense:
            stored = "mlp." if "mlp.up_proj.weight" in block else self.prefix  # as saved anew
            block.mlp(stored, self.dense_width, self.hidden, to="mlp.")
            return
        at = self.prefix
        block.place(f"{at}gate.weight", self.n, self.hidden)
        if self.bias:
            to = f"{at}gate.e_score_correction.bias"
            block.place(f"{at}gate.e_score_correction_bias", self.n, to=to)
        block.experts(
            "mlp.experts.",
            self.n,
            self.width,
            self.hidden,
            stored=f"{at}experts.",
            parts=self.parts,
        )
        block.mlp(f"{at}shared_experts.", self.shared * self.width, self.hidden)


def routed(config: Config) -> int:
    """How many routed experts there are. Raises ModelError for sizes that make no sense."""
    n, used = config.integer("n_routed_experts"), config.integer("num_experts_per_tok")
    if used > n:
        raise ModelError(
            f"config.json: num_experts_per_tok: expected at most the {n} n_routed_experts, "
            f"got {used}"
        )
    groups = config.integer("n_group") if config.find("n_group") else 1
    if groups > 1:
        if n % groups or n < 2 * groups:
            raise ModelError(
                f"config.json: n_group: expected groups of two or more of the {n} "
                f"n_routed_experts, got {groups}"
            )
        if config.integer("topk_group") > groups:
            raise ModelError(
                f"config.json: topk_group: expected at most the {groups} of n_group, "
                f"got {config.integer('topk_group')}"
            )
    return n


def leading_dense(config: Config) -> int:
    """How many blocks in front have a plain network: `first_k_dense_replace`, or a word for each
    block in `mlp_layer_types`; 1 if neither is stated.

    Raises ModelError if plain networks lie elsewhere too.
    """
    kinds, n_layers = config.find("mlp_layer_types"), config.integer("num_hidden_layers")
    listed = kinds.count("dense") if isinstance(kinds, list) else 1
    dense = config.filled(first_k_dense_replace=listed).integer("first_k_dense_replace", least=0)
    words = ["dense"] * min(dense, n_layers) + ["sparse"] * (n_layers - dense)
    if kinds not in (None, words):
        raise ModelError(
            f"config.json: mlp_layer_types: expected {dense} dense (first_k_dense_replace) in "
            f"front of sparse ones, got {kinds!r}"
        )
    return dense
