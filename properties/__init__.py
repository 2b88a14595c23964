"""The YAML files of recbole_vae: the defaults of all its models (overall.yaml) and of each (model/)."""
