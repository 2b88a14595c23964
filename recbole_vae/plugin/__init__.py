"""Everything that changes RecBole."""
