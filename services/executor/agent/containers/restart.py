"""Whether and when a container starts again after its exit. Pure.

Source: Docker's restart policies: back-off from 100 ms, doubling to one minute, reset after 10 s of running.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.contracts.docker import RestartPolicy

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STEADY_AFTER_S = 10.0


@dataclass(slots=True)
class Backoff:
    """The pause before the next restart; remembers the last one."""

    delay_s: float = 0.0

    def next_delay_s(self, ran_s: float) -> float:
        """The pause after a run of `ran_s` seconds."""
        if self.delay_s == 0.0 or ran_s >= STEADY_AFTER_S:
            self.delay_s = FIRST_DELAY_S
        else:
            self.delay_s = min(self.delay_s * 2, LONGEST_DELAY_S)
        return self.delay_s


def should_restart(policy: RestartPolicy, *, exit_code: int, restart_count: int, manually_stopped: bool) -> bool:
    """Whether the policy asks for another start.

    Args:
        restart_count: Restarts by policy so far.
        manually_stopped: Whether a user stopped it, which every policy respects until the next start.
    """
    if manually_stopped:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            limit = policy.maximum_retry_count
            return exit_code != 0 and (limit == 0 or restart_count < limit)
        case _:
            return False


def should_start_at_boot(policy: RestartPolicy, *, exit_code: int, restart_count: int, manually_stopped: bool) -> bool:
    """Whether a container whose process is gone with the machine is started when the agent comes up.

    ``always`` starts again even after a manual stop: that is what tells it from ``unless-stopped``.
    """
    if policy.name == "always":
        return True
    return should_restart(policy, exit_code=exit_code, restart_count=restart_count, manually_stopped=manually_stopped)
