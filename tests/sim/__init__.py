"""
The simulator: whole Raft clusters in one process, in virtual time, from one seed (docs/simulation.md).

    Simulation (cluster.py)                      one run: chaos, then quiet, then it must converge
      |-- Scheduler      virtual time: the only clock, one heap of calls
      |-- Network        loses, repeats, delays, reorders, cuts links one way or both
      |-- Host  x n      one process: drives a fastkv.raft.Node as fastkv's node does
      |     |-- Disk     model_disk.py: records with a durable prefix; log_disk.py: the real log on faulty files
      |     `-- Machine  machine.py: a dict, or a real engine in memory
      |-- Clients        puts, compare-and-swaps and linearizable reads, each with a timeout
      |-- Nemesis        faults.py: one function for each kind of fault
      `-- Checkers       checkers.py: one method for each promised guarantee, asked after every step

Invariants:
* everything random comes from one random.Random(seed): the same seed and faults give the same run, call for call.
* nothing here sleeps, reads a clock, opens a file or a socket.
* a broken guarantee raises Violation, which names the guarantee; so does an InvariantError of the core.

canaries.py holds deliberately broken variants that must be caught, `python -m sim` is the command behind `make sim`.
"""
