"""``python -m recbole_vae``: the console command."""

import sys

from recbole_vae.cli.main import main

sys.exit(main())
