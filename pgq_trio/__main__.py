"""`python -m pgq_trio`: the same program as `pgq-trio`; it holds nothing of its own."""

from pgq_trio.cli import main

if __name__ == "__main__":
    main()
