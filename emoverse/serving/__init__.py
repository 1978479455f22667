"""Answer questions about a clip or a dialogue with an exported model, on the command line or on a page."""
