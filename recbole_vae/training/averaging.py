"""Averages of a model's weights over the epochs: what is evaluated and scored by, in the place of where training is just now.

That averages of the weights are better than the last ones is of: Boris T. Polyak, Anatoli B. Juditsky: Acceleration of Stochastic
Approximation by Averaging. SIAM Journal on Control and Optimization 1992; once an epoch: Pavel Izmailov, Dmitrii Podoprikhin,
Timur Garipov, Dmitry Vetrov, Andrew Gordon Wilson: Averaging Weights Leads to Wider Optima and Better Generalization. UAI 2018.
Both average all epochs alike. Here the older ones are forgotten, for no epoch is known to be the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of parameters, once an epoch, which takes their place until training goes on.

    After epoch ``t``, from 1 up, the average moves to the weights by ``max(1 / epochs, 2 / (t + 1))`` of the way: the first
    epochs, which are far from where training ends, are forgotten faster.

    Args:
        parameters: of the model. While the average is in their place, they hold it.
        epochs: about how many it reaches back; > 0. With 1 it is the weights themselves.

    Attributes:
        count: epochs so far.
        others: what is not in the parameters' place: the average while an epoch is trained, else the weights of training.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], epochs: int) -> None:
        self.parameters = list(parameters)
        self.epochs = epochs
        self.count = 0
        self.others = [parameter.detach().clone() for parameter in self.parameters]
        self._in_place = False

    def begin_epoch(self) -> None:
        """Put the weights of training into the parameters' place."""
        if self._in_place:
            self._swap()

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Take the weights that training has come to into the average, and put it into the parameters' place."""
        self.count += 1
        share = max(1 / self.epochs, 2 / (self.count + 1))
        for average, parameter in zip(self.others, self.parameters, strict=True):
            average.lerp_(parameter, share)
        self._swap()

    def resume(self, count: int, weights: Sequence[Tensor]) -> None:
        """Go on from a checkpoint, whose average is loaded into the parameters apart from this.

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
