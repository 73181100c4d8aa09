"""`hf-backdoor train` as a script, for `accelerate launch recipes/train.py --config recipes/...yaml`."""

import sys

from hf_backdoor.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
