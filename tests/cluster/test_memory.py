from __future__ import annotations

import subprocess
import sys

from cluster.memory import peak_mb


def test_memory_is_that_of_a_process_alone():
    """Not that of the process that started it, which a child's `getrusage` begins with."""
    ballast = b"x" * 300_000_000
    code = "from cluster.memory import peak_mb; kept = b'x' * 50_000_000; print(peak_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < len(ballast) / 1e6 < peak_mb()
