"""The models, one file each: the class ``X`` stands in ``x.py``, as RecBole looks for it."""
