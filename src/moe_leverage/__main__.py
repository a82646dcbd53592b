"""`python -m moe_leverage` is `moe-leverage`."""

from moe_leverage.cli import main

if __name__ == "__main__":
    main()
