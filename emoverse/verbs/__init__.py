"""The command line of each step: what it takes, and the step function it calls."""
