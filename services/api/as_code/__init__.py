"""Configuration as code: what a file would change, making it so, and the file of what is there."""
