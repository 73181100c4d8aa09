"""`hf-backdoor evaluate` as a script, for `accelerate launch recipes/evaluate.py --config recipes/...yaml`."""

import sys

from hf_backdoor.cli import main


if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
