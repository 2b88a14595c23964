"""Speed and memory, measured beside RecBole."""
