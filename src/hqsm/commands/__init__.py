"""The subcommands of `hqsm`, one module each: the module's docstring is the help, `add_arguments` and `run` do the rest."""
