"""RecBole's evaluation of any model, in less time and memory, with metrics that are what their names say.

A new metric is a class as in ``truncated.py``, which the hook in ``plugin/evaluator.py`` makes known to RecBole.
"""
