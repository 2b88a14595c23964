"""Parts of which the models are composed; each is short and can be tested alone."""
