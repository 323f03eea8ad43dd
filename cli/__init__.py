"""The command `ibkd`: one module a command, each a thin layer over the library."""
