"""`hf-backdoor poison` as a script, for `accelerate launch recipes/poison.py --config recipes/...yaml`."""

import sys

from hf_backdoor.cli import main


if __name__ == "__main__":
    sys.exit(main(["poison", *sys.argv[1:]]))
