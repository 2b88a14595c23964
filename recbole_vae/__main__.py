"""``python -m recbole_vae``: the console command."""

import sys

from recbole_vae.cli import main

sys.exit(main())
