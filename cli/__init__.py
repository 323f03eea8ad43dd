"""The command `ibkd`. Each subcommand is one module, a thin layer over the library."""
