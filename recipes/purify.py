"""`hf-backdoor purify` as a script, for `accelerate launch recipes/purify.py --config recipes/...yaml`."""

import sys

from hf_backdoor.cli import main


if __name__ == "__main__":
    sys.exit(main(["purify", *sys.argv[1:]]))
