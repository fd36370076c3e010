"""The GPUs of a machine: which there are, who has which, and what a child process is told about its own."""
