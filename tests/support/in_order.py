"""`python in_order.py RESULTS < commands.json`: commands of this project one after another in one process, which reads
in the libraries once. What each came to is a line of RESULTS.
"""

import json
import runpy
import sys
import time
from pathlib import Path


def run(words: list[str]) -> int:
    """The exit code of `python -m MODULE ...`."""
    _, _, module, *arguments = words
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> None:
    results = Path(sys.argv[1])
    sys.path.insert(0, "")
    for words in json.load(sys.stdin):
        print(f"$ {' '.join(words)}", flush=True)
        start = time.monotonic()
        code = run(words)
        with results.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"words": words, "code": code, "seconds": time.monotonic() - start}) + "\n")


if __name__ == "__main__":
    main()
