"""Averages of a model's weights over the epochs, by which it is evaluated and scores, instead of by its latest weights.

References: Boris T. Polyak, Anatoli B. Juditsky: Acceleration of Stochastic Approximation by Averaging. SIAM Journal on Control
and Optimization 1992. Pavel Izmailov, Dmitrii Podoprikhin, Timur Garipov, Dmitry Vetrov, Andrew Gordon Wilson: Averaging Weights
Leads to Wider Optima and Better Generalization. UAI 2018 (once an epoch). Both give all epochs the same weight. Here older
epochs are forgotten, because no epoch is known to be the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of parameters, updated after each epoch. It replaces them until the next epoch begins.

    After epoch ``t`` (from 1), the average moves by ``max(1 / epochs, 2 / (t + 1))`` of the way to the weights. So the first
    epochs, which are far from where training ends, are forgotten faster.

    Args:
        parameters: of the model. Between epochs they hold the average.
        epochs: about how many epochs the average reaches back, > 0. With 1 it is the weights themselves.

    Attributes:
        count: epochs so far.
        others: what the parameters do not hold: the average during an epoch, the weights of training between epochs.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], epochs: int) -> None:
        self.parameters = list(parameters)
        self.epochs = epochs
        self.count = 0
        self.others = [parameter.detach().clone() for parameter in self.parameters]
        self._in_place = False

    def begin_epoch(self) -> None:
        """Put the weights of training into the parameters."""
        if self._in_place:
            self._swap()

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Update the average by the weights of this epoch, and put it into the parameters."""
        self.count += 1
        share = max(1 / self.epochs, 2 / (self.count + 1))
        for average, parameter in zip(self.others, self.parameters, strict=True):
            average.lerp_(parameter, share)
        self._swap()

    def resume(self, count: int, weights: Sequence[Tensor]) -> None:
        """Continue from a checkpoint. Its average has to be loaded into the parameters separately.

        Args:
            count: see above.
            weights: the weights of training, in the order and the shapes of the parameters.
        """
        self.count, self._in_place = count, True
        for other, weight in zip(self.others, weights, strict=True):
            other.copy_(weight)

    def _swap(self) -> None:
        self._in_place = not self._in_place
        for place, parameter in enumerate(self.parameters):
            parameter.data, self.others[place] = self.others[place], parameter.data
