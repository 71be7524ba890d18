"""Recording what was asked of the engine: what services write, before the audit service numbers and keeps it.

::

    edge ── policy ── masking ── Recorder ── Spool (a file) ──► audit service ── log, checkpoints, deliveries
"""
