"""The YAML files of recbole_vae: defaults (overall, model/) and data sets (dataset/)."""
