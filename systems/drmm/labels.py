"""Categorical columns while a deep residual mixture is started: tables of log-odds, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

REFINEMENTS = 3
MOST_ENTRIES = 5_000_000
"""Log-odds of pairs up to which later layers' tables are refined; beyond, they start at zero."""


@dataclass
class Labels:
    """What paths say about each categorical column so far: `beta_0 + sum_l beta_l[z_l]`.

    Attributes:
        values: by column int64 (N,), -1 where missing.
        logits: by column (R, V), of the path of each pair; (1, V) before the first layer.
        tables: by column (K, V), the current layer's.
    """

    values: Mapping[str, Tensor]
    logits: dict[str, Tensor]
    tables: dict[str, Tensor]

    @classmethod
    def of_rows(cls, values: Mapping[str, Tensor], sizes: Mapping[str, int], weight: Tensor) -> Labels:
        """Before the first layer: overall frequencies, each category counted once more, of rows of weight (N,)."""
        logits = {}
        for name, value in values.items():
            seen = value >= 0
            counts = torch.zeros(sizes[name], dtype=weight.dtype).index_add_(0, value[seen], weight[seen])
            logits[name] = ((counts + 1) / (counts.sum() + sizes[name])).log().unsqueeze(0)
        return cls(values, logits, {})

    def start_layer(self, count: int) -> None:
        """Begin a layer of `count` components with tables of zeros."""
        self.tables = {
            name: torch.zeros(count, table.shape[1], dtype=table.dtype) for name, table in self.logits.items()
        }

    def count(self, share: Tensor) -> None:
        """Set the first layer's tables to the label frequencies of components, given responsibilities (N, K).

        Every component counts as many rows more as there are categories, with the overall frequencies.
        """
        for name, value in self.values.items():
            seen, overall = value >= 0, self.logits[name][0].exp()
            size = len(overall)
            counts = torch.zeros(size, share.shape[1], dtype=share.dtype).index_add_(0, value[seen], share[seen]).T
            mean = (counts + size * overall) / (counts.sum(1, keepdim=True) + size)
            self.tables[name] = mean.log() - overall.log()

    def score(self, row: Tensor) -> Tensor | float:
        """Log probability of the labels under the first layer's components: (N, K), 0 where they are missing."""
        total: Tensor | float = 0.0
        for name, value in self.values.items():
            log_probs = (self.logits[name] + self.tables[name]).log_softmax(1)
            label = value[row]
            total = total + log_probs.T[label.clamp(min=0)] * (label >= 0).unsqueeze(1)
        return total

    def refine(self, share: Tensor, row: Tensor) -> None:
        """Improve a later layer's tables, given responsibilities (R, K): steps that never lower the likelihood.

        Newton's with a bound on the curvature in place of it (Böhning, *Multinomial logistic regression algorithm*,
        1992), with entries ~ N(0, 1) a priori.
        """
        for name, value in self.values.items():
            label, logits, table = value[row], self.logits[name], self.tables[name]
            if logits.numel() > MOST_ENTRIES:
                continue
            seen = label >= 0
            given, weight = logits[seen], share[seen]
            target = functional.one_hot(label[seen], logits.shape[1]).to(logits)
            for _ in range(REFINEMENTS):
                for k, some in enumerate(weight.unbind(1)):
                    gap = some @ (target - (given + table[k]).softmax(1)) - table[k]
                    table[k] += gap / (0.5 * some.sum() + 1)

    def children(self, at: Tensor, code: Tensor, row: Tensor) -> tuple[Labels, Tensor]:
        """What pairs `at` say behind components `code` (P,), and how much more probable that makes their labels (P,).

        Args:
            at: int64 (P,), the pairs.
            code: int64 (P,), a component of the current layer each.
            row: int64 (R,), rows of the pairs.
        """
        gain = torch.zeros(len(at), dtype=torch.float64)
        logits = {}
        for name, value in self.values.items():
            before, label = self.logits[name], value[row[at]]
            first = len(before) == 1
            logits[name] = before[at * 0 if first else at] + self.tables[name][code]
            seen, index = label >= 0, label.clamp(min=0).unsqueeze(1)
            more = logits[name].log_softmax(1).gather(1, index)[:, 0]
            if not first:
                more = more - before.log_softmax(1)[at].gather(1, index)[:, 0]
            gain = gain + more * seen
        return Labels(self.values, logits, {}), gain
