"""Commands as a person would type them, read back by a shell."""

from __future__ import annotations

import shlex
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from recbole_vae.options.shell import joined, quoted


def test_a_mapping_stands_in_double_quotes() -> None:
    words = ["recbole-vae", "run", "--eval_args={'split': {'LS': 'test_only'}}", "--dataset=a", "--data_path=my data"]
    typed = """recbole-vae run --eval_args="{'split': {'LS': 'test_only'}}" --dataset=a --data_path="my data\""""
    assert joined(words) == typed
    assert quoted("[3, 5]") == '"[3, 5]"'
    assert quoted("costs $5!") == "'costs $5!'"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
def test_a_command_is_read_as_it_was(words: list[str]) -> None:
    assert shlex.split(joined(words)) == words


def test_a_shell_reads_the_same() -> None:
    words = ["--a={'b': 'c d'}", "$HOME `id` \\ !", 'say "hello"', "it's", "", "--x=", "*", "a\nb"]
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {joined(words)}"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == words
