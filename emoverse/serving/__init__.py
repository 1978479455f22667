"""Answer questions about single clips with an exported model, on the command line and in a browser."""
