"""Locks held by other processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vit_interactions

# The package itself takes seconds to import.
HOLD = """
import os, sys, time, types
from pathlib import Path
package = sys.modules["vit_interactions"] = types.ModuleType("vit_interactions")
package.__path__ = [sys.argv[2]]
from vit_interactions.utilities.locks import {lock}
with {lock}(Path(sys.argv[1])):
    if {fork} and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""

PACKAGE = str(Path(vit_interactions.__file__).parent)


@contextmanager
def held(out: Path, lock: str = "locked", *, fork: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a lock."""
    code = HOLD.format(lock=lock, fork=fork)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out), PACKAGE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
