"""Training: the loop, the optimiser, averages of the weights."""
