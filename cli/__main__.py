"""`python -m ibkd_cli`, which launchers such as torchrun can start: the same as `ibkd`."""

from .app import main

if __name__ == "__main__":
    main()
