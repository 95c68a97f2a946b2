"""What `docs/reliability.md` promises, tried at random moments: kills, interrupts, full disks, two at once, mutated
files, a long stream. `make torture` runs all of it, `python -m torture --help` says how to run some."""
