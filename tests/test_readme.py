"""What the README shows does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_model_of_ones_own_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "class Factors" in block)
    Path("factors.py").write_text(code.replace('"epochs": 5', '"epochs": 1, "show_progress": False'), encoding="utf-8")
    done = subprocess.run([sys.executable, "factors.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ndcg@10" in done.stdout
