"""What a trained model knows: explanations, latent variables, uncertainty, synthetic users."""
