"""Train and evaluate a model: ``python run_recbole_vae.py --model=MultVAE --dataset=ml-100k --config_files=my.yaml``."""

import sys

from recbole_vae.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
