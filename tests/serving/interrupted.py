"""A ``recommend`` that gets Ctrl-C in its work."""


def interrupted(checkpoint: str, out: str) -> str:
    """Return a script that runs ``recommend`` for all users, and gets the signal after five batches.

    Args:
        checkpoint: the whole option, ``--checkpoint=FILE``.
        out: name of the file to write.
    """
    return f"""
import os, signal, sys
from recbole_vae.serving import batch
from recbole_vae.cli.main import main
original = batch.rank
def rank(*args):
    for number, each in enumerate(original(*args)):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        yield each
batch.rank = rank
sys.exit(main(["recommend", "{checkpoint}", "--out={out}"]))
"""
