"""The worker: takes jobs that the broker rings for, and runs each in a process of its own.

attendant   looks after one job: starts its process, ends it at its limits
child       that process: runs the job's verb and says how far it is
faults      what an error means for a job: over, or to be tried again
kinds       the verbs: train, retrain
caretaker   finds jobs whose worker died and jobs nobody was told of
"""
