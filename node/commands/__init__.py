"""The commands of the program `asyncfl`, one file each. None imports torch before it has to."""
