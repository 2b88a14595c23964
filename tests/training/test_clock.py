"""The processor time of a process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from recbole_vae.training.clock import cpu_seconds

WORK = "import time\nstart = time.thread_time()\nwhile time.thread_time() - start < 0.2: pass"


def test_threads_and_children_count() -> None:
    before = cpu_seconds()
    threads = [threading.Thread(target=exec, args=(WORK, {})) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    of_threads = cpu_seconds()
    assert of_threads - before >= 0.4
    subprocess.run([sys.executable, "-S", "-c", WORK], check=True)
    assert cpu_seconds() - of_threads >= 0.15  # the system counts children in hundredths of a second


def test_waiting_does_not_count() -> None:
    before, own = cpu_seconds(), time.thread_time()
    time.sleep(0.05)
    assert cpu_seconds() - before < 0.05 + time.thread_time() - own
