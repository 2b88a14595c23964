"""The HTTP server: recommendations, explanations and metrics of a checkpoint."""
