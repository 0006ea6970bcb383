"""`python -m onesheet`, for launchers such as torchrun that start modules."""

from onesheet.cli import main

main()
