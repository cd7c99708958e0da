"""One module per tool: each is run in a process of its own, in the tool's environment."""
