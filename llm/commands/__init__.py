"""The light commands, one a file: `main(arguments) -> exit code`. torch is imported only when one has work to do."""
