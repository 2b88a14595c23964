"""The console command ``recbole-vae``."""
