"""The command line: one subcommand a file, loaded when it is asked for."""
